"""Addresses at which there is no Ray cluster, with real sockets on this machine. ``test_ray`` connects to one."""

import importlib.util
import socket
import threading
import time

import pytest

from gala import cli
from gala.cluster.reachable import check_reachable

LIMIT_S = 15.0
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra cluster")


@pytest.fixture
def listener():
    """``listener(answer)`` is the address of a server that sends ``answer`` to whoever has said something."""
    servers, connections = [], []

    def listen(answer):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve():
            try:
                while True:
                    connections.append(server.accept()[0])
                    connections[-1].recv(1)
                    connections[-1].sendall(answer)
            except OSError:
                pass  # closed below

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield listen
    for closed in (*servers, *connections):
        closed.close()


def refused(address):
    """The error's line, which has come in time."""
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^cluster\.address=") as info:
        check_reachable(address)
    assert time.monotonic() - began < LIMIT_S and "\n" not in str(info.value)
    return str(info.value)


def test_a_closed_port_answers_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    said = refused(f"127.0.0.1:{port}")
    assert said.startswith(f"cluster.address=127.0.0.1:{port}: nothing answers there (Connection refused)")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\0" * 20]
)
def test_a_server_of_another_kind_is_no_cluster(listener, answer):
    assert "what answers there is no Ray cluster" in refused(listener(answer))


@pytest.mark.long
@ray_only
def test_http2_alone_is_no_cluster(listener):
    assert "what answers there is no Ray cluster" in refused(listener(SETTINGS))


@pytest.mark.parametrize(
    ("address", "said"), [("127.0.0.1:0", "from 1 to 65535"), ("127.0.0.1:70000", "from 1 to 65535")]
)
def test_an_impossible_address_is_one_line(address, said):
    assert said in refused(address)


def test_a_name_that_nobody_knows_is_one_line():
    assert "the name nowhere.invalid is not known here" in refused("nowhere.invalid:6379")


@ray_only
def test_a_training_says_so_before_anything_is_written(listener, tmp_path, capsys):
    run = tmp_path / "run"
    address = listener(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert cli.main(["train", "learners=2", f"run={run}", f"cluster.address={address}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "no Ray cluster" in err and not run.exists()
