"""Videos made by rule, against the rules."""

import itertools
import math

import numpy as np
import pytest
import torch

from gala.supervised import particles, video_data
from gala.supervised.video_data import PROCESSES, TURNS, draw

pytest.importorskip("sklearn")


@pytest.mark.parametrize("name", PROCESSES)
def test_videos_depend_on_seed_and_split_alone(name):
    a, b, other, held_out = (draw(name, s, 6, 5, seed) for s, seed in [("train", 1)] * 2 + [("train", 2), ("test", 1)])
    assert a.frames.shape == (5, 6, *PROCESSES[name].frame) and a.frames.dtype == torch.float32
    assert torch.equal(a.frames, b.frames)
    assert not torch.equal(a.frames, other.frames) and not torch.equal(a.frames, held_out.frames)


def test_no_digit_is_in_both_splits():
    from sklearn.datasets import load_digits

    train, test = ({g.tobytes() for g in video_data.glyphs(split)} for split in ("train", "test"))
    assert not train & test
    assert len(train) + len(test) == len({image.tobytes() for image in load_digits().images})


def test_one_digit_moves_straight_but_at_walls():
    """Its corner is found again by looking for the glyph's pixels, at every place it may be."""
    rng = np.random.default_rng(0)
    frames = video_data.moving_digits(rng, "train", 40, 30, digits_per_video=1).frames[:, :, 0].numpy()
    assert frames.min() >= 0 and frames.max() <= 1
    ink = frames.sum((2, 3))
    assert np.allclose(ink, ink[:1], rtol=1e-5)  # the digit is wholly on the canvas, always
    pixels = np.arange(32)
    centre = np.stack([(frames.sum(3) @ pixels), (frames.sum(2) @ pixels)], -1) / ink[..., None]
    velocity = np.diff(centre, axis=0)
    assert np.abs(velocity).max() < 3.01
    turned = (np.abs(np.diff(velocity, axis=0)) > 1e-3).any(-1)
    assert 0.05 < turned.mean() < 0.6
    whole = np.abs(velocity - velocity.round()) < 1e-3
    assert whole.all()


@pytest.mark.parametrize(("name", "nats"), [("coin-flip", -0.190), ("alternating", -0.884)])
def test_the_entropy_of_numbers_is_what_their_law_costs(name, nats):
    """-log p of the draws, by the density that the docstring states, has the entropy as its mean."""
    videos = draw(name, "train", 4000, 6, 0)
    x = videos.frames[..., 0, 0, 0].double()
    assert videos.entropy[1:].mean().item() == pytest.approx(nats, abs=1e-3)
    normal = lambda centre: torch.distributions.Normal(centre, video_data.COIN_STD).log_prob(x[1:])  # noqa: E731
    if name == "coin-flip":
        log_p = torch.logaddexp(normal(1.0), normal(-1.0)) - math.log(2)
        assert x.sign()[1:].mul(x.sign()[:-1]).mean().abs() < 0.03
    else:
        log_p = normal(-x[:-1].sign())
    error = log_p.std() / math.sqrt(log_p.numel())
    assert (-log_p.mean() - videos.entropy[1:].mean()).abs() < 4 * error


def test_the_sprite_turns_at_walls_and_only_there():
    videos = draw("wall-bounce", "train", 500, 40, 3)
    frames = videos.frames[:, :, 0].numpy()
    assert set(np.unique(frames)) == {0.0, 1.0} and (frames.sum((2, 3)) == 4).all()
    x = (frames.max(2) > 0).argmax(2)
    ring = frames.max(3)
    y = ((ring == 1) & (np.roll(ring, 1, axis=2) == 0)).argmax(2)
    across, along = np.diff(x, axis=0), (np.diff(y, axis=0) + 8) % 16 - 8
    hit = (x == 0) | (x == 14)
    assert set(np.unique(across)) == {-1, 1} and set(np.unique(along)) == set(TURNS)
    steady = ~hit[1:-1]
    assert (along[1:] == along[:-1])[steady].all() and (across[1:] == across[:-1])[steady].all()
    assert (across[1:] == -across[:-1])[hit[1:-1]].all()
    counts = np.unique(along[1:][hit[1:-1]], return_counts=True)[1]
    expected = counts.sum() / 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square of 3 degrees of freedom, p = 0.001
    assert np.allclose(videos.entropy[2:], np.where(hit[1:-1], math.log(4), 0.0))
    assert np.allclose(videos.entropy[1], math.log(8)) and np.allclose(videos.entropy[0], math.log(13 * 16))
    starts = {(int(a), int(b)) for a, b in zip(x[0], y[0], strict=True)}
    assert starts <= set(itertools.product(range(1, 14), range(16))) and len(starts) > 150


def test_an_unknown_process_is_refused():
    with pytest.raises(ValueError, match="coin-flip"):
        draw("bair", "train", 1, 3, 0)


def test_the_particle_is_the_law_of_which_the_filter_is_exact():
    """log p(x_0 .. x_3) by the chain of the filter is that of the joint Gaussian, whose covariance is written down
    from the law; and the entropy of the draws is what they cost."""
    law = particles.PARTICLE
    videos = draw("particle", "train", 4000, 4, 0)
    x = videos.frames[..., 0, 0, 0].double().numpy()
    var = [law.spread**2]
    for _ in range(3):
        var.append(law.keep**2 * var[-1] + law.moved**2)
    joint = np.array([[law.keep ** abs(s - t) * var[min(s, t)] for t in range(4)] for s in range(4)])
    joint += law.blurred**2 * np.eye(4)
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), torch.from_numpy(joint))
    log_prob = particles.kalman_filter(x).log_prob
    assert np.allclose(log_prob.sum(0), exact.log_prob(torch.from_numpy(x.T)), atol=1e-10)
    assert np.allclose(np.cov(x), joint, atol=0.1)
    error = log_prob.std(1) / math.sqrt(4000)
    assert (np.abs(-log_prob.mean(1) - videos.entropy.numpy()[:, 0]) < 4 * error).all()
    assert (videos.entropy == videos.entropy[:, :1]).all()


def test_the_dot_takes_each_of_four_ways_as_often():
    videos = draw("random-walk", "test", 500, 12, 0)
    frames = videos.frames[:, :, 0].numpy()
    assert (frames.sum((2, 3)) == 1).all()
    place = np.stack([frames.max(3).argmax(2), frames.max(2).argmax(2)], -1)
    ways, counts = np.unique(((np.diff(place, axis=0) + 8) % 16 - 8).reshape(-1, 2), axis=0, return_counts=True)
    assert sorted(map(tuple, ways.tolist())) == sorted(particles.STEPS)
    expected = counts.sum() / 4
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square of 3 degrees of freedom, p = 0.001
    assert np.allclose(videos.entropy[0], math.log(256)) and np.allclose(videos.entropy[1:], math.log(4))
