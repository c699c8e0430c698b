"""Policies in Python that were made anywhere.

One row at a time: ``act(obs, state, rng) -> action`` or ``-> (action, state)``, with one observation of the family's
space, the state that was returned before (None when an episode opens) and a NumPy generator that is the episode's own.
A batch at a time: a function with ``act.batched = True`` gets ``obs [B, ...]``, a list of B states, and one generator
for all rows; it returns actions ``[B, ...]``, or those and the list of states.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gala.diagnostics.overfitting.policies import Decision, JudgedPolicy, Noise
from gala.plugins import loading

_FILES = ("mlp:", "sb3:", "cleanrl:")
"""What stands before a file of weights."""


class PythonPolicy:
    """See the top of the file.

    Raises:
        ValueError: ``function`` does not take three arguments.
    """

    def __init__(self, function: Callable[..., Any], space: gym.Space, name: str = "policy") -> None:
        self.function, self.space, self.name = function, space, name
        self.batched = bool(getattr(function, "batched", False))
        try:
            inspect.signature(function).bind(None, None, None)
        except TypeError:
            raise ValueError(
                f"policy={name} must be a function act(obs, state, rng); it takes other arguments"
            ) from None
        except ValueError:  # a builtin that tells no signature
            return

    def act(self, obs: NDArray, state: Any, first: NDArray, noise: Noise) -> Decision:
        states = [None if new else old for new, old in zip(first, state or [None] * len(obs), strict=True)]
        if self.batched:
            actions, after = _two(self._call(obs, states, noise[0]))
            return Decision(self._checked(np.asarray(actions), len(obs)), after or [None] * len(obs))
        done = [_two(self._call(row, old, rng)) for row, old, rng in zip(obs, states, noise, strict=True)]
        return Decision(self._checked(_stack([a for a, _ in done]), len(obs)), [new for _, new in done])

    def _call(self, obs: Any, state: Any, rng: np.random.Generator) -> Any:
        try:
            return self.function(obs, state, rng)
        except loading.FAULTS as error:
            text = str(error).partition("\n")[0]
            raise ValueError(
                f"policy={self.name} failed on observations of shape {np.shape(obs)}: {type(error).__name__}: {text}"
            ) from error

    def _checked(self, actions: NDArray, rows: int) -> NDArray:
        """Raises ValueError for actions that the family does not have."""
        shape = (rows, *(self.space.shape or ()))
        if actions.dtype == object or actions.size != np.prod(shape) or not np.isfinite(actions.astype(float)).all():
            raise ValueError(
                f"policy={self.name} returned actions of shape {actions.shape[1:]} and type {actions.dtype}; "
                f"this family wants {self.space}"
            )
        return actions.reshape(shape)


def python_policies(text: str, runs: int, space: gym.Space) -> list[JudgedPolicy]:
    """One policy for each training run.

    ``module:act`` is one function, the same for all ``runs``; ``module:make?seed={run}&width=64`` a factory that is
    called with these arguments, {run} being 0, 1, ...; ``a,b,c`` three runs; ``mlp:FILE`` a checkpoint of CleanRL or
    Stable-Baselines3, in whose name {run} may stand too; ``torch:module:make?file=FILE`` a network (``torch_modules``).

    Raises:
        ValueError: there is no such function or file, or it cannot be a policy.
    """
    loading.search_working_directory()
    return [_policy(name, space) for name in _names(text, runs)]


def check_distinct_policies(text: str, runs: int) -> None:
    """Raises ValueError if a policy is among several twice, by its name or by what its file holds: it would count as
    two training runs. One function that is judged several times, as ``module:act`` is, is meant to be one."""
    if "," not in text and "{run}" not in text:
        return
    seen: dict[str, str] = {}
    for name in _names(text, runs):
        if (known := _content(name)) in seen:
            told = "is named twice" if name == seen[known] else f"is a copy of {seen[known]}"
            raise ValueError(f"policy={name} {told}: one training run does not count as two")
        seen[known] = name


def _names(text: str, runs: int) -> list[str]:
    """Raises ValueError for other braces than {run}: as they stand, they would be one policy for all runs."""
    if re.search(r"[{}]", text.replace("{run}", "")):
        raise ValueError(f"policy={text} has braces other than {{run}}, which stands for the number of a run, from 0")
    names = text.split(",") if "," in text else [text] * runs
    return [name.replace("{run}", str(k)) for k, name in enumerate(names)]


def _content(name: str) -> str:
    """The policy's name, with a hash of the file in place of its path where there is one."""
    file = name.partition(":")[2] if name.startswith(_FILES) else ""
    for word in name.partition("?")[2].split("&"):
        file = word.partition("=")[2] if word.startswith("file=") else file
    try:
        return name.replace(file, hashlib.sha256(Path(file).read_bytes()).hexdigest()) if file else name
    except OSError:
        return name


def _policy(name: str, space: gym.Space) -> JudgedPolicy:
    if name.startswith(_FILES):
        from gala.diagnostics.overfitting.mlp_checkpoints import mlp_policy

        return mlp_policy(name.partition(":")[2], space)
    path, _, query = name.removeprefix("torch:").partition("?")
    function = loading.load(path, "policy")
    arguments = {key: _number(value) for key, _, value in (word.partition("=") for word in query.split("&") if word)}
    if name.startswith("torch:"):
        from gala.diagnostics.overfitting.torch_modules import torch_module_policy

        return torch_module_policy(function, arguments, space, name)
    if query:
        try:
            function = function(**arguments)
        except loading.FAULTS as error:
            raise ValueError(f"policy={name} cannot be made: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ValueError(f"policy={name} is no function act(obs, state, rng)")
    return PythonPolicy(function, space, name)


def _two(done: Any) -> tuple[Any, Any]:
    return done if isinstance(done, tuple) else (done, None)


def _stack(actions: list[Any]) -> NDArray:
    try:
        return np.stack([np.asarray(a) for a in actions])
    except ValueError:
        return np.array([str(a) for a in actions], object)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
