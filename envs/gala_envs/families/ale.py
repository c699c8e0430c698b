"""Atari games, where a context is a flavour: one of the modes and difficulties that the game's cartridge offers.

Farebrother, Machado and Bowling 2018 (arXiv 1810.00123). Frames are prepared as in Mnih et al. 2015: grey, the larger
of the last two of 4, averaged over areas to 84 x 84, the last 4 stacked. Sticky actions are those of Machado et al.
2018 (arXiv 1709.06009, section 5.3): at each frame the action executed last goes on with probability ``sticky``. They
are drawn here, from the episode's noise, since the emulator takes a seed only when it loads its cartridge; in
distribution they are the emulator's own.

An emulator that is reset, or whose mode is changed, may remember what it played before (Surround and Freeway do), so
that an episode would depend on those before it. Each episode therefore starts from a snapshot of its flavour, taken
once in an emulator that has just loaded the game.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from math import gcd

import gymnasium as gym
import numpy as np

from gala_envs.atari import Emulator, Snapshot, game_rom_id
from gala_envs.contexts import Context, Parameter, Scalar, Transition
from gala_envs.contract import Array
from gala_envs.splits import check_settings

_SKIP, _STACK, _SIZE, _MAX_FRAMES = 4, 4, 84, 108_000


class Ale:
    """See ``Family``. An episode ends when the game does, or after 108,000 frames (half an hour); lives do not count.

    ``noop_max``: an episode begins with 0 to that many frames without an action, drawn from its noise; then the fire
    button is pressed once, where the game has one.
    """

    ARGUMENT = "Pong"
    compares = "game, mode, difficulty, sticky actions and no-ops"
    regions: tuple[str, ...] = ("flavours",)

    def __init__(self, game: str) -> None:
        """Raises ValueError if there is no such game, or ale-py is not installed."""
        if importlib.util.find_spec("ale_py") is None:
            raise ValueError(f"ale:{game} needs ale-py; run: pip install ale-py")
        self.name, self.rom = f"ale:{game}", game_rom_id(f"ALE/{game}-v5")
        fresh = Emulator(self.rom)
        self.parameters: Mapping[str, Parameter] = {
            "mode": Parameter(fresh.modes[0], choices=fresh.modes),
            "difficulty": Parameter(fresh.difficulties[0], choices=fresh.difficulties),
            "sticky": Parameter(0.25, 0.0, 1.0),
            "noop_max": Parameter(30, 0, 1000),
        }
        self._snapshots: dict[tuple[int, int], Snapshot] = {}

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        flavours = [
            Context.of(self.name, None, **{"mode": mode, "difficulty": difficulty} | dict(settings))
            for mode in self._values("mode", settings)
            for difficulty in self._values("difficulty", settings)
        ]
        if n > len(flavours):
            raise ValueError(
                f"{n} different contexts were asked for, but with these settings {self.name} has {len(flavours)} "
                "flavours (modes x difficulties)"
            )
        return [flavours[i] for i in rng.permutation(len(flavours))[:n]]

    def _values(self, name: str, settings: Mapping[str, Scalar]) -> tuple[Scalar, ...]:
        return (settings[name],) if name in settings else self.parameters[name].choices

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> _Consoles:
        """Raises ValueError for a context with a level seed, or with a mode that the game does not have."""
        for context in contexts:
            check_settings(self, dict(context.params))
            if context.seed is not None:
                raise ValueError(
                    f"{self.name}: context {context.uid} has the level seed {context.seed}, but seeds of ALE are not "
                    "distinct MDPs: all start from the same state; use modes and difficulties"
                )
        return _Consoles(self, num_envs)

    def fingerprint(self, context: Context) -> str:
        return Context.of(self.name, None, **{name: self.value(context, name) for name in self.parameters}).uid

    def optimal_return(self, context: Context) -> float | None:
        return None

    def value(self, context: Context, name: str) -> Scalar:
        value: Scalar = context.get(name, self.parameters[name].default)
        return value

    def snapshot(self, context: Context) -> Snapshot:
        """How the context's flavour begins."""
        flavour = int(self.value(context, "mode")), int(self.value(context, "difficulty"))
        if flavour not in self._snapshots:
            self._snapshots[flavour] = Emulator(self.rom, *flavour).snapshot()
        return self._snapshots[flavour]


