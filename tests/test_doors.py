"""Nothing that gala starts can be reached from another machine, and nothing of it outlives its parent."""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import pytest
from training import TINY, Gala, marked, spawn

from gala.processes.fleet import ProcessFleet
from gala.processes.watcher import Watcher

END_S = 120.0


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """(address, port) of each TCP socket on which one of the processes listens."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(fd))
            except OSError:  # closed meanwhile
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                address, port = local.split(":")
                words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
                packed = struct.pack(f"={len(words)}I", *words)
                found.append((str(ipaddress.ip_address(packed)), int(port, 16)))
    return found


def test_a_socket_that_listens_is_seen():
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family) as listener:
            listener.bind((address, 0))
            listener.listen()
            assert (address, listener.getsockname()[1]) in listening([os.getpid()])


@pytest.mark.parametrize(
    "algo",
    [
        ("algo=allreduce",),
        pytest.param(("algo=gala",), marks=pytest.mark.long),
        pytest.param(("algo=gala", "gossip.mixing=allreduce"), marks=pytest.mark.long),
    ],
)
def test_a_training_listens_on_loopback_only(tmp_path, algo):
    gala = Gala(tmp_path / "run", *TINY, *algo, "learners=2")
    gala.wait_for((gala.run / "metrics.jsonl").is_file, "metrics")
    doors = listening(gala.processes())
    assert all(ipaddress.ip_address(address).is_loopback for address, _ in doors), doors
    assert bool(doors) == (algo[-1] != "algo=gala"), "the rendezvous of an all-reduce, and nothing else"
    gala.ctrl_c()
    assert gala.end(END_S)[0] == 130


def test_the_comparison_of_classifiers_listens_on_loopback_only(tmp_path):
    words = ["method=allreduce", "learners=2", "slowmo=off", "iterations=1e6", f"out={tmp_path / 'out'}"]
    process, mark = spawn(["supervised", *words])
    doors: list[tuple[str, int]] = []
    while len(doors) < 3:  # the rendezvous, and each learner's
        assert process.poll() is None, process.communicate()
        doors = listening(marked(mark))
        time.sleep(0.05)
    assert all(ipaddress.ip_address(address).is_loopback for address, _ in doors), doors


@pytest.mark.long
@pytest.mark.parametrize("manner", ["stopped", "off the main thread"])
def test_a_stopped_learner_does_not_outlive_its_parent(tmp_path, manner):
    words = (*TINY, "algo=gala", "learners=2")
    program = ""
    if manner == "off the main thread":
        settings = dict(word.split("=", 1) for word in (*words, f"run={tmp_path / 'run'}"))
        script = tmp_path / "script.py"
        train = f"t = threading.Thread(target=gala.train, kwargs={settings})"
        lines = ("import threading, gala", train, "t.start(); t.join()")
        script.write_text("\n".join(lines))
        program = f"{sys.executable} {script}"
    gala = Gala(tmp_path / "run", *words, program=program)
    gala.wait_for(lambda: (gala.run / "metrics.jsonl").is_file() and len(gala.learners()) == 2, "metrics")
    os.kill(gala.learners()[1], signal.SIGSTOP)
    os.kill(gala.process.pid, signal.SIGKILL)
    assert gala.end(END_S)[0] == -signal.SIGKILL


def test_the_watcher_ends_what_it_watches_and_not_what_was_released():
    code = (
        "import os, subprocess, sys; from gala.processes.watcher import Watcher\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(1000)']\n"
        "a, b = (subprocess.Popen(sleep, process_group=0, stdout=subprocess.DEVNULL) for _ in range(2))\n"
        "w = Watcher(); w.watch(a.pid); w.watch(b.pid); w.release(b.pid); print(a.pid, b.pid, flush=True)\n"
        "os.kill(a.pid, 19); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    watched, released = map(int, done.stdout.split())
    try:
        while Path(f"/proc/{watched}").exists() and "Z" not in Path(f"/proc/{watched}/stat").read_text().split(")")[1]:
            time.sleep(0.02)
        assert Path(f"/proc/{released}").exists()
    finally:
        os.kill(released, signal.SIGKILL)


def test_a_watcher_that_is_stopped_still_ends_what_it_watches_and_itself():
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    watched = subprocess.Popen(sleep, process_group=0)
    watcher = Watcher()
    watcher.watch(watched.pid)
    os.kill(watcher._process.pid, signal.SIGSTOP)
    closing = threading.Thread(target=watcher.close, daemon=True)
    closing.start()
    try:
        closing.join(END_S)
        assert not closing.is_alive() and watcher._process.returncode == 0
        assert watched.wait(END_S) == -signal.SIGKILL
    finally:
        watcher._process.kill()
        watched.kill()


def test_a_watcher_that_cannot_go_on_is_killed(monkeypatch):
    monkeypatch.setattr("gala.processes.watcher._GRACE_S", 0.1)
    monkeypatch.setattr(subprocess.Popen, "send_signal", lambda self, number: None)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: os.kill(self.pid, signal.SIGKILL))
    watcher = Watcher()
    os.kill(watcher._process.pid, signal.SIGSTOP)
    watcher.close()
    assert watcher._process.returncode == -signal.SIGKILL


def helpers(gala: Gala) -> dict[str, int]:
    """The processes that a training starts for itself, by what they are."""
    found = {}
    for pid in gala.processes():
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        for name in ("watcher.py", "resource_tracker", "forkserver"):
            if name.encode() in words and parent == gala.process.pid:
                found[name] = pid
    return found


def test_stopped_helpers_do_not_hang_the_end_of_a_training_nor_stay_behind(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, "algo=a2c")
    gala.wait_for_checkpoint()
    pids = helpers(gala)
    assert len(pids) == 3
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    gala.process.send_signal(signal.SIGTERM)
    status, out, _ = gala.end(END_S)
    assert status == 128 + signal.SIGTERM and f"gala resume {gala.run}" in out


@pytest.mark.long
def test_a_learner_is_replaced_where_the_forkserver_was_stopped(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, "algo=gala", "learners=2", "on_failure=restart")
    gala.wait_for(lambda: (gala.run / "metrics.jsonl").is_file() and len(gala.learners()) == 2, "metrics")
    killed = gala.learners()[1]
    os.kill(helpers(gala)["forkserver"], signal.SIGSTOP)
    os.kill(killed, signal.SIGKILL)
    gala.wait_for(lambda: len(found := gala.learners()) == 2 and found[1] > killed, "another learner")
    gala.ctrl_c()
    assert gala.end(END_S)[0] == 130


def wait_for_a_word(spec, pipe):
    pipe.recv()


class Spec(NamedTuple):
    rank: int


def test_children_of_a_forkserver_that_cannot_go_on_are_not_waited_for(monkeypatch):
    fleet = ProcessFleet(wait_for_a_word)
    fleet.spawn(Spec(0))
    child = fleet._processes[0]
    monkeypatch.setattr("gala.processes.fleet.wake_helpers", lambda: None)
    monkeypatch.setattr("gala.processes.fleet._GRACE_S", 0.1)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)
    try:
        fleet.kill()
        child.join(END_S)
        assert child.exitcode is not None and child not in multiprocessing.active_children()
    finally:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
