"""A disk that is full, or gone: what cannot be written is tried again, and no training ends for it."""

from __future__ import annotations

import json
import resource

import pytest
from training import TINY, Gala, parts, status

from gala.runs.checkpoints import append_whole
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
