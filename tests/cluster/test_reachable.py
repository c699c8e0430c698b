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


@pytest.fixture
def closed_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@ray_only
def test_auto_does_not_train_elsewhere_than_the_environment_says(closed_address, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", closed_address)
    began, run = time.monotonic(), tmp_path / "run"
    assert cli.main(["train", "learners=2", f"run={run}", "cluster.address=auto"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"RAY_ADDRESS={closed_address}: nothing answers there" in err and not run.exists()
    assert time.monotonic() - began < LIMIT_S


@ray_only
def test_the_address_that_a_cluster_has_left_behind_is_no_cluster(closed_address, tmp_path, monkeypatch):
    from gala.cluster import rayctl

    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(closed_address)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    began = time.monotonic()
    assert rayctl._cluster_here() == "" and time.monotonic() - began < LIMIT_S
    monkeypatch.setattr(rayctl, "check_reachable", lambda address: None)
    assert rayctl._cluster_here() == closed_address


@ray_only
def test_cuda_without_gpus_is_one_line(tmp_path, capsys, monkeypatch):
    from gala.cluster.rayctl import check_gpus, keep_to_loopback

    keep_to_loopback()  # before the import of Ray, for those tests of this process that start it
    import ray

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = tmp_path / "run"
    assert cli.main(["train", "learners=2", f"run={run}", "cluster.address=local", "device=cuda"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "device=cuda, but PyTorch sees no CUDA GPU here" in err and not run.exists()

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ValueError, match="no node of the Ray cluster has a GPU"):
        check_gpus()
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    check_gpus()


def test_a_learner_without_the_gpu_that_was_asked_for_says_so_without_a_traceback(monkeypatch):
    from gala.build.policy import pick_device
    from gala.config.schema import Config
    from gala.processes.child import TRACEBACK, Failure

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv(TRACEBACK, raising=False)
    with pytest.raises(ValueError, match="sees no CUDA GPU") as info:
        pick_device(Config(device="cuda"), 0)
    assert Failure.of(info.value).traceback == str(info.value)


@ray_only
def test_what_ray_tells_of_its_own_processes_is_not_printed(capsys, monkeypatch):
    from gala.cluster.rayctl import hush, keep_to_loopback

    keep_to_loopback()
    from ray._private import worker

    monkeypatch.setattr(worker, "_worker_logs_enabled", True)
    told = {"pid": "raylet", "ip": "", "is_err": False}
    worker.print_to_stdstream(told | {"lines": ["one"]}, ignore_prefix=False)
    assert "one" in capsys.readouterr().out
    hush()
    worker.print_to_stdstream(told | {"lines": ["two"]}, ignore_prefix=False)
    assert capsys.readouterr() == ("", "")