class _Consoles:
    """See ``Simulators``. The emulators are stepped in a loop: ale-py holds Python's lock while it emulates a frame."""

    frames_per_step = _SKIP

    def __init__(self, family: Ale, num_envs: int) -> None:
        self._family = family
        self._emulators = [Emulator(family.rom) for _ in range(num_envs)]
        first = self._emulators[0]
        self.obs_space: gym.Space = gym.spaces.Box(0, 255, (_STACK, _SIZE, _SIZE), np.uint8)
        self.action_space: gym.Space = gym.spaces.Discrete(first.num_actions)
        self._down, self._across = (_area_weights(pixels) for pixels in first.screen_shape)
        self._screens = np.zeros((num_envs, 2, *first.screen_shape), np.uint8)
        self._stack = np.zeros((num_envs, _STACK, _SIZE, _SIZE), np.uint8)
        self._noise: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs
        self._sticky, self._executed = np.zeros(num_envs), [0] * num_envs

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        for row, context, stream in zip(rows, contexts, noise, strict=True):
            snapshot = self._family.snapshot(context)
            self._emulators[row].restore(snapshot)
            self._screens[row, :] = snapshot[1]
            self._noise[row], self._executed[row] = stream, 0
            self._sticky[row] = self._family.value(context, "sticky")
            for _ in range(stream.integers(int(self._family.value(context, "noop_max")) + 1)):
                self._frame(row, 0, 0)
            if self._emulators[row].can_fire:
                self._frame(row, 1, 0)
            self._screens[row, 1] = self._screens[row, 0]
        self._stack = self._stack.copy()  # the array that the last step returned belongs to the caller
        self._stack[rows] = 0
        self._stack[rows, -1] = self._picture(rows)
        return self._stack[rows]

    def step(self, actions: Array) -> Transition:
        n = len(actions)
        reward, over, late = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        for row, emulator in enumerate(self._emulators):
            for k in range(_SKIP):
                reward[row] += self._frame(row, int(actions[row]), k % 2)
                if emulator.game_over:
                    break
            over[row] = emulator.game_over
            late[row] = emulator.frames >= _MAX_FRAMES
        self._stack = np.concatenate([self._stack[:, 1:], self._picture(np.arange(n))[:, None]], 1)
        return Transition(self._stack, reward, over, late & ~over)

    def _frame(self, row: int, action: int, slot: int) -> float:
        """One frame, sticky, with its screen in ``slot``. Returns the reward."""
        if self._noise[row].random() >= self._sticky[row]:
            self._executed[row] = action
        reward = self._emulators[row].act(self._executed[row])
        self._emulators[row].read_screen(self._screens[row, slot])
        return reward

    def _picture(self, rows: Array) -> Array:
        """The larger of the last two frames, averaged over areas: uint8 [len(rows), 84, 84]."""
        frames = self._screens[rows].max(1).astype(np.float32)
        bands = frames.reshape(len(rows), frames.shape[1], -1, self._across.shape[0]) @ self._across
        bands = bands.reshape(len(rows), -1, self._down.shape[0], _SIZE)
        return np.rint(self._down.T @ bands).astype(np.uint8).reshape(len(rows), _SIZE, _SIZE)

    def close(self) -> None:
        self._emulators = []


def _area_weights(pixels: int) -> Array:
    """[p, q]: what each of p pixels contributes to each of q areas of equal size; p / q is ``pixels`` / 84 reduced."""
    p, q = pixels // gcd(pixels, _SIZE), _SIZE // gcd(pixels, _SIZE)
    left, right = np.arange(p)[:, None], np.arange(p)[:, None] + 1
    low, high = np.arange(q) * p / q, (np.arange(q) + 1) * p / q
    overlap = np.minimum(right, high) - np.maximum(left, low)
    return (np.maximum(overlap, 0) * q / p).astype(np.float32)
