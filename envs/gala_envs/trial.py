"""What an environment of a user's own does wrong, in one line that says what to write instead.

Gymnasium's checker warns of style and stops at asserts; this says what would break a training, and nothing else.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.masks import gives_mask, sample_allowed

STEPS = 3
"""Decisions of a trial: what is wrong with most environments is wrong with the first."""


def try_environment(make: Callable[[], gym.Env], name: str, use_masks: bool = True) -> None:
    """Build one simulator, play some random decisions, close it. ``use_masks``: of those that its action masks allow,
    which it must go on to give if it gives one with its first reset.

    Raises:
        ValueError: in one line, what it does that it must not. The exception that it raised, if any, is the cause.
    """
    env = _own(name, "making it", make)
    try:
        for part in ("observation_space", "action_space"):
            if not isinstance(getattr(env, part, None), gym.Space):
                raise ValueError(f"{name} has no {part}: set self.{part} to a gymnasium.spaces.Space")
        begun = _own(name, "reset(seed=0)", env.reset, seed=0)
        _say(name, fault_of_reset(begun, env.observation_space))
        info = begun[1]
        env.action_space.seed(0)
        masked = use_masks and not isinstance(env.action_space, gym.spaces.Box) and gives_mask(env, info)
        for _ in range(STEPS):
            if masked:
                action = _own(name, "reading the action mask", sample_allowed, env, info)
            else:
                action = env.action_space.sample()
            result = _own(name, f"step({action})".replace("\n", ""), env.step, action)
            _say(name, fault_of_step(result, env.observation_space))
            info = result[4]
            if result[2] or result[3]:
                begun = _own(name, "reset()", env.reset)
                _say(name, fault_of_reset(begun, env.observation_space))
                info = begun[1]
    finally:
        _own(name, "close()", env.close)


def fault_of_reset(result: Any, space: gym.Space) -> str:
    """What is wrong with what ``reset`` returned; empty if nothing."""
    if not isinstance(result, tuple) or len(result) != 2:
        return f"reset() must return (observation, info), and returned {_told(result)}"
    if not isinstance(result[1], dict):
        return f"reset() must return (observation, info), info a dict and not {_told(result[1])}"
    return _fault_of_observation(result[0], space, "reset()")


def fault_of_step(result: Any, space: gym.Space) -> str:
    """What is wrong with what ``step`` returned; empty if nothing."""
    wanted = "step() must return (observation, reward, terminated, truncated, info)"
    if isinstance(result, tuple) and len(result) == 4:
        return f"{wanted}, and returned 4 values: since Gymnasium 0.26 `done` is two, terminated and truncated"
    if not isinstance(result, tuple) or len(result) != 5:
        return f"{wanted}, and returned {_told(result)}"
    obs, reward, *ends, info = result
    for what, value in zip(("terminated", "truncated"), ends, strict=True):
        if np.shape(value) != () or not isinstance(value, bool | np.bool_ | int | np.integer):
            return f"{wanted}, {what} True or False and not {_told(value)}"
    faults = {
        f"{wanted}, reward one number and not {_told(reward)}": not _is_number(reward),
        f"{wanted}, and the reward was {reward}": _is_number(reward) and not np.isfinite(float(reward)),
        f"{wanted}, info a dict and not {_told(info)}": not isinstance(info, dict),
    }
    return next((fault for fault, is_so in faults.items() if is_so), "") or _fault_of_observation(obs, space, "step()")


def _fault_of_observation(obs: Any, space: gym.Space, where: str) -> str:
    """Parts and shapes, and what ``_fault_of_numbers`` finds in them."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        parts: Any = space.spaces.items() if isinstance(space, gym.spaces.Dict) else enumerate(space.spaces)
        kind, keys = (dict, list(space.spaces)) if isinstance(space, gym.spaces.Dict) else (tuple, None)
        if not isinstance(obs, kind) or len(obs) != len(space.spaces) or (keys and set(obs) != set(keys)):
            parts_ = f"a dict of {', '.join(map(str, keys))}" if keys else f"a tuple of {len(space.spaces)}"
            return f"the observation of {where} is {_told(obs)}; observation_space wants {parts_}"
        faults = (_fault_of_observation(obs[key], part, f"{where}, part {key!r}") for key, part in parts)
        return next(filter(None, faults), "")
    try:
        array = np.asarray(obs)
    except ValueError:
        array = np.empty((), object)
    if space.shape is not None and (array.shape != space.shape or array.dtype.kind not in "biuf"):
        wanted = f"a {type(space).__name__} of shape {space.shape}"
        return f"the observation of {where} is {_told(obs)}; observation_space wants {wanted}"
    return _fault_of_numbers(array, space, where)


def _fault_of_numbers(array: np.ndarray, space: gym.Space, where: str) -> str:
    """Finiteness, dtypes, and whole numbers that have no code. Bounds of a Box are often declared too narrow."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"the observation of {where} holds a number that is not finite"
    if space.dtype is not None and not np.can_cast(array.dtype, space.dtype, "same_kind"):  # what Gymnasium converts
        wanted = f"{space.dtype}: set the dtype of the space, or convert with .astype(np.{space.dtype})"
        return f"the observation of {where} is of type {array.dtype}; observation_space wants {wanted}"
    coded = isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary)
    if coded and not space.contains(array.astype(space.dtype)):
        return f"the observation of {where} is {array.tolist()}, outside of observation_space {space}"
    return ""


_CALLERS = ("_own", "_call", "make_one")
"""Who calls the user's code: an exception of theirs is one of the call itself."""


def _own(name: str, what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The call's result. Raises ValueError for any exception of the user's code, with the line that it came from."""
    try:
        return call(*args, **kwargs)
    except (Exception, SystemExit) as error:  # an environment's own sys.exit must not end ours, as if all were well
        if str(error).startswith(name):  # says it already
            raise
        if isinstance(error, ValueError) and _is_ours(error):
            raise ValueError(f"{name}: {error}") from error
        raise ValueError(f"{name}: {what} raised {told(error, what)}") from error


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised it, of what the user's code returned."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent == Path(__file__).parent


def told(error: BaseException, what: str) -> str:
    """An exception of the user's code in one line, with the place that it came from; ``what`` was called."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, TypeError) and "unexpected keyword argument" in text and "reset" in what:
        text += "; write def reset(self, *, seed=None, options=None)"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame.name not in _CALLERS else ""
    return text + where


def _say(name: str, fault: str) -> None:
    if fault:
        raise ValueError(f"{name}: {fault}")


def _is_number(value: Any) -> bool:
    return np.shape(value) == () and np.asarray(value).dtype.kind in "biuf"


def _told(value: Any) -> str:
    """A value in a few words: its type, and its shape or length."""
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
