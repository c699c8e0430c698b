"""What ``benchmarks/video_rollouts.py`` counts, against simulations and pictures whose answers are known."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from video_rollouts import LEFT, RIGHT, ball_seen, enlarged, sticky_entropy

from gala.runs.rollout_writer import RolloutWriter
from gala.runs.rollouts import Chunk, RolloutFacts, open_rollouts


def paddle(steps, sticky, seed):
    """Places, chosen actions, and which of them open an episode: MinAtar's rules, one episode in 50 frames."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice([0, LEFT, 2, RIGHT, 4, 5], size=steps)
    place, executed, places = 4, 0, []
    for t in range(steps):
        if t % 50 == 0:
            place = 4
        else:
            executed = executed if rng.random() < sticky else chosen[t]
            place = int(np.clip(place + {LEFT: -1, RIGHT: 1}.get(executed, 0), 0, 9))
        places.append(place)
    return np.array(places), chosen, np.arange(steps) % 50 == 0


def test_sticky_entropy_where_the_past_action_is_known():
    place, chosen = np.array([4, 3, 2, 3]), np.array([0, LEFT, LEFT, RIGHT])
    nats = sticky_entropy(place, chosen, np.array([True, False, False, False]), 0.25)
    binary = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert nats[0] == 0 and nats[2] == 0 and nats[3] == pytest.approx(binary)
    first = [0.75 + 0.25 / 3, 0.25 / 3, 0.25 / 3]  # nobody knows what went before
    assert nats[1] == pytest.approx(-sum(p * math.log(p) for p in first))
    assert (sticky_entropy(place, chosen, np.array([True, False, False, False]), 0.0) == 0).all()


def test_sticky_entropy_is_what_the_places_cost():
    """The filter's own predictions are calibrated: what it predicts costs its entropy, on the mean."""
    place, chosen, first = paddle(20_000, 0.25, 0)
    nats = sticky_entropy(place, chosen, first, 0.25)
    known = (nats > 0.55) & (nats < 0.57)  # two places, of probability 1/4 and 3/4
    moved = np.diff(place, prepend=4)
    wanted = np.select([chosen == LEFT, chosen == RIGHT], [-1, 1], 0)
    obeyed = (np.clip(np.roll(place, 1) + wanted, 0, 9) == place)[known]
    assert obeyed.mean() == pytest.approx(0.75, abs=4 * math.sqrt(0.25 * 0.75 / known.sum())) and known.sum() > 2000
    assert np.abs(moved[~first]).max() == 1 and 0.2 < nats.mean() < 0.5


def test_a_ball_is_seen_where_it_was_or_anywhere():
    truth, where = torch.zeros(2, 3, 2, 9, 9), (slice(1, 2), slice(None), slice(None))
    truth[:, :, 1, 4, 4] = 1.0
    truth[1, 2, 1, 4, 4] = 0.0  # there is none
    sample = torch.zeros_like(truth)
    sample[0, 0, 1, 5, 3] = 0.6  # a pixel away
    sample[0, 1, 1, 0, 0] = 0.6  # elsewhere
    sample[0, 2, 1, 4, 4] = 0.4  # too faint
    sample[1, 0, 0, 4, 4] = 1.0  # in another plane
    sample[1, 1, 1] = 0.6  # all is grey: no ball
    at, anywhere = ball_seen(truth, sample, torch.zeros(2, 9, 9), where)
    assert at == pytest.approx([1 / 3, 0]) and anywhere == pytest.approx([2 / 3, 0])


def test_an_enlarged_recording_is_the_same_but_for_the_size_of_its_pixels(tmp_path):
    facts = RolloutFacts({"run": "none"}, (2, 3, 4), "uint8", 1, {"kind": "discrete", "sizes": [6]})
    (tmp_path / "small").mkdir()
    writer, rng = RolloutWriter(tmp_path / "small", facts), np.random.default_rng(0)
    for _ in range(2):
        first = np.array([True, False, False])
        frames, numbers = rng.integers(0, 2, (3, 2, 3, 4), np.uint8), rng.integers(0, 6, 3)
        writer.append(Chunk(frames, numbers, numbers.astype(np.float32), first, ~first, np.full(3, -1, np.int32)))
    small = open_rollouts(tmp_path / "small")
    for _ in range(2):  # the second call finds what the first has made
        large = open_rollouts(enlarged(tmp_path / "small", tmp_path / "large", 2))
    assert large.facts.frame == (2, 6, 8) and np.array_equal(large.episode_starts, [0, 3, 6])
    assert (large.action == small.action).all() and (large.reward == small.reward).all()
    for row in range(6):
        assert (large.rows(row, 1)[0] == np.kron(small.rows(row, 1)[0], np.ones((1, 2, 2), np.uint8))).all()
