"""When a checkpoint is kept as the best: at a new highest mean return, and not too soon after another checkpoint."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from gala.config.schema import Config, LogConfig
from gala.training.common_checkpoint import CommonCheckpoint
from gala.training.protocol import LearnerStates
from gala.training.returns import EPISODE_WINDOW, BestRule, EpisodeWindows


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_new_best_is_kept_a_quarter_of_the_interval_after_the_last_checkpoint(clock):
    config = Config(log=LogConfig(checkpoint_interval_s=40.0))
    board = SimpleNamespace(progress=np.zeros((1, 2), np.int64))
    checkpoint = CommonCheckpoint(config, None, board, None, None, LearnerStates(), 0)  # nobody is there to be told

    def offered(after_s, mean):
        clock[0] += after_s
        checkpoint.offer_best(mean)
        names, checkpoint.names = checkpoint.names, []  # as if it were taken at once
        return names

    assert offered(10.0, 1.0) == [] and checkpoint.best == -float("inf"), "too soon: it is offered again later"
    assert offered(0.5, 1.0) == ["latest", "best"] and checkpoint.best == 1.0
    assert offered(10.0, 2.0) == [] and checkpoint.best == 1.0
    assert offered(0.5, 2.0) == ["latest", "best"] and checkpoint.best == 2.0
    assert offered(20.0, 2.0) == [] == offered(20.0, 1.9), "no better"
    checkpoint.request(["latest"])
    clock[0] += 20.0
    checkpoint.offer_best(9.0)
    assert checkpoint.names == ["latest"] and checkpoint.best == 2.0, "another one is being taken"


def test_short_episodes_do_not_make_a_policy_the_best():
    """-1 a step: the simulators whose episodes are short deliver many, and first."""
    rule = BestRule(num_learners=1, num_envs=2)
    assert rule.quota == 50
    rule.add(0, [0] * 1000, [-1.0] * 1000)
    assert rule.score([0], -math.inf) is None, "the slow simulator has delivered nothing"
    rule.add(0, [1] * 49, [-99.0] * 49)
    assert rule.score([0], -math.inf) is None
    rule.add(0, [1], [-99.0])
    assert rule.score([0], -math.inf) is None, "one window is not enough"
    for row, value in ((0, -1.0), (1, -79.0)):
        rule.add(0, [row] * 50, [value] * 50)
    assert rule.score([0], -math.inf) == rule.score([0], -math.inf) == -40.0
    assert rule.score([0], -40.0) is None, "the same windows again"


@pytest.mark.parametrize("stop_at", [0, 1, 7, 30])
def test_a_run_that_is_resumed_chooses_its_best_as_if_it_had_not_stopped(stop_at):
    values = [float(x) for x in np.random.default_rng(0).normal(size=40).cumsum()]

    def play(stops):
        rule, windows, scores = BestRule(2, 10), EpisodeWindows(2), []
        for i, value in enumerate(values):
            if i in stops:
                saved = json.loads(json.dumps([rule.state(), windows.state()], allow_nan=False))
                rule, windows = BestRule(2, 10), EpisodeWindows(2)
                rule.load_state(saved[0]), windows.load_state(saved[1])
            for rank in range(2):
                rule.add(rank, list(range(10)) * 2, [value + rank] * 20)
                windows.add(rank, [value] * 20, [i] * 20)
            scores.append((rule.score([0, 1], -math.inf), windows.means([0, 1]), windows.count))
        return scores

    assert play([stop_at]) == play([]) and play([])[-1][0] is not None


def test_a_lucky_window_does_not_replace_the_best_and_two_better_ones_do():
    rule, taken, best = BestRule(num_learners=2, num_envs=50), [], -math.inf
    for value in (5.0, 6.0, 9.0, 6.0, 7.0, 8.0, 8.0, 7.0):
        for rank in (0, 1):
            rule.add(rank, range(50), [value + 2.0 * rank - 1.0] * 50)
        if (score := rule.score([0, 1], best)) is not None:
            taken.append(score)
            best = score
    assert taken == [6.0, 8.0]


def test_the_kept_score_of_a_policy_that_never_changes_is_near_its_mean():
    """The highest of 1000 means of 100 episodes of unit variance is 0.32 too high; the second of two is less."""
    rng = np.random.default_rng(0)
    kept, highest = [], []
    for _ in range(20):
        rule, best, means = BestRule(1, 100), -math.inf, []
        for _ in range(1000):
            returns = rng.normal(size=100)
            rule.add(0, range(100), returns.tolist())
            means.append(returns.mean())
            best = max(best, rule.score([0], best) or -math.inf)
        kept.append(best)
        highest.append(max(means))
    assert np.mean(highest) > 0.3 and np.mean(kept) < 0.75 * np.mean(highest)


def test_a_learner_that_is_gone_or_silent_is_not_waited_for():
    rule = BestRule(num_learners=2, num_envs=50)
    for value in (3.0, 4.0):
        rule.add(0, range(50), [value] * 50)
        score = rule.score([0], -math.inf)
    assert score == 4.0 and rule.score([], 0.0) == 4.0


@pytest.mark.parametrize("learners", [1, 2, 4, 8])
def test_the_return_that_is_told_is_that_of_the_newest_episodes_however_many_learners_played_them(learners):
    """One stream of episodes that get better and better, dealt out in turns: four learners told of 400 of them."""
    windows = EpisodeWindows(learners)
    for episode in range(1000):
        windows.add(episode % learners, [float(episode)], [episode])
    newest = range(1000 - learners * math.ceil(EPISODE_WINDOW / learners), 1000)
    assert windows.means(range(learners)) == pytest.approx((np.mean(newest), np.mean(newest)))
    assert windows.return_of(0) == pytest.approx(np.mean(range(0, 1000, learners)[-EPISODE_WINDOW:]))
