"""Hosts in network namespaces of this machine, joined by a network of known bandwidth and delay that can be cut.

Linux, root, ``ip`` (iproute2). Each host has one interface, a TUN device whose other end is read by one relay process:
a packet leaves its host when the link before it is free, at ``rate_bps``, and arrives ``delay_s`` later. A link that is
busy is not read, so the sender's kernel queues, as before a real network card. Packets are large, for a Python process
to move them: what a network really carries is measured, not assumed (``Network.measure``).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import multiprocessing
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

INTERFACE, MTU = "tun0", 60_000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_PROBE_BYTES, _PINGS = 4_000_000, 20
_PROBE = """
import socket, sys, time
role, address, size, pings = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if role == "serve":
    with socket.create_server((address, 5999)) as server:
        print("ready", flush=True)
        peer, _ = server.accept()
        for _ in range(pings):
            peer.recv(1)
            peer.send(b"x")
        left = size
        while left:
            left -= len(peer.recv(min(left, 1 << 20)))
        peer.send(b"x")
else:
    peer = socket.create_connection((address, 5999))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    taken = []
    for _ in range(pings):
        began = time.perf_counter()
        peer.send(b"x")
        peer.recv(1)
        taken.append(time.perf_counter() - began)
    began = time.perf_counter()
    peer.sendall(bytes(size))
    peer.recv(1)
    print(sorted(taken)[pings // 2], 8 * size / (time.perf_counter() - began))
"""


class Network:
    """``hosts`` hosts with addresses ``address(k)``. A context manager: the namespaces go with it."""

    def __init__(self, hosts: int) -> None:
        self.hosts, self._prefix = hosts, f"gala{os.getpid()}-"
        self._taps: list[int] = []

    def __enter__(self) -> Network:
        for k in range(self.hosts):
            _ip("netns", "add", self.name(k))
            self._taps.append(_open_tun(self.name(k)))
            inside = ("-n", self.name(k))
            _ip(*inside, "addr", "add", f"{address(k)}/24", "dev", INTERFACE)
            _ip(*inside, "link", "set", INTERFACE, "mtu", str(MTU), "up")
            _ip(*inside, "link", "set", "lo", "up")
        self._control, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self._relay = context.Process(target=_relay, args=(self._taps, theirs), daemon=True)
        self._relay.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._relay.kill()
        self._relay.join()
        for tap in self._taps:
            os.close(tap)
        for k in range(self.hosts):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self.name(k))

    def name(self, k: int) -> str:
        return f"{self._prefix}{k}"

    def set(self, rate_bps: float = float("inf"), delay_s: float = 0.0, cut: Sequence[int] = ()) -> None:
        """From now on. ``cut``: hosts that no packet leaves or reaches."""
        self._control.send((rate_bps, delay_s, frozenset(cut)))
        self._control.recv()

    def start(self, k: int, words: Sequence[str], env: Mapping[str, str], **more: Any) -> subprocess.Popen[str]:
        """A process on host ``k``."""
        command = ["ip", "netns", "exec", self.name(k), *words]
        return subprocess.Popen(command, env={**os.environ, **env}, text=True, **more)

    def measure(self) -> tuple[float, float]:
        """(round trip in seconds, bits per second of one TCP connection) between the first two hosts, as they are."""
        words = [sys.executable, "-c", _PROBE]
        sizes = [address(0), str(_PROBE_BYTES), str(_PINGS)]
        with self.start(0, [*words, "serve", *sizes], {}, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline()
            with self.start(1, [*words, "ask", *sizes], {}, stdout=subprocess.PIPE) as client:
                round_trip_s, rate_bps = map(float, client.communicate()[0].split())
        return round_trip_s, rate_bps


def address(k: int) -> str:
    return f"10.77.0.{k + 1}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _open_tun(namespace: str) -> int:
    """The file of a new TUN device in a namespace, which one thread enters and takes with it when it ends."""
    opened: list[int | OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/var/run/netns/{namespace}") as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                opened.append(OSError(ctypes.get_errno(), "setns"))
                return
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI))
        opened.append(tap)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not opened or isinstance(opened[0], OSError):
        raise RuntimeError("a host needs root, /dev/net/tun and network namespaces")
    return opened[0]


def _relay(taps: Sequence[int], control: Connection) -> None:
    """Moves packets for ever."""
    rate_bps, delay_s, cut = float("inf"), 0.0, frozenset[int]()
    free_at = [0.0] * len(taps)
    waiting: list[tuple[float, int, int, bytes]] = []  # (when it arrives, number, host, packet)
    numbers = iter(range(1 << 62))
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, host, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a full queue: lost, as on any network
                os.write(taps[host], packet)
        open_taps = [k for k, at in enumerate(free_at) if at <= now]
        until = min([at for at in free_at if at > now] + [w[0] for w in waiting[:1]] + [now + 0.1])
        ready, _, _ = select.select([control, *(taps[k] for k in open_taps)], [], [], max(until - now, 0.0))
        if control in ready:
            rate_bps, delay_s, cut = control.recv()
            control.send(None)
        for source in [k for k in open_taps if taps[k] in ready]:
            packet = os.read(taps[source], MTU + 100)
            now = time.monotonic()
            free_at[source] = now + 8 * len(packet) / rate_bps
            for host in _receivers(packet, len(taps)):
                if not cut & {source, host}:
                    heapq.heappush(waiting, (free_at[source] + delay_s, next(numbers), host, packet))


def _receivers(packet: bytes, hosts: int) -> Iterator[int]:
    """Of an IPv4 packet to one of the hosts; all else, such as IPv6's search for routers, goes nowhere."""
    if packet[0] >> 4 == 4 and packet[16:19] == socket.inet_aton(address(0))[:3] and 0 < packet[19] <= hosts:
        yield packet[19] - 1
