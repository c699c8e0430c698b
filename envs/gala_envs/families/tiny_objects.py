"""One object in a cluttered image, as small as one likes: how little of an image may the thing that matters cover?

After the needles of Pawlowski et al. 2019 (arXiv 1908.06037), as decisions. The object covers exactly ``ratio`` of the
image. Clutter is other glyphs of the same size and ink, of which there are so many that they cover ``coverage`` of any
image; where there is no object, there is one more of them. The reward is 1 for what is right, else 0.

detect: is there an object (of kind 3)? which: of which of four kinds is the object? Both are episodes of one decision.
goto: move to the object and say so; saying so elsewhere ends the episode too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash
from gala_envs.contract import Array
from gala_envs.families.backgrounds import natural_image
from gala_envs.families.glyphs import KINDS, draw_glyph

PARAMETERS = MappingProxyType(
    {
        "task": Parameter("detect", choices=("detect", "goto", "which")),
        "side": Parameter(32, 16, 256),
        "ratio": Parameter(0.0625, 0.0002, 0.25),
        "coverage": Parameter(0.3, 0.0, 0.3),
        "background": Parameter("plain", choices=("plain", "noise", "texture", "clutter")),
    }
)
"""``side``: of the image in pixels. ``background``: black; or, at most half as bright as glyphs, noise, 1/f noise, or
glyphs with their rows shuffled."""

TARGETS = {"detect": (3,), "goto": (3,), "which": (0, 1, 2, 3)}
"""The kinds that the object can be of; clutter is of the others."""
ACTIONS = {"detect": 2, "goto": 5, "which": 4}
MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
"""goto: say that the object is here, up, down, left, right, as (row, column)."""
_MIN_OBJECT, _VARIETY, _PATIENCE, _WHITE = 4, 8, 100, 255
_ATTEMPTS, _STAYS = 1000, 20
"""To place clutter, and how many of them leave the object where it is."""


class Level(NamedTuple):
    """picture uint8 [side, side]; answer: the right action (detect, which); kinds [objects] and corners [objects, 2] of
    all glyphs, the object, or what stands in for it, first; glyphs: the bitmaps there are; start: the agent's cell."""

    picture: Array
    answer: int
    kinds: Array
    corners: Array
    glyphs: list[Array]
    start: Array


class TinyObjects:
    """See ``Family``. No two contexts of a sample, so none of a training and a test set, share a glyph's bitmap."""

    name = "tiny_objects"
    compares = "the picture, its answer, where the object lies and where the agent starts"
    regions: tuple[str, ...] = ("levels",)
    parameters: Mapping[str, Parameter] = PARAMETERS

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        used: set[bytes] = set()
        contexts: list[Context] = []
        refused = 0
        while len(contexts) < n:
            context = Context.of(self.name, int(rng.integers(2**31)), **settings)
            own = {glyph.tobytes() for glyph in build(context).glyphs}
            if used.isdisjoint(own):
                used |= own
                contexts.append(context)
            elif (refused := refused + 1) > _PATIENCE + n:
                raise ValueError(
                    f"tiny_objects: there are too few glyphs of {object_side(context)} pixels for {n} contexts that "
                    "share none; ask for fewer contexts or a larger ratio or side"
                )
        return contexts

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> Images:
        tasks = {_values(c)["task"] for c in contexts}
        sides = {_values(c)["side"] for c in contexts}
        if len(tasks) > 1 or len(sides) > 1 or (tasks == {"goto"} and len({object_side(c) for c in contexts}) > 1):
            raise ValueError("tiny_objects: all contexts of a set must have one task and side, and for goto one ratio")
        return Images(contexts, num_envs)

    def fingerprint(self, context: Context) -> str:
        level = build(context)
        return array_hash(level.picture, np.array(level.answer), level.corners[0], level.start)

    def optimal_return(self, context: Context) -> float | None:
        return 1.0


