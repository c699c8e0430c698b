"""Runs in lock-step end with the same parameters when they are repeated, whichever learner is the slower one."""

from __future__ import annotations

import pytest
from training import TINY, Gala, parts, same

from gala.runs.run_dir import RunDir

LOCK_STEP = {
    "allreduce": ("algo=allreduce",),
    "averaged": ("algo=gala", "gossip.mixing=allreduce"),
    "synchronous": ("algo=gala", "gossip.tau=0"),
}


@pytest.mark.long
@pytest.mark.parametrize("how", LOCK_STEP)
def test_a_lock_step_run_with_normalisers_is_reproducible(tmp_path, how):
    words = (*TINY, *LOCK_STEP[how], "learners=3", "steps=2_400", "normalize.obs=true", "normalize.reward=scale")
    saved = []
    for name, env in (("a", "Walk"), ("b", "Slow")):  # the same environment, in which learner 1 is slower than others
        code, _, err = Gala(tmp_path / name, *words, f"env.id=helper_envs:{env}-v0").end()
        assert (code, err) == (0, "")
        saved.append(parts(RunDir.open(tmp_path / name)))
    for (tensors, meta), (other, other_meta) in zip(*saved, strict=True):
        for part in (tensors, other):
            del part["in_progress"]  # holds the state of two kinds of simulators
        assert meta["updates"] == other_meta["updates"] == 100 and same(tensors, other)
