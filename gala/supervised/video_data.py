"""Videos: made by rule (stochastic moving digits, and processes whose entropy is known exactly), or recorded.

Every function is pure in its seed, and draws videos ``[T, B, C, H, W]`` float32: batch i of a training is drawn from
(seed, i), so a resumed one goes on with the batches that it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gala.config.preset_files import nearest
from gala.runs.rollouts import is_rollouts, open_rollouts
from gala.supervised.comparison import digits
from gala.supervised.particles import PARTICLE, particle, random_walk
from gala.supervised.video_rollouts import RecordedVideos
from gala.supervised.videos import SPLITS, Source, Split, Videos

GLYPH_PX = 8
_SPLIT_SEED, _TEST_FRACTION = 0, 0.2

COIN_STD = 0.1
TURNS = (-2, -1, 1, 2)
"""Pixels per frame along the wall after a hit, each as likely."""
SPRITE_PX = 2


def open_source(name: str) -> Source:
    """A process of ``PROCESSES``, or a folder of ``gala record``. Splits differ in their draws; those of moving digits
    in the handwritten digits too, those of rollouts in their episodes.

    Raises:
        ValueError: there is no such thing, the rollouts are damaged, or scikit-learn is needed and not installed.
    """
    if name in PROCESSES:
        process = PROCESSES[name]

        def draw_process(split: Split, count: int, steps: int, seed: int) -> Videos:
            rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS[split]]))
            return process.draw(rng, split, count, steps)

        return Source(process.frame, draw_process, real=process.frame == (1, 1, 1), noise_nats=process.noise_nats)
    if not is_rollouts(name):
        known = ", ".join(PROCESSES)
        hint = nearest(name, PROCESSES)
        raise ValueError(f"data={name} is neither one of {known} nor a folder that `gala record` wrote{hint}")
    return _open_rollouts(str(Path(name).resolve()))


@cache
def _open_rollouts(folder: str) -> Source:
    """Read and compared with its hashes once in a process."""
    recorded = RecordedVideos(open_rollouts(folder))
    return Source(recorded.frame, recorded.draw, recorded.facts.action_size, recorded.facts.top is None)


def draw(name: str, split: Split, count: int, steps: int, seed: int) -> Videos:
    """``count`` videos of ``steps`` frames of ``open_source(name)``. Raises ValueError as that does."""
    return open_source(name).draw(split, count, steps, seed)


def moving_digits(
    rng: np.random.Generator, split: Split, count: int, steps: int, *, size: int = 32, digits_per_video: int = 2
) -> Videos:
    """Handwritten digits of 16 x 16 that fly over a black canvas; frames are in [0, 1].

    As in stochastic moving MNIST (arXiv 1802.07687), a digit that hits a wall leaves it with a velocity drawn anew,
    each part of it uniform over -3 .. 3 pixels per frame without 0, the one across the wall inward. Where digits
    overlap, the brighter pixel is seen.
    """
    shown = glyphs(split)
    side = shown.shape[-1]
    room = size - side
    frames = np.zeros((steps, count, size, size), np.float32)
    row, rows_in = np.arange(count)[:, None, None], np.arange(side)
    for _ in range(digits_per_video):
        glyph = shown[rng.integers(len(shown), size=count)]
        place = rng.integers(0, room + 1, size=(count, 2))
        velocity = _speeds(rng, count)
        for t in range(steps):
            y, x = place[:, 0, None, None] + rows_in[:, None], place[:, 1, None, None] + rows_in
            frames[t, row, y, x] = np.maximum(frames[t, row, y, x], glyph)
            ahead = place + velocity
            low, high = ahead < 0, ahead > room
            hit = (low | high).any(1)
            drawn = _speeds(rng, count)
            inward = np.where(low, np.abs(drawn), np.where(high, -np.abs(drawn), drawn))
            velocity = np.where(hit[:, None], inward, velocity)
            place = np.clip(ahead, 0, room)
    return Videos(torch.from_numpy(frames).unsqueeze(2), None)


def _speeds(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    return rng.integers(1, 4, size=(count, 2)) * rng.choice([-1, 1], size=(count, 2))


@cache
def glyphs(split: Split) -> NDArray[np.float32]:
    """[N, 16, 16] in [0, 1]: scikit-learn's digits at twice their size. No digit is in both splits."""
    data = digits.load(_TEST_FRACTION, _SPLIT_SEED)
    images = data.train_images if split == "train" else data.test_images
    larger = torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear")
    return larger[:, 0].numpy()


