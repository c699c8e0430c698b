"""A low-dimensional task as a small colour picture, over a background that the context fixes.

After the natural-image tasks of Zhang, Ballas and Pineau 2018 (arXiv 1806.07937), with no data set: images are noise
with the amplitude spectrum of natural scenes, 1/f (Field 1987). The policy can tell the contexts of a set apart by
their backgrounds, which say nothing about the task. Nothing in a picture moves but the object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Simulators, Transition, array_hash
from gala_envs.contract import Array
from gala_envs.families import make_family
from gala_envs.families.added import Added

_SIZE = 42
_OWN: dict[str, Parameter] = {
    "scene": Parameter(0, 0, 2**31 - 1),
    "background": Parameter("image", choices=("plain", "noise", "image")),
    "ratio": Parameter(1.0, 0.01, 1.0),
}


class Backgrounds:
    """See ``Family``. Observations [6, 42, 42] uint8: the colours of the last picture and of this one.

    A context is one of the base family's with ``scene``, the seed of its background, added. ``background``: plain
    black, noise (each pixel on its own) or image. ``ratio``: the area of the square that the whole track fills, as a
    fraction of the picture's.
    """

    compares = "what the base family compares, and the background"
    ARGUMENT = "classic:CartPole-v1"

    def __init__(self, base: str) -> None:
        """Raises ValueError if there is no such base family, or nobody has drawn its task."""
        self.name, task = f"backgrounds:{base}", base.rpartition(":")[2]
        if task not in DRAWINGS:
            raise ValueError(f"{self.name}: only {', '.join(DRAWINGS)} can be drawn, as in backgrounds:{self.ARGUMENT}")
        self._draw = DRAWINGS[task]
        self._added = Added(self.name, make_family(base), _OWN, "scene", self.fingerprint)
        self.base, self.inner = self._added.base, self._added.inner
        self.regions, self.parameters, self.sample = self.base.regions, self._added.parameters, self._added.sample

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> _Pictures:
        return _Pictures(self.base.simulators([self.inner(c) for c in contexts], num_envs, threads), self, num_envs)

    def fingerprint(self, context: Context) -> str:
        return array_hash(
            np.array([self.base.fingerprint(self.inner(context)), str(self.ratio(context))]), self.background(context)
        )

    def optimal_return(self, context: Context) -> float | None:
        return self.base.optimal_return(self.inner(context))

    def ratio(self, context: Context) -> float:
        return float(self._added.value(context, "ratio"))

    def background(self, context: Context) -> Array:
        """uint8 [3, 42, 42]."""
        kind = self._added.value(context, "background")
        rng = np.random.default_rng(int(self._added.value(context, "scene")))
        if kind == "plain":
            return np.zeros((3, _SIZE, _SIZE), np.uint8)
        if kind == "noise":
            return rng.integers(0, 256, (3, _SIZE, _SIZE)).astype(np.uint8)
        return natural_image(rng)

    def draw(self, obs: Array, scale: Array) -> list[tuple[Array, Array]]:
        """Layers of the picture: (how much of each pixel is covered [B, 42, 42], colour [3])."""
        return self._draw(obs, scale)


def natural_image(rng: np.random.Generator, side: int = _SIZE) -> Array:
    """uint8 [3, side, side]: Gaussian noise of amplitude 1/f. Colours share half their variance, as in natural scenes.

    Mean 110 and standard deviation 50 in each colour, before values beyond 0 and 255 are cut off.
    """
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    f[0, 0] = np.inf
    common, own = rng.standard_normal((1, side, side)), rng.standard_normal((3, side, side))
    image = np.fft.ifft2(np.fft.fft2(common + own) / f).real
    image = 110 + 50 * image / image.std((1, 2), keepdims=True)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def draw_cartpole(obs: Array, scale: Array) -> list[tuple[Array, Array]]:
    """Gymnasium's cart and pole: ``obs`` [B, 4] holds position (m) and angle (rad, to the right) in columns 0 and 2.

    At ``scale`` [B] = 1 the track of 4.8 m is as wide as the picture. Edges are anti-aliased, so that moves of a
    fraction of a pixel, which are all moves at 50 pictures a second, can be seen. The pole is drawn 2 m long.
    """
    pixels_per_m = (scale * _SIZE / 4.8)[:, None, None]
    at = (np.arange(_SIZE) + 0.5 - _SIZE / 2).astype(np.float32)
    right, up = at[None, None], -at[None, :, None]
    x, base = obs[:, 0, None, None] * pixels_per_m, -1.0 * pixels_per_m
    cart = _covered(right, x, 0.4 * pixels_per_m) * _covered(up, base, 0.2 * pixels_per_m)
    angle = obs[:, 2, None, None]
    along = (right - x) * np.sin(angle) + (up - base) * np.cos(angle)
    beyond = along - np.clip(along, 0, 2.0 * pixels_per_m)
    across = (right - x) * np.cos(angle) - (up - base) * np.sin(angle)
    pole = _covered(np.hypot(across, beyond), np.zeros(1, np.float32), 0.08 * pixels_per_m)
    return [(cart, np.array([255, 255, 255], np.float32)), (pole, np.array([255, 160, 0], np.float32))]


def _covered(at: Array, centre: Array, half: Array) -> Array:
    """The part of each pixel, one wide and centred on ``at``, that lies within ``half`` of ``centre``."""
    return np.clip(np.minimum(at + 0.5, centre + half) - np.maximum(at - 0.5, centre - half), 0, 1)


DRAWINGS: dict[str, Callable[[Array, Array], list[tuple[Array, Array]]]] = {"CartPole-v1": draw_cartpole}
"""Task -> its picture, from the base family's observations."""


class _Pictures:
    """See ``Simulators``."""

    SAVED = ("_base", "_scale", "_background", "_last")

    def __init__(self, base: Simulators, family: Backgrounds, num_envs: int) -> None:
        self._base, self._family = base, family
        self._known: dict[str, Array] = {}
        self.action_space, self.frames_per_step = base.action_space, base.frames_per_step
        self.obs_space: gym.Space = gym.spaces.Box(0, 255, (6, _SIZE, _SIZE), np.uint8)
        self._scale = np.ones(num_envs, np.float32)
        self._background = np.zeros((num_envs, 3, _SIZE, _SIZE), np.uint8)
        self._last = np.zeros((num_envs, 3, _SIZE, _SIZE), np.uint8)

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        for row, context in zip(rows, contexts, strict=True):
            if context.uid not in self._known:  # an image takes as long as 20 steps
                self._known[context.uid] = self._family.background(context)
            self._background[row] = self._known[context.uid]
            self._scale[row] = self._family.ratio(context) ** 0.5
        obs = self._base.start(rows, [self._family.inner(c) for c in contexts], noise)
        self._last[rows] = self._picture(obs, rows)
        return np.concatenate([self._last[rows]] * 2, 1)

    def step(self, actions: Array) -> Transition:
        t = self._base.step(actions)
        before, self._last = self._last, self._picture(t.obs, np.arange(len(actions)))
        return t._replace(obs=np.concatenate([before, self._last], 1))

    def _picture(self, obs: Array, rows: Array) -> Array:
        """uint8 [len(rows), 3, 42, 42]."""
        picture = self._background[rows].astype(np.float32)
        for covered, colour in self._family.draw(obs, self._scale[rows]):
            picture += covered[:, None] * (colour[:, None, None] - picture)
        return np.rint(picture).astype(np.uint8)

    def close(self) -> None:
        self._base.close()
