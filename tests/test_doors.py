"""Nothing that gala starts can be reached from another machine, and nothing of it outlives its parent."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training import TINY, Gala, marked, spawn

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


def test_the_comparison_of_classifiers_listens_on_loopback_only():
    process, mark = spawn(["supervised", "method=allreduce", "learners=2", "slowmo=off", "iterations=1e6"])
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
