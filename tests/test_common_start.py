"""Learners that exchange asynchronously begin together."""

from types import SimpleNamespace

import pytest
from training import TINY, Gala

from gala.config.schema import Config
from gala.runs.run_dir import RunDir
from gala.training.common_start import PATIENCE_S, CommonStart
from gala.training.protocol import LearnerStates


@pytest.fixture
def start(monkeypatch):
    """(common start of three, their states, whom it told to begin, the clock)."""
    clock, told, states = SimpleNamespace(now=100.0), [], LearnerStates()
    monkeypatch.setattr("gala.training.common_start.time.monotonic", lambda: clock.now)
    fleet = SimpleNamespace(tell=lambda rank, command: told.append((rank, command)))
    common = CommonStart(Config(algo="gala", learners=3), states, fleet)
    for rank in range(3):
        states.move(rank, "starting")
    return common, states, told, clock


def test_all_are_told_once_the_last_is_ready(start):
    common, states, told, clock = start
    for rank in (2, 0):
        common.ready(rank)
        assert common.advance(clock.now) == [] and told == [] and states.of(rank) == "starting"
    common.ready(1)
    assert common.advance(clock.now) == [] and sorted(told) == [(rank, "begin") for rank in range(3)]
    assert states.ranks("running") == [0, 1, 2] and common.advance(clock.now) == []


def test_nobody_waits_for_ever(start):
    common, _, told, clock = start
    common.ready(0)
    clock.now += PATIENCE_S - 1
    assert common.advance(clock.now) == [] and told == []
    clock.now += 1
    assert common.advance(clock.now) == [1, 2] and told == [(0, "begin")]
    common.ready(1)
    assert common.advance(clock.now) == [] and told == [(0, "begin"), (1, "begin")], "it is late already"


def test_the_dead_are_not_waited_for(start):
    common, states, told, clock = start
    common.ready(0)
    common.ready(1)
    for rank in (1, 2):
        states.remove(rank)
        common.died(rank)
    assert common.advance(clock.now) == [] and told == [(0, "begin")]


def test_who_was_told_to_stop_while_it_waited_stays_at_its_end(start):
    common, states, told, clock = start
    common.ready(0)
    states.move(0, "finished")
    common.ready(1)
    common.ready(2)
    assert common.advance(clock.now) == [] and told == [(1, "begin"), (2, "begin")] and states.of(0) == "finished"


def test_who_joins_later_begins_at_once_and_so_does_who_is_alone_or_in_lock_step(start):
    common, states, told, _ = start
    states.move(1, "joining")
    common.ready(1)
    assert states.of(1) == "running" and told == []
    for config in (Config(), Config(algo="allreduce", learners=2)):
        assert not CommonStart(config, states, None).waits


def test_a_short_run_is_not_over_before_the_second_learner_begins(tmp_path):
    words = (*TINY, "algo=gala", "learners=2", "steps=2_000", "env.id=helper_envs:SlowStartOne-v0")
    assert Gala(tmp_path / "run", *words).end()[0] == 0
    (_, first), (_, second), *_ = RunDir.open(tmp_path / "run").checkpoint_meta("latest")["progress"]
    assert first > 0 and second > 0


@pytest.mark.long
def test_who_waits_in_lock_step_for_one_that_starts_for_long_is_not_stuck(tmp_path):
    words = (*TINY, "algo=gala", "learners=2", "steps=2_000", "env.id=helper_envs:SlowStartOne-v0")
    code, _, err = Gala(tmp_path / "run", *words, "gossip.tau=0", "env.watchdog_s=1").end()
    assert (code, err) == (0, "")
