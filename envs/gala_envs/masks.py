"""Which actions an environment allows: ``info["action_mask"]``, or ``env.action_masks()`` as sb3-contrib has it.

A mask is of the observation that it came with: it says what may answer that one. For a Discrete space it has a number
for each action; for several discrete ones those of all, one after the other, or a tuple of one mask each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, BatchedEnv
from gala_envs.parts import num_mask
from gala_envs.spaces import action_adapter, each_row

INFO, METHOD = "action_mask", "action_masks"
_DECISIONS = 3
"""After which an environment without a mask counts as one that has none."""


def num_choices(space: gym.Space) -> tuple[int, ...]:
    """Numbers of choices of the parts of an action space as ``action_adapter`` shows it; empty of a Box."""
    if isinstance(space, gym.spaces.Discrete):
        return (int(space.n),)
    return tuple(int(n) for n in space.nvec) if isinstance(space, gym.spaces.MultiDiscrete) else ()


def gives_masks(env: gym.Env) -> bool:
    """Whether an environment masks its discrete actions; resets it to see, and makes a few random decisions.

    Raises:
        ValueError: masks come with steps and not with resets, so that the first ones would be missing.
    """
    if isinstance(env.action_space, gym.spaces.Box):
        return False
    if gives_mask(env, env.reset(seed=0)[1]):
        return True
    env.action_space.seed(0)
    for _ in range(_DECISIONS):
        try:
            *_, terminated, truncated, info = env.step(env.action_space.sample())
        except Exception:  # whoever steps it in earnest says what is wrong
            return False
        if isinstance(info, Mapping) and INFO in info:
            raise ValueError(
                f'info["{INFO}"] came with step() and not with reset(); give one after every reset() and step(), or '
                "say env.action_masks=off"
            )
        if terminated or truncated:
            break
    return False


def gives_mask(env: gym.Env, info: Mapping[str, Any]) -> bool:
    """Whether there is a mask of the observation that came with ``info``."""
    return _has_method(env) or INFO in info


def _has_method(env: gym.Env) -> bool:
    return env.has_wrapper_attr(METHOD) and callable(env.get_wrapper_attr(METHOD))


def read_mask(env: gym.Env, info: Mapping[str, Any], sizes: Sequence[int], over: bool) -> Array:
    """The mask of the observation that came with ``info``, bool ``[sum(sizes)]``.

    ``over``: the episode has ended in it, so that nothing answers it, and its mask, if it has any, is not looked at.

    Raises:
        ValueError: there is none, it has another size, or it allows nothing; in words that follow the name.
    """
    if over:
        return np.ones(sum(sizes), bool)
    given = info.get(INFO)
    if given is None and _has_method(env):
        given = env.get_wrapper_attr(METHOD)()
    if given is None:
        raise ValueError(f'info["{INFO}"] is missing; give one after every reset() and step(), or env.action_masks=off')
    mask = _joined(given, sizes)
    for part, allowed in enumerate(np.split(mask, np.cumsum(sizes)[:-1])):
        if not allowed.any():
            which = f" in part {part} of the action" if len(sizes) > 1 else ""
            raise ValueError(f"the action mask allows nothing{which}; allow an action, or end the episode")
    return mask


def _joined(given: Any, sizes: Sequence[int]) -> Array:
    parts = given if isinstance(given, tuple | list) and len(given) == len(sizes) > 1 else [given]
    widths = sizes if len(parts) == len(sizes) else [sum(sizes)]
    try:  # None is Gymnasium's word for all of a part
        pieces = [
            np.ones(n) if p is None else np.ravel(np.asarray(p, float)) for p, n in zip(parts, widths, strict=True)
        ]
    except (TypeError, ValueError):
        pieces = []
    if [len(piece) for piece in pieces] != list(widths) or not all(np.isin(piece, (0, 1)).all() for piece in pieces):
        shape = np.shape(given) if not isinstance(given, tuple | list) else f"{len(given)} parts"
        wanted = f"{sum(sizes)} numbers of 0 and 1" + (f" ({' + '.join(map(str, sizes))})" if len(sizes) > 1 else "")
        raise ValueError(f"the action mask is {type(given).__name__} of {shape}; the action space wants {wanted}")
    return np.concatenate(pieces) == 1


def sample_allowed(env: gym.Env, info: Mapping[str, Any]) -> Any:
    """A random action that the mask in ``info`` allows. Raises ValueError as ``read_mask``."""
    space, take = action_adapter(env.action_space, "")
    mask = read_mask(env, info, num_choices(space), over=False)
    (action,) = each_row(env.action_space, take(_draw(space, mask, env.action_space.np_random)[None]))
    return action


def random_actions(env: BatchedEnv, obs: Array) -> Array:
    """An action for each row that the mask at the end of ``obs`` allows, drawn by the action space's own generator."""
    space, n = env.action_space, num_mask(env.obs_space)
    if not n:
        return np.stack([np.asarray(space.sample()) for _ in obs])
    return np.stack([_draw(space, mask > 0, space.np_random) for mask in obs[:, -n:]])


def _draw(space: gym.Space, mask: Array, rng: np.random.Generator) -> Array:
    """An action of ``space`` as ``action_adapter`` shows it."""
    masks = np.split(mask, np.cumsum(num_choices(space))[:-1])
    chosen = np.array([rng.choice(np.flatnonzero(allowed)) for allowed in masks])
    return chosen[0] if isinstance(space, gym.spaces.Discrete) else chosen
