"""A disk that is full, or gone: what cannot be written is tried again, and no training ends for it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import sys

import pytest
from gala_envs.contexts import Context, ContextSet
from training import TINY, Gala, parts, status

from gala import cli
from gala.files.whole import append_whole, write_atomically
from gala.gossip.record import read_record
from gala.gossip.transport.anonymous_memory import anonymous_memory
from gala.runs.run_dir import RunDir

END_S = 120.0
WORDS = (*TINY, "algo=gala", "learners=2", "log.tensorboard=true")


def limit(gala: Gala, size: int) -> None:
    """No file of a process of the run may grow beyond ``size`` bytes from now on, as if the disk were full."""
    for pid in gala.processes():
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def test_a_training_outlives_a_full_disk_and_loses_no_record(tmp_path):
    gala = Gala(tmp_path / "run", *WORDS)
    gala.wait_for_checkpoint()
    run = RunDir.open(gala.run)
    limit(gala, 10)
    saved = run.checkpoint_meta("latest")["env_steps"]
    lines = len(run.read_metrics())
    reported = gala.process.stdout
    assert reported is not None
    told = [reported.readline()]
    while not any("cannot be written" in line for line in told):  # to the log, or as a checkpoint
        told.append(reported.readline())
        assert told[-1], gala.process.communicate()
    assert run.checkpoint_meta("latest")["env_steps"] >= saved and len(run.read_metrics()) >= lines
    limit(gala, resource.RLIM_INFINITY)
    before = run.checkpoint_meta("latest")["env_steps"]
    gala.wait_for_checkpoint(after=before)
    gala.wait_for_metrics(after=run.checkpoint_meta("latest")["env_steps"])
    gala.ctrl_c()
    code, out, err = gala.end(END_S)
    assert (code, err, status(run)) == (130, "", "interrupted") and "can be written to again" in "".join(told) + out
    steps = [json.loads(line)["global_step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and len(parts(run)) == 2


@pytest.mark.parametrize("kept", ["gossip.record=true", "gossip.certify=true"])
def test_what_learners_write_of_their_exchanges_waits_for_the_disk(tmp_path, kept):
    gala = Gala(tmp_path / "run", *WORDS, kept)
    gala.wait_for_checkpoint()
    files = lambda: sorted((gala.run / "gossip").iterdir())  # noqa: E731
    limit(gala, 10)
    sizes = [file.stat().st_size for file in files()]
    reported = gala.process.stdout
    assert reported is not None
    while "cannot be written" not in (line := reported.readline()):
        assert line, gala.process.communicate()
    limit(gala, resource.RLIM_INFINITY)
    gala.wait_for_checkpoint(after=RunDir.open(gala.run).checkpoint_meta("latest")["env_steps"])
    gala.ctrl_c()
    code, _, err = gala.end(END_S)
    assert (code, err) == (130, "") and all(
        file.stat().st_size > size for file, size in zip(files(), sizes, strict=True)
    )
    for file in files():
        if kept == "gossip.record=true":
            updates = [progress for kind, _, progress, _ in read_record(file) if kind == "u"]
            assert updates == sorted(set(updates)) and len(updates) > 1, "none is missing, none twice"
        else:
            events = [json.loads(line) for line in file.read_text().splitlines()]
            updates = sorted({event[4] for event in events if event[0] == "update"})
            assert updates == [*range(updates[0], updates[-1] + 1)] and len(updates) > 1, "none is missing"
            puts = [tuple(event) for event in events if event[0] == "put"]
            assert len(puts) == len(set(puts)), "none is there twice"


@pytest.mark.parametrize("trouble", [pytest.param("full", marks=pytest.mark.long), "gone"])
def test_a_run_that_cannot_save_its_end_says_so_in_a_line_and_leaves_nothing_behind(tmp_path, trouble):
    gala = Gala(tmp_path / "run", *WORDS)
    gala.wait_for_checkpoint()
    if trouble == "full":
        limit(gala, 10)
    else:
        gala.run.rename(tmp_path / "away")
    gala.ctrl_c()
    code, _, err = gala.end(END_S)
    assert code == 1 and "the last state could not be saved: " in err and "Traceback" not in err
    if trouble == "full":
        assert f"gala resume {gala.run}" in err and len(parts(RunDir.open(gala.run))) == 2
    else:
        assert not gala.run.exists() and "gala resume" not in err


@contextlib.contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_atomic_write_that_fails_leaves_the_old_bytes_and_no_temporary_file(tmp_path):
    path, sets = tmp_path / "summary.json", tmp_path / "train.json"
    write_atomically(path, b"old")
    with files_of_at_most(5):
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, b"new and longer")
        with pytest.raises(OSError, match="too large"):
            ContextSet((Context.of("bits", 0, length=4, cue=0.5),), "train").write(sets)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_memory_beyond_a_limit_is_one_line_that_names_it_and_leaves_no_descriptor_open():
    before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    with files_of_at_most(1024), pytest.raises(ValueError, match=r"File too large; .*ulimit -f"):
        anonymous_memory("gala-mailboxes", 2048)
    assert sys.platform != "linux" or len(os.listdir("/proc/self/fd")) == len(before)


def test_a_limit_of_open_files_is_one_line(capsys):
    assert cli._failed_file(OSError(errno.EMFILE, os.strerror(errno.EMFILE))) == cli.EXIT_USAGE
    assert "ulimit -n" in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    append_whole(path, b"0123456789")
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            append_whole(path, b"abcdefghij")
        assert path.read_bytes() == b"0123456789"
        append_whole(path, b"abcde")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"0123456789abcde"
