"""Whether a Ray cluster answers at HOST:PORT, in seconds: ``ray.init`` itself would try for minutes, or for ever."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading

from gala.processes.start import interpreter

_CONNECT_S, _GREETING_S, _ANSWER_S, _IMPORT_S = 3.0, 3.0, 5.0, 60.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's preface and an empty SETTINGS frame (RFC 9113, section 3.4). Ray speaks gRPC, which is HTTP/2."""
_FRAME_HEADER, _SETTINGS = 9, 4
_ASK = (
    "import sys; from ray._raylet import GcsClient; print('imported', flush=True); "
    "print(GcsClient(address=sys.argv[1]).internal_kv_get(b'session_name', b'session', timeout=5))"
)


def check_reachable(address: str, given_by: str = "cluster.address") -> None:
    """Raises ValueError, in one line, within about 12 s if nothing answers at ``address``, HOST:PORT, or what answers
    is no Ray cluster. ``given_by`` is the setting, or the variable, that says so."""
    host, _, port = address.rpartition(":")
    stated = f"{given_by}={address}"
    if not 0 < int(port) < 2**16:
        raise ValueError(f"{stated}: a port is a number from 1 to 65535")
    _resolve(host, stated)
    try:
        with socket.create_connection((host, int(port)), _CONNECT_S) as connection:
            if not _speaks_http2(connection):
                raise _no_cluster(stated)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ValueError(
            f"{stated}: nothing answers there ({reason}); is Ray running, with this as its address?"
        ) from None
    if not _knows_ray(address):
        raise _no_cluster(stated)


def _no_cluster(stated: str) -> ValueError:
    return ValueError(f"{stated}: what answers there is no Ray cluster; `ray start --head` prints the address of one")


def _resolve(host: str, stated: str) -> None:
    """Name servers that do not answer would hold ``create_connection`` up for longer than its time-out."""
    found: list[object] = []

    def resolve() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            found.extend(socket.getaddrinfo(host, None))

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(_CONNECT_S)
    if not found:
        raise ValueError(f"{stated}: the name {host} is not known here")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a server's first words are a SETTINGS frame of stream 0, as HTTP/2 wants it."""
    connection.settimeout(_GREETING_S)
    head = b""
    try:
        connection.sendall(_GREETING)
        while len(head) < _FRAME_HEADER:
            more = connection.recv(_FRAME_HEADER - len(head))
            if not more:
                return False
            head += more
    except OSError:
        return False
    return head[3] == _SETTINGS and head[5:] == bytes(4)


def _knows_ray(address: str) -> bool:
    """Whether Ray's own client gets an answer. It is asked in a process that can be ended, because it tries for half a
    minute; importing it does not count."""
    words = [*interpreter(), "-c", _ASK, address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as asked:
        assert asked.stdout is not None
        watch = threading.Timer(_IMPORT_S, asked.kill)
        watch.start()
        try:
            imported = asked.stdout.readline()
            watch.cancel()
            if imported:
                watch = threading.Timer(_ANSWER_S, asked.kill)
                watch.start()
            answered = bool(asked.stdout.read()) and asked.wait() == 0
        finally:
            watch.cancel()
            asked.kill()
    return answered
