"""An MDP whose train and test scores are known in closed form: say the next bit of a string that the level seed fixes.

At step t of L the observation holds t (one-hot), a code of the level (random signs) and a cue that equals the right bit
in a fraction ``cue`` of the level's steps. Reward 1/L for the right bit. Whoever looks the string up scores 1 on train
levels and 0.5 elsewhere; whoever follows the cue scores ``cue`` everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, Parameter, Scalar, Transition, array_hash, draw_distinct
from gala_envs.contract import Array

_CODE = 32


class Bits:
    """See ``Family``. Two levels are the same MDP if their strings are equal."""

    name = "bits"
    compares = "the string of right bits"
    regions: tuple[str, ...] = ("levels",)
    parameters: Mapping[str, Parameter] = MappingProxyType(
        {"length": Parameter(16, 1, 1024), "cue": Parameter(0.5, 0.0, 1.0)}
    )

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        def draw() -> Context:
            return Context.of("bits", int(rng.integers(2**31)), **settings)

        length = int(settings.get("length", self.parameters["length"].default))
        return draw_distinct(n, draw, self.fingerprint, 2.0**length)

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> _Strings:
        lengths = {int(c.get("length", 16)) for c in contexts}
        if len(lengths) > 1:
            raise ValueError(f"bits: all contexts of a set must have one length, not {sorted(lengths)}")
        return _Strings(num_envs, lengths.pop())

    def fingerprint(self, context: Context) -> str:
        return array_hash(level(context)[0])

    def optimal_return(self, context: Context) -> float | None:
        return 1.0


def level(context: Context) -> tuple[Array, Array, Array]:
    """(bits [L], cues [L], code [32]) of a context; bits and cues are 0/1."""
    rng = np.random.default_rng(context.seed)
    length, q = int(context.get("length", 16)), float(context.get("cue", 0.5))
    bits = rng.integers(0, 2, length)
    code = rng.choice([-1.0, 1.0], _CODE)
    return bits, np.where(rng.random(length) < q, bits, 1 - bits), code


class _Strings:
    """See ``Simulators``."""

    SAVED = ("_at", "_bits", "_cues", "_code")
    frames_per_step = 1

    def __init__(self, num_envs: int, length: int) -> None:
        self.obs_space: gym.Space = gym.spaces.Box(-1.0, 1.0, (length + _CODE + 1,), np.float32)
        self.action_space: gym.Space = gym.spaces.Discrete(2)
        self._length, self._at = length, np.zeros(num_envs, np.int64)
        self._bits = np.zeros((num_envs, length), np.int64)
        self._cues = np.zeros((num_envs, length), np.int64)
        self._code = np.zeros((num_envs, _CODE), np.float32)

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        for row, context in zip(rows, contexts, strict=True):
            self._bits[row], self._cues[row], self._code[row] = level(context)
        self._at[rows] = 0
        return self._obs()[rows]

    def step(self, actions: Array) -> Transition:
        n = len(actions)
        right = actions == self._bits[np.arange(n), self._at]
        self._at += 1
        over = self._at >= self._length
        obs = self._obs()
        return Transition(obs, right / self._length, over, np.zeros(n, bool), None)

    def _obs(self) -> Array:
        """Past the end the step is all zeros and the cue is 0."""
        n = len(self._at)
        obs = np.zeros((n, self._length + _CODE + 1), np.float32)
        inside = np.flatnonzero(self._at < self._length)
        obs[inside, self._at[inside]] = 1.0
        obs[:, self._length : -1] = self._code
        obs[inside, -1] = 2.0 * self._cues[inside, self._at[inside]] - 1.0
        return obs

    def close(self) -> None:
        """Nothing is held but memory."""
