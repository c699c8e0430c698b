"""Evaluation by context: exactly E episodes, whatever their lengths, and the same rows in any order and batch."""

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.families import make_family
from gala_envs.splits import split

from gala.diagnostics.overfitting.episodes import evaluate, noise_seed
from gala.diagnostics.overfitting.policies import Decision, RandomPolicy, sample
from gala.diagnostics.overfitting.python_policies import PythonPolicy, python_policies
from gala.experiments.statistics import gap_interval
from gala.overfit.judging import judge, normalizer_hash
from gala.overfit.options import JudgeOptions
from gala.overfit.oracles import Memoriser
from gala.rl.normalise import ObsNormalizer

MAZE = split(make_family("maze"), {"train": 30, "test": 40}, size=5, bads=1, limit=100)
ACTIONS = gym.spaces.Discrete(5)


class Straight:
    """Goes one way until the time is over, or, in half of the levels, plays at random: lengths differ 100 times."""

    def act(self, obs, state, first, noise):
        random = RandomPolicy(ACTIONS).act(obs, state, first, noise).action
        return Decision(np.where(obs.reshape(len(obs), -1).argmax(1) % 2, random, 0))


@pytest.mark.parametrize("episodes", [1, 3])
def test_each_context_is_played_exactly_so_often_whatever_the_lengths(episodes):
    rows = evaluate(Straight(), MAZE["test"], episodes=episodes, seed=0)
    assert Counter(r["context"] for r in rows) == dict.fromkeys(MAZE["test"].uids, episodes)
    lengths = [r["length"] for r in rows]
    assert max(lengths) == 100 and min(lengths) < 20
    assert [r["episode"] for r in rows] == list(range(episodes)) * 40 and {r["set"] for r in rows} == {"test"}


def test_an_episode_is_the_same_alone_and_among_others_and_in_reverse_order():
    policy = RandomPolicy(ACTIONS)
    rows = evaluate(policy, MAZE["test"], episodes=2, seed=5)
    backwards = type(MAZE["test"])(MAZE["test"].contexts[::-1], "test")
    again = evaluate(policy, backwards, episodes=2, seed=5)
    key = lambda r: (r["context"], r["episode"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(again, key=key)
    alone = evaluate(policy, MAZE["test"].take(1), episodes=2, seed=5)
    assert alone == rows[:2]
    assert evaluate(policy, MAZE["test"], episodes=2, seed=6) != rows


def test_the_discounted_return_is_that_of_the_rewards():
    contexts = split(make_family("bits"), {"test": 3}, length=8)["test"]
    rows = evaluate(Memoriser(contexts, else_cue=False), contexts, episodes=1, seed=0, gamma=0.9)
    assert [r["discounted"] for r in rows] == pytest.approx([sum(0.9**t for t in range(8)) / 8] * 3)
    assert all(r["return"] == pytest.approx(1.0) and r["value"] is None and r["entropy"] is None for r in rows)


class Counting:
    """Plays right. Its value and its entropy say how far its episode is; it keeps the first number of each episode's
    noise."""

    def __init__(self, contexts):
        self.inner, self.drawn = Memoriser(contexts, else_cue=False), []

    def act(self, obs, state, first, noise):
        at = np.where(first, 0, 0 if state is None else state + 1)
        self.drawn += [noise[row].random() for row in np.flatnonzero(first)]
        return Decision(self.inner.act(obs, None, first, noise).action, at, value=7.0 + at, entropy=1.0 + at)


def test_each_episode_has_the_value_of_its_start_and_the_entropy_and_the_discounted_return_of_itself():
    """Also where a row plays one after another: 75 episodes do not fit into the rows that there are at most."""
    contexts = split(make_family("bits"), {"test": 25}, length=8)["test"]
    for row in evaluate(Counting(contexts), contexts, episodes=3, seed=0, gamma=0.5):
        assert row["value"] == 7.0 and row["entropy"] == pytest.approx(4.5) and row["length"] == 8
        assert row["return"] == pytest.approx(1.0) and row["discounted"] == pytest.approx((2 - 0.5**7) / 8)


def test_the_noise_of_a_policy_is_another_stream_than_that_of_the_simulator():
    contexts = split(make_family("bits"), {"test": 25}, length=8)["test"]
    policy = Counting(contexts)
    evaluate(policy, contexts, episodes=2, seed=4)
    simulators = {np.random.default_rng(noise_seed(4, c, k)).random() for c in contexts for k in range(2)}
    assert len(simulators) == len(set(policy.drawn[:50])) == 50 and not simulators & set(policy.drawn)


def test_actions_are_drawn_as_the_distribution_says():
    rngs = [np.random.default_rng(i) for i in range(20_000)]
    logits = np.log(np.tile([0.1, 0.2, 0.7], (20_000, 1)))
    counts = np.bincount(sample(gym.spaces.Discrete(3), logits, rngs)) / 20_000
    np.testing.assert_allclose(counts, [0.1, 0.2, 0.7], atol=0.015)
    several = sample(gym.spaces.MultiDiscrete([3, 2]), np.concatenate([logits, np.zeros((20_000, 2))], 1), rngs)
    np.testing.assert_allclose(np.bincount(several[:, 0]) / 20_000, [0.1, 0.2, 0.7], atol=0.015)
    assert abs(several[:, 1].mean() - 0.5) < 0.015
    box = gym.spaces.Box(-9, 9, (1,))
    normal = sample(box, np.tile([2.0, np.log(0.5)], (20_000, 1)), rngs)
    assert normal.mean() == pytest.approx(2.0, abs=0.02) and normal.std() == pytest.approx(0.5, abs=0.02)


def test_a_policy_in_python_gets_one_row_at_a_time_and_its_state_opens_as_none(monkeypatch):
    seen = []

    def act(obs, state, rng):
        seen.append(state)
        assert obs.shape == (5, 5, 5)
        return int(rng.integers(5)), (state or 0) + 1

    rows = evaluate(PythonPolicy(act, ACTIONS), MAZE["test"].take(3), episodes=1, seed=0)
    assert seen.count(None) >= 3 and max(s for s in seen if s) >= max(r["length"] for r in rows) - 1
    with pytest.raises(ValueError, match="policy=no_such_module:act: there is no module"):
        python_policies("no_such_module:act", 1, ACTIONS)


def test_statistics_that_move_while_a_policy_is_judged_are_refused():
    class Moving:
        normalizer = ObsNormalizer((49,), 5.0)

        def act(self, obs, state, first, noise):
            self.normalizer.update(obs)
            return Decision(np.zeros(len(obs), int))

    contexts = split(make_family("bits"), {"test": 3})["test"]
    before = normalizer_hash(Moving())
    with pytest.raises(ValueError, match="freeze it"):
        judge(Moving(), [contexts], JudgeOptions(), {})
    assert normalizer_hash(Moving()) != before


def test_a_random_policy_has_no_gap_on_fresh_splits():
    """Its interval holds 0 in nine of ten splits, though the levels of either set differ in what they give it."""
    held = 0
    for seed in range(20):
        sets = split(make_family("maze"), {"train": 20, "test": 60}, seed=seed, size=5, bads=1, limit=30)
        scores = []
        for name in ("train", "test"):
            runs = [evaluate(RandomPolicy(ACTIONS), sets[name], episodes=1, seed=100 * seed + k) for k in range(5)]
            scores.append([[row["return"] for row in rows] for rows in runs])
        interval = gap_interval(*scores)
        held += interval.low <= 0 <= interval.high
    assert held >= 18