def coin_flip(rng: np.random.Generator, split: Split, count: int, steps: int) -> Videos:
    """One number per frame: a fair coin, +-1, plus N(0, 0.1^2).

    The two Gaussians overlap nowhere that matters, so a frame's entropy is ln 2 + ln(0.1 sqrt(2 pi e)) = -0.190 nats.
    """
    coins = rng.choice([-1.0, 1.0], size=(steps, count))
    return _numbers(rng, coins, np.full((steps, count), math.log(2)))


def alternating(rng: np.random.Generator, split: Split, count: int, steps: int) -> Videos:
    """The coin's twin without chance: the sign of the frame before, turned, plus N(0, 0.1^2); the first is a coin."""
    signs = rng.choice([-1.0, 1.0], size=count) * (-1.0) ** np.arange(steps)[:, None]
    return _numbers(rng, signs, np.where(np.arange(steps)[:, None] == 0, math.log(2), 0.0).repeat(count, 1))


def _noise_nats(std: float) -> float:
    return math.log(std) + 0.5 * math.log(2 * math.pi * math.e)


def _numbers(rng: np.random.Generator, centres: NDArray, entropy: NDArray) -> Videos:
    frames = centres + COIN_STD * rng.standard_normal(centres.shape)
    return Videos(
        torch.from_numpy(frames.astype(np.float32))[..., None, None, None],
        torch.from_numpy((entropy + _noise_nats(COIN_STD)).astype(np.float32)),
    )


def wall_bounce(rng: np.random.Generator, split: Split, count: int, steps: int, *, size: int = 16) -> Videos:
    """A white 2 x 2 sprite that turns at random at the walls left and right, and only there; frames are 0 or 1.

    It moves one pixel per frame across and one of ``TURNS`` along the wall, where the canvas closes into a ring. At a
    wall it turns inward and draws its pace along the wall anew: the next frame has entropy ln 4. Where it starts (off
    the walls) and how it moves is uniform: ln((size - SPRITE_PX - 1) size) for frame 0 and ln(2 len(TURNS)) for frame
    1, which show both, so that every other frame has entropy 0.
    """
    far = size - SPRITE_PX
    x, y = rng.integers(1, far, size=count), rng.integers(0, size, size=count)
    across, along = rng.choice([-1, 1], size=count), rng.choice(TURNS, size=count)
    frames, entropy = np.zeros((steps, count, size, size), np.float32), np.zeros((steps, count), np.float32)
    row = np.arange(count)
    uncertain = np.full(count, math.log((far - 1) * size))
    for t in range(steps):
        for dy in range(SPRITE_PX):
            for dx in range(SPRITE_PX):
                frames[t, row, (y + dy) % size, x + dx] = 1.0
        entropy[t] = uncertain
        hit = (x == 0) | (x == far)
        across = np.where(x == 0, 1, np.where(x == far, -1, across))
        along = np.where(hit, rng.choice(TURNS, size=count), along)
        uncertain = np.where(hit, math.log(len(TURNS)), math.log(2 * len(TURNS)) if t == 0 else 0.0)
        x, y = x + across, (y + along) % size
    return Videos(torch.from_numpy(frames).unsqueeze(2), torch.from_numpy(entropy))


class Process(NamedTuple):
    """How videos are drawn, and what a model of them is built for."""

    draw: Callable[[np.random.Generator, Split, int, int], Videos]
    frame: tuple[int, int, int]
    summary: str
    noise_std: float = 0.0
    """Deviation of the Gaussian noise of each number; 0: none."""

    @property
    def noise_nats(self) -> float:
        """Its entropy in a frame."""
        return math.prod(self.frame) * _noise_nats(self.noise_std) if self.noise_std else 0.0


PROCESSES: dict[str, Process] = {
    "moving-digits": Process(moving_digits, (1, 32, 32), "two handwritten digits that bounce off walls at random"),
    "wall-bounce": Process(wall_bounce, (1, 16, 16), "a sprite that turns in one of 4 directions at walls: ln 4 nats"),
    "random-walk": Process(random_walk, (1, 16, 16), "a dot that walks at random: ln 4 nats per frame"),
    "particle": Process(
        particle, (1, 1, 1), "a hidden position seen through noise; the Kalman filter is exact", PARTICLE.blurred
    ),
    "coin-flip": Process(coin_flip, (1, 1, 1), "a fair coin per frame, with noise: -0.190 nats", COIN_STD),
    "alternating": Process(alternating, (1, 1, 1), "+-1 in turns, with noise: -0.884 nats", COIN_STD),
}
