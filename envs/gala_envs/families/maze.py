"""The mazes of Zhang, Vinyals, Munos and Bengio 2018 (arXiv 1804.06893): find the good objects, then the key.

A level seed fixes walls, objects and the agent's start. Each good object is worth 1, each bad one -1, once; the key is
worth 0.1 and ends the episode; a bump costs 0.01; running out of time costs 1. With two goods the best return is 2.1.
``flip`` > 0 (their randomised rewards) flips the sign of each object's reward with that probability, by the level seed:
what an object looks like then tells nothing new about unseen levels. Good rewards are rescaled so that the best return
stays the same; levels in which nothing good is left are not drawn. ``random_start`` draws the agent's first cell anew
in each episode, among the empty ones, by the noise seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash, draw_distinct
from gala_envs.contract import Array

PARAMETERS = MappingProxyType(
    {
        "size": Parameter(9, 3, 63),
        "blocks": Parameter(0, 0, 1000),
        "goods": Parameter(2, 1, 8),
        "bads": Parameter(2, 0, 8),
        "flip": Parameter(0.0, 0.0, 1.0),
        "limit": Parameter(200, 1, 10_000),
        "random_start": Parameter(0, 0, 1),
    }
)
"""``size``: cells along a side; BASIC of the paper is size=9, BLOCKS size=13 blocks=8. ``limit``: steps an episode."""

MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
"""Stay, up, down, left, right, as (row, column)."""
WALL, GOOD, BAD, KEY, AGENT = range(5)
KEY_REWARD, BUMP_REWARD, TIMEOUT_REWARD = 0.1, -0.01, -1.0


class Level(NamedTuple):
    """walls [size, size] bool; start and key: cells (row * size + column); cells, values and looks [objects]."""

    walls: Array
    start: int
    key: int
    cells: Array
    values: Array
    good_looking: Array
    limit: int
    random_start: bool = False

    def empty_cells(self) -> Array:
        """Where the agent can start."""
        return np.setdiff1d(np.flatnonzero(~self.walls.ravel()), [*self.cells, self.key])

    def places(self) -> Array:
        """What an MDP is told by, beside walls and objects: a start that is drawn is nobody's own."""
        return np.array([-1 if self.random_start else self.start, self.key, self.limit])


class Maze:
    """See ``Family``. Two levels are the same MDP if the same things lie in the same places with the same worth."""

    name = "maze"
    compares = "places, looks and worth of all things, and the time limit"
    regions: tuple[str, ...] = ("levels",)
    parameters: Mapping[str, Parameter] = PARAMETERS

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        s: dict[str, Any] = {name: settings.get(name, p.default) for name, p in PARAMETERS.items()}
        things = s["goods"] + s["bads"] + s["blocks"] + 2
        if things > s["size"] ** 2:
            raise ValueError(f"maze: {things} blocks and objects do not fit into {s['size']} x {s['size']} cells")

        def draw() -> Context:
            while True:
                context = Context.of("maze", int(rng.integers(2**31)), **settings)
                if _is_playable(build(context)):
                    return context

        return draw_distinct(n, draw, self.fingerprint)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> Mazes:
        shapes = {(c.get("size", 9), c.get("goods", 2) + c.get("bads", 2)) for c in contexts}
        if len(shapes) > 1:
            raise ValueError("maze: all contexts of a set must have one size and one number of objects")
        return Mazes(contexts, num_envs)

    def fingerprint(self, context: Context) -> str:
        level = build(context)
        order = np.argsort(level.cells)
        return array_hash(
            level.walls, level.places(), level.cells[order], level.values[order], level.good_looking[order]
        )

    def up_to_symmetry(self, context: Context) -> str:
        """As ``fingerprint``, and equal for reflections and rotations of one maze."""
        level, size = build(context), int(context.get("size", PARAMETERS["size"].default))
        cells, prints = np.arange(size * size).reshape(size, size), []
        for turned in (np.rot90(square, k) for square in (cells, cells.T) for k in range(4)):
            to = np.empty(size * size, np.int64)
            to[turned.ravel()] = np.arange(size * size)
            moved = to[level.cells]
            order = np.argsort(moved)
            things = (level.values[order], level.good_looking[order])
            places = level._replace(start=int(to[level.start]), key=int(to[level.key])).places()
            prints.append(array_hash(level.walls.ravel()[turned.ravel()], places, moved[order], *things))
        return min(prints)

    def optimal_return(self, context: Context) -> float | None:
        """Exact; with ``random_start``, the mean over the cells in which an episode may begin."""
        level = build(context)
        starts = level.empty_cells() if level.random_start else [level.start]
        return float(np.mean([solve(level._replace(start=int(cell)))[0] for cell in starts]))


