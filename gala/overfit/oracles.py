"""Agents for the family ``bits`` whose train and test scores are known in closed form: controls of the diagnostics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gala_envs.contexts import Context
from gala_envs.families.bits import level
from numpy.typing import NDArray

from gala.diagnostics.overfitting.policies import Decision, Noise


class Memoriser:
    """Looks the bits of known levels up; on others it follows the cue, or tosses a coin."""

    def __init__(self, known: Iterable[Context], *, else_cue: bool) -> None:
        self.table = {code.astype(np.float32).tobytes(): bits for bits, _, code in map(level, known)}
        self.else_cue = else_cue

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        length = obs.shape[1] - 33
        actions = []
        for row, rng in zip(obs, noise, strict=True):
            bits = self.table.get(np.ascontiguousarray(row[length:-1]).tobytes())
            step, cue = int(row[:length].argmax()), int(row[-1] > 0)
            coin = int(rng.integers(2))
            actions.append(int(bits[step]) if bits is not None else cue if self.else_cue else coin)
        return Decision(np.array(actions))