def _values(context: Context) -> dict[str, Any]:
    return {name: context.get(name, p.default) for name, p in PARAMETERS.items()}


def object_side(context: Context) -> int:
    """Side of the object in pixels. Raises ValueError if its square is not exactly ``ratio`` of the image's."""
    side, ratio = _values(context)["side"], _values(context)["ratio"]
    p = max(_MIN_OBJECT, round(side * ratio**0.5))
    if side != int(side) or abs(p * p / side**2 - ratio) > 1e-6 * ratio:
        raise ValueError(
            f"tiny_objects: no square of {_MIN_OBJECT} or more whole pixels covers {ratio:g} of side={side:g}; the "
            f"nearest is ratio={p * p / round(side) ** 2!r} ({p} pixels)"
        )
    return p


def build(context: Context) -> Level:
    """The level of a context. Object, clutter, background and start have a random stream each: a level without clutter
    is the same level. Raises ValueError if objects of this size do not fit."""
    v, p = _values(context), object_side(context)
    seeds = np.random.SeedSequence(context.seed).spawn(4)
    of_object, of_clutter, of_background, of_start = map(np.random.default_rng, seeds)
    side, targets = int(v["side"]), TARGETS[v["task"]]
    others = np.setdiff1d(np.arange(KINDS), targets)
    there = bool(v["task"] != "detect" or of_object.random() < 0.5)
    which = int(of_object.integers(len(targets)))
    kind = targets[which] if there else int(of_object.choice(others))
    n = round(v["coverage"] * side**2 / p**2)
    variety = of_clutter.choice(others, min(n, _VARIETY))
    glyphs = [draw_glyph(kind, p, of_object), *(draw_glyph(int(k), p, of_clutter) for k in variety)]
    turn = np.arange(n) % max(1, len(variety))
    corners = _places(n, side, p, of_object, of_clutter)
    picture = _background(v["background"], side, p, n, of_background)
    for (y, x), i in zip(corners, (0, *(1 + turn)), strict=True):
        picture[y : y + p, x : x + p][glyphs[i]] = _WHITE
    lines = cell_lines(side, p)
    cells = np.argwhere(~covers(lines, p, corners[0]))
    start = cells[of_start.integers(len(cells))]
    kinds = np.array([kind, *variety[turn]], np.int64)
    return Level(picture, which if v["task"] == "which" else int(there), kinds, corners, glyphs, start)


def _places(n: int, side: int, p: int, of_object: np.random.Generator, rng: np.random.Generator) -> Array:
    """Upper left corners [1 + n, 2] of squares that do not overlap: the object's, and n others, each uniform over what
    those before it have left. Where clutter does not fit beside the object, that moves, in the end."""
    corners = np.zeros((1 + n, 2), np.int64)
    for attempt in range(_ATTEMPTS):
        if attempt % _STAYS == 0:
            corners[0] = of_object.integers(side - p + 1, size=2)
        free = np.ones((side - p + 1,) * 2, bool)
        for i in range(1, 1 + n):
            y, x = corners[i - 1]
            free[max(0, y - p + 1) : y + p, max(0, x - p + 1) : x + p] = False
            left = np.flatnonzero(free)
            if not len(left):
                break
            corners[i] = divmod(int(left[rng.integers(len(left))]), side - p + 1)
        else:
            return corners
    raise ValueError(
        f"tiny_objects: {1 + n} objects of {p} pixels do not fit into {side} x {side}; lower coverage or ratio"
    )


def _background(name: str, side: int, p: int, n: int, rng: np.random.Generator) -> Array:
    """uint8 [side, side], at most half as bright as glyphs."""
    if name == "noise":
        return rng.integers(0, 128, (side, side)).astype(np.uint8)
    if name == "texture":
        return natural_image(rng, side)[0] // 2
    picture = np.zeros((side, side), np.uint8)
    if name == "clutter":
        pieces = [rng.permutation(draw_glyph(int(k), p, rng)) for k in rng.integers(KINDS, size=_VARIETY)]
        for i, (y, x) in enumerate(rng.integers(0, side - p + 1, (n, 2))):
            picture[y : y + p, x : x + p][pieces[i % _VARIETY]] = _WHITE // 2
    return picture