def build(context: Context) -> Level:
    """The level of a context. Its layout depends on the seed and the counts, and not on ``flip``."""
    size, blocks, goods, bads, flip, limit, random_start = (
        context.get(name, p.default) for name, p in PARAMETERS.items()
    )
    rng = np.random.default_rng(context.seed)
    places = rng.permutation(size * size)[: blocks + goods + bads + 2]
    walls = np.zeros(size * size, bool)
    walls[places[:blocks]] = True
    start, key, *cells = places[blocks:].tolist()
    good_looking = np.arange(goods + bads) < goods
    values = np.where(good_looking, 1.0, -1.0) * np.where(rng.random(goods + bads) < flip, -1.0, 1.0)
    if (values > 0).any():
        values[values > 0] = goods / (values > 0).sum()
    return Level(
        walls.reshape(size, size), start, key, np.array(cells), values, good_looking, int(limit), bool(random_start)
    )


def solve(level: Level) -> tuple[float, list[int]]:
    """The best return of a level within its limit, and the shortest list of actions that earns it.

    Breadth-first search over (cell, set of objects taken): exact, in size^2 * 2^objects states.
    """
    moves, origin = _moves(level), (level.start, 0)
    came: dict[tuple[int, int], tuple[tuple[int, int], int]] = {origin: (origin, 0)}
    frontier, ends = deque([(origin, 0)]), []
    while frontier:
        state, steps = frontier.popleft()
        cell, taken = state
        if cell == level.key:
            ends.append(state)
            continue
        for action, there, its_bit in moves[cell] if steps < level.limit else ():
            after = (there, taken | its_bit)
            if after not in came:
                came[after] = (state, action)
                frontier.append((after, steps + 1))
    if not ends:
        return TIMEOUT_REWARD, []
    worth = [KEY_REWARD + sum(v for k, v in enumerate(level.values) if taken >> k & 1) for _, taken in ends]
    best = int(np.argmax(worth))  # the first of equals: the shortest
    actions, state = [], ends[best]
    while state != origin:
        state, action = came[state]
        actions.append(action)
    return float(worth[best]), actions[::-1]


def _moves(level: Level) -> list[list[tuple[int, int, int]]]:
    """(action, cell where it ends, bit of the object there or 0) of each action that moves, cell by cell."""
    size, bits = len(level.walls), {int(cell): 1 << k for k, cell in enumerate(level.cells)}
    moves: list[list[tuple[int, int, int]]] = []
    for row, column in np.ndindex(size, size):
        moves.append([])
        for action, (down, right) in enumerate(MOVES[1:].tolist(), start=1):
            r, c = row + down, column + right
            if 0 <= r < size and 0 <= c < size and not level.walls[r, c]:
                moves[-1].append((action, r * size + c, bits.get(r * size + c, 0)))
    return moves


def _is_playable(level: Level) -> bool:
    """All that is good, and the key, can be had without taking anything bad."""
    wanted = KEY_REWARD + level.values[level.values > 0].sum()
    return bool((level.values > 0).any()) and abs(solve(level)[0] - wanted) < 1e-9


