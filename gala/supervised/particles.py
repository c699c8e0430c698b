"""Particles that move by known laws: a hidden position seen through noise, and a dot that walks at random."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gala.supervised.videos import Split, Videos

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""(down, right), in pixels: where the dot may go, each as likely."""


class LinearGaussian(NamedTuple):
    """A position z_t = keep z_(t-1) + N(0, moved^2), seen as x_t = z_t + N(0, blurred^2); z_0 is N(0, spread^2)."""

    keep: float = 0.9
    moved: float = 0.5
    blurred: float = 0.3
    spread: float = 1.0


PARTICLE = LinearGaussian()


class Filtered(NamedTuple):
    """What the Kalman filter knows; ``[T, B]`` each, float64."""

    predicted: NDArray[np.float64]
    """E[z_t | x_<t]."""
    predicted_var: NDArray[np.float64]
    mean: NDArray[np.float64]
    """E[z_t | x_<=t]."""
    var: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    """log p(x_t | x_<t) in nats, exact."""


def kalman_filter(seen: NDArray, law: LinearGaussian = PARTICLE) -> Filtered:
    """The exact filter of ``law`` for what was seen ``[T, B]`` (Kalman 1960)."""
    x = np.asarray(seen, np.float64)
    mean, var = np.zeros(x.shape[1]), np.full(x.shape[1], law.spread**2)
    rows = []
    for t, now in enumerate(x):
        if t:
            mean, var = law.keep * mean, law.keep**2 * var + law.moved**2
        total = var + law.blurred**2
        log_prob = -0.5 * ((now - mean) ** 2 / total + np.log(2 * math.pi * total))
        gain = var / total
        rows.append((mean, var, mean + gain * (now - mean), (1 - gain) * var, log_prob))
        mean, var = rows[-1][2:4]
    return Filtered(*(np.stack(column) for column in zip(*rows, strict=True)))


def particle(rng: np.random.Generator, split: Split, count: int, steps: int) -> Videos:
    """One number per frame: ``PARTICLE``, seen through noise. A frame's entropy is that of the filter's prediction,
    ln sqrt(2 pi e (var + blurred^2)), which is the same whatever was seen."""
    z = PARTICLE.spread * rng.standard_normal(count)
    seen = np.empty((steps, count))
    for t in range(steps):
        if t:
            z = PARTICLE.keep * z + PARTICLE.moved * rng.standard_normal(count)
        seen[t] = z + PARTICLE.blurred * rng.standard_normal(count)
    total = kalman_filter(seen).predicted_var + PARTICLE.blurred**2
    entropy = 0.5 * np.log(2 * math.pi * math.e * total)
    return Videos(
        torch.from_numpy(seen.astype(np.float32))[..., None, None, None], torch.from_numpy(entropy.astype(np.float32))
    )


def random_walk(rng: np.random.Generator, split: Split, count: int, steps: int, *, size: int = 16) -> Videos:
    """A white dot that goes one pixel up, down, left or right, each as likely, on a canvas that closes into a torus:
    ln 4 nats per frame, and ln(size^2) for the first, where it may be anywhere."""
    place = rng.integers(0, size, size=(count, 2))
    ways = np.array(STEPS)[rng.integers(len(STEPS), size=(max(0, steps - 1), count))]
    path = (np.concatenate([place[None], ways]).cumsum(0)) % size
    frames = np.zeros((steps, count, size, size), np.float32)
    t, row = np.arange(steps)[:, None], np.arange(count)
    frames[t, row, path[..., 0], path[..., 1]] = 1.0
    entropy = np.full((steps, count), math.log(len(STEPS)), np.float32)
    entropy[0] = 2 * math.log(size)
    return Videos(torch.from_numpy(frames).unsqueeze(2), torch.from_numpy(entropy))
