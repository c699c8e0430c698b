"""Injected delays: their distribution, and that a step waits for its slowest row and changes nothing else."""

import time

import numpy as np
import pytest
from gala_envs.contract import check_batched_env
from gala_envs.delays import DelayedEnv
from gala_envs.registry import make

from gala.config.parse import parse_config
from gala.config.validate import validate


def test_times_have_the_mean_that_was_asked_for_and_its_tail():
    env = DelayedEnv(make("CartPole-v1", 64), mean_s=0.02, sigma=1.0, seed=3, factor=2.0)
    times = np.stack([env.draw_s() for _ in range(4000)])
    assert times.mean() == pytest.approx(0.04, rel=0.02)
    assert np.log(times).std() == pytest.approx(1.0, rel=0.01)
    assert np.median(times) == pytest.approx(0.04 * np.exp(-0.5), rel=0.02)
    # What GALA gains from: 64 rows wait longer for their slowest than 16 do. Order statistics by brute force.
    lognormal = np.random.default_rng(0).lognormal(-0.5, 1.0, (20_000, 64))
    assert times.max(1).mean() == pytest.approx(0.04 * lognormal.max(1).mean(), rel=0.03)
    assert (DelayedEnv(make("CartPole-v1", 3), 0.02, 0.0, 0).draw_s() == 0.02).all()


def test_a_step_takes_at_least_as_long_as_its_slowest_row():
    env, twin = (DelayedEnv(make("CartPole-v1", 4), mean_s=0.004, sigma=1.0, seed=1) for _ in range(2))
    env.reset(5), twin.reset(5)
    for _ in range(10):
        slowest, started = twin.draw_s().max(), time.monotonic()
        env.step(np.zeros(4, np.int64))
        assert time.monotonic() - started >= slowest


def test_delays_leave_the_contract_alone_and_do_not_use_the_processor():
    env = DelayedEnv(make("CartPole-v1", 3), mean_s=1e-4, sigma=0.5, seed=0)
    check_batched_env(env)
    slow = DelayedEnv(make("CartPole-v1", 3), mean_s=0.1, sigma=0.0, seed=0)
    slow.reset(0)
    before = time.process_time()
    slow.step(np.zeros(3, np.int64))
    assert time.process_time() - before < 0.09


@pytest.mark.parametrize(
    "words", [["delay.mean_s=-1"], ["delay.sigma=-1"], ["delay.slow_learner=4"], ["delay.slow_learner=0.5"]]
)
def test_bad_delays_are_refused(words):
    with pytest.raises(ValueError, match="delay"):
        validate(parse_config(words))
    with pytest.raises(ValueError, match="delays want"):
        DelayedEnv(make("CartPole-v1", 1), -0.1, 1.0, 0)