class Mazes:
    """See ``Simulators``. Observations: uint8 0/1 [5, size, size], the channels WALL, GOOD, BAD, KEY, AGENT."""

    SAVED = ("_walls", "_cells", "_values", "_left", "_agent", "_key", "_elapsed", "_limit", "_picture")
    frames_per_step = 1

    def __init__(self, contexts: Sequence[Context], num_envs: int) -> None:
        self._levels = {c.uid: build(c) for c in contexts}
        self._pictures: dict[str, Array] = {}
        first = next(iter(self._levels.values()))
        self._size, objects, n = len(first.walls), len(first.cells), num_envs
        self.obs_space: gym.Space = gym.spaces.Box(0, 1, (5, self._size, self._size), np.uint8)
        self.action_space: gym.Space = gym.spaces.Discrete(5)
        self._rows = np.arange(n)
        self._walls = np.zeros((n, self._size**2), bool)
        self._cells, self._values = np.zeros((n, objects), np.int64), np.zeros((n, objects))
        self._left = np.zeros((n, objects), bool)
        self._agent, self._key = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._elapsed, self._limit = np.zeros(n, np.int64), np.ones(n, np.int64)
        self._picture = np.zeros((n, 5, self._size**2), np.uint8)

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        for row, context in zip(rows, contexts, strict=True):
            level = self._levels[context.uid]
            if context.uid not in self._pictures:
                self._pictures[context.uid] = _draw(level)
            self._walls[row] = level.walls.ravel()
            self._cells[row], self._values[row], self._left[row] = level.cells, level.values, True
            self._agent[row], self._key[row], self._limit[row] = level.start, level.key, level.limit
            self._picture[row] = self._pictures[context.uid]
        self._elapsed[rows] = 0
        self._scatter(rows, contexts, noise)
        return self._obs(rows)

    def _scatter(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> None:
        """Move the agents of levels with a random start."""
        for i, (row, context) in enumerate(zip(rows, contexts, strict=True)):
            level = self._levels[context.uid]
            if level.random_start:
                self._picture[row, AGENT, self._agent[row]] = 0
                self._agent[row] = noise[i].choice(level.empty_cells())
                self._picture[row, AGENT, self._agent[row]] = 1

    def step(self, actions: Array) -> Transition:
        rows, size = self._rows, self._size
        y, x = np.divmod(self._agent, size) + MOVES[actions].T
        inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
        there = np.where(inside, y * size + x, self._agent)
        bumped = ~inside | self._walls[rows, there]
        self._picture[rows, AGENT, self._agent] = 0
        self._agent = np.where(bumped, self._agent, there)
        self._picture[rows, AGENT, self._agent] = 1
        taken = (self._cells == self._agent[:, None]) & self._left
        self._left &= ~taken
        self._picture[rows, GOOD, self._agent] = self._picture[rows, BAD, self._agent] = 0
        self._elapsed += 1
        found = self._agent == self._key
        late = (self._elapsed >= self._limit) & ~found
        reward = (taken * self._values).sum(1) + KEY_REWARD * found + BUMP_REWARD * bumped + TIMEOUT_REWARD * late
        success = found & (self._left == (self._values < 0)).all(1)
        return Transition(self._obs(rows), reward, found | late, np.zeros(len(rows), bool), success)

    def _obs(self, rows: Array) -> Array:
        return self._picture[rows].reshape(len(rows), 5, self._size, self._size)

    def close(self) -> None:
        """Nothing is held but memory."""


def _draw(level: Level) -> Array:
    """uint8 [5, cells] of the first observation."""
    picture = np.zeros((5, level.walls.size), np.uint8)
    picture[WALL] = level.walls.ravel()
    picture[GOOD, level.cells[level.good_looking]] = 1
    picture[BAD, level.cells[~level.good_looking]] = 1
    picture[KEY, level.key] = picture[AGENT, level.start] = 1
    return picture