def cell_lines(side: int, p: int) -> Array:
    """First pixel of each of the agent's rows (and columns): the fewest squares of ``p`` pixels, evenly spaced, that
    leave no pixel out."""
    return np.rint(np.linspace(0, side - p, -(-side // p))).astype(np.int64)


def covers(lines: Array, p: int, corner: Array) -> Array:
    """bool [cells, cells]: where the agent stands on the middle of the object."""
    y, x = ((lines <= c) & (c < lines + p) for c in np.asarray(corner) + p // 2)
    return y[:, None] & x


class Images:
    """See ``Simulators``. Observations: uint8 [1, side, side], for goto [2, side, side] with the agent's square."""

    frames_per_step = 1

    def __init__(self, contexts: Sequence[Context], num_envs: int) -> None:
        first = _values(contexts[0])
        self._task, self._side, self._p = first["task"], int(first["side"]), object_side(contexts[0])
        self._place = {c.uid: i for i, c in enumerate(contexts)}
        self._lines = cell_lines(self._side, self._p)
        cells, at = len(self._lines), np.arange(self._side)
        self._limit = 4 * cells
        self._bands = (at >= self._lines[:, None]) & (at < self._lines[:, None] + self._p)
        self._pictures = np.zeros((len(contexts), self._side, self._side), np.uint8)
        self._answers, self._starts = np.full(len(contexts), -1), np.zeros((len(contexts), 2), np.int64)
        self._right = np.zeros((len(contexts), cells, cells), bool)
        channels = 2 if self._task == "goto" else 1
        self.obs_space: gym.Space = gym.spaces.Box(0, _WHITE, (channels, self._side, self._side), np.uint8)
        self.action_space: gym.Space = gym.spaces.Discrete(ACTIONS[self._task])
        self._level, self._elapsed = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        self._agent = np.zeros((num_envs, 2), np.int64)

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        levels = np.array([self._place[c.uid] for c in contexts])
        for i in np.flatnonzero(self._answers[levels] < 0):
            self._load(int(levels[i]), contexts[int(i)])
        self._level[rows], self._agent[rows], self._elapsed[rows] = levels, self._starts[levels], 0
        return self._obs(rows)

    def _load(self, i: int, context: Context) -> None:
        level = build(context)
        self._pictures[i], self._answers[i], self._starts[i] = level.picture, level.answer, level.start
        self._right[i] = covers(self._lines, self._p, level.corners[0]) if self._task == "goto" else False

    def step(self, actions: Array) -> Transition:
        if self._task == "goto":
            return self._move(actions)
        rows = np.arange(len(actions))
        right = actions == self._answers[self._level]
        return Transition(
            self._obs(rows), right.astype(float), np.ones(len(rows), bool), np.zeros(len(rows), bool), right
        )

    def _move(self, actions: Array) -> Transition:
        rows = np.arange(len(actions))
        self._agent = np.clip(self._agent + MOVES[actions], 0, len(self._lines) - 1)
        self._elapsed += 1
        said = actions == 0
        right = said & self._right[self._level, self._agent[:, 0], self._agent[:, 1]]
        over = said | (self._elapsed >= self._limit)
        return Transition(self._obs(rows), right.astype(float), over, np.zeros(len(rows), bool), right)

    def _obs(self, rows: Array) -> Array:
        pictures = self._pictures[self._level[rows]]
        if self._task != "goto":
            return pictures[:, None]
        y, x = (self._bands[self._agent[rows, axis]] for axis in (0, 1))
        return np.stack([pictures, (y[:, :, None] & x[:, None, :]) * np.uint8(_WHITE)], 1)

    def close(self) -> None:
        """Nothing is held but memory."""
