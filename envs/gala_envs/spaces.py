"""From any simulator's spaces to those that a policy can be built for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, EnvError, to_bounds
from gala_envs.parts import FlatBox, Part


def _refuse_empty(space: gym.Space, what: str, name: str) -> None:
    if _is_empty(space):
        told = " ".join(str(space).split())[:120]
        raise ValueError(f"{name}: {what} {told}, or a part of it, holds no number; leave the part out, or fill it")


def _is_empty(space: gym.Space) -> bool:
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        return not space.spaces or any(map(_is_empty, _parts(space)[1]))
    return space.shape is not None and 0 in space.shape


def observation_adapter(space: gym.Space, name: str) -> tuple[gym.spaces.Box, Callable[[Any], Array]]:
    """What one simulator's observation becomes, and the function that makes it so for a batch.

    Arrays stay arrays: images [H, W, C] become [C, H, W], and [H, W] of bytes gets a channel; a single number becomes
    an array of one. Bytes and truth values are uint8, other numbers float32. All else becomes one vector of float32:
    Discrete and MultiDiscrete one-hot, MultiBinary 0 and 1, Tuple and Dict their parts one after the other (images in
    them from 0 to 1). Where there are images among the parts the space is a ``FlatBox``, which says where each lies.

    Raises:
        ValueError: the space, or a part of it, is none of these, or it holds no number.
        EnvError: by the function: an observation of a Discrete or MultiDiscrete that lies outside of it.
    """
    _refuse_empty(space, "the observation space", name)
    if not isinstance(space, gym.spaces.Box):
        low, high, flat, parts = _vector(space, name)
        if any(len(part.shape) == 3 for part in parts):
            return FlatBox(low, high, np.float32, parts), flat
        return gym.spaces.Box(low, high, dtype=np.float32), flat
    if space.dtype in (np.uint8, np.bool_):
        image = _as_image(np.zeros((1, *space.shape), np.uint8))
        return gym.spaces.Box(0, _brightest(space), image.shape[1:], np.uint8), lambda obs: _as_image(
            obs.astype(np.uint8)
        )
    with np.errstate(over="ignore"):
        low, high = (_channels_first(bound.astype(np.float32)[None])[0] for bound in (space.low, space.high))
    return gym.spaces.Box(low, high, dtype=np.float32), lambda obs: _channels_first(obs.astype(np.float32))


class _Vector(NamedTuple):
    """The vector that one observation becomes: bounds, what makes it of a batch (``[B, width]`` float32), parts."""

    low: Array
    high: Array
    flat: Callable[[Any], Array]
    parts: tuple[Part, ...]


def _vector(space: gym.Space, name: str, key: str = "") -> _Vector:
    """``key``: of this part of the whole observation."""
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        return _joined(space, name, key)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        sizes, start = np.ravel(getattr(space, "nvec", space.n if hasattr(space, "n") else 0)), np.ravel(space.start)
        width, first = int(sizes.sum()), np.cumsum(sizes) - sizes

        def one_hot(obs: Any) -> Array:
            places = np.asarray(obs).reshape(-1, len(sizes)) - start
            if len(outside := np.argwhere((places < 0) | (places >= sizes))):
                row = int(outside[0][0])
                raise EnvError(f"{name}, row {row}: the observation {(places + start)[row].tolist()} is not in {space}")
            codes = np.zeros((len(places), width), np.float32)
            codes[np.arange(len(places))[:, None], first + places] = 1.0
            return codes

        return _Vector(np.zeros(width, np.float32), np.ones(width, np.float32), one_hot, (Part(key, 0, (width,)),))
    if isinstance(space, gym.spaces.MultiBinary):
        width = int(np.prod(space.shape))
        bounds = np.zeros(width, np.float32), np.ones(width, np.float32)
        return _Vector(*bounds, lambda obs: _flat(obs, width), (Part(key, 0, (width,)),))
    if isinstance(space, gym.spaces.Box):
        width = int(np.prod(space.shape))
        unit = float(_brightest(space)) if space.dtype in (np.uint8, np.bool_) else 1.0
        with np.errstate(over="ignore"):
            low, high = (np.ravel(bound).astype(np.float32) / np.float32(unit) for bound in (space.low, space.high))
        return _Vector(low, high, lambda obs: _flat(obs, width) / np.float32(unit), (Part.of_box(key, space),))
    raise ValueError(
        f"{name}: {type(space).__name__} observations are not supported; wrap the environment so that they become a "
        "Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict of these"
    )


def _joined(space: gym.spaces.Tuple | gym.spaces.Dict, name: str, key: str) -> _Vector:
    keys, spaces = _parts(space)
    vectors = [_vector(part, name, f"{key}.{its}" if key else str(its)) for its, part in zip(keys, spaces, strict=True)]
    low, high = (np.concatenate([vector[k] for vector in vectors]) for k in (0, 1))
    starts = np.cumsum([0, *(len(vector.low) for vector in vectors)])
    parts = [
        part._replace(start=part.start + int(start))
        for start, vector in zip(starts[:-1], vectors, strict=True)
        for part in vector.parts
    ]

    def flat(obs: Any) -> Array:
        return np.concatenate([vector.flat(obs[its]) for its, vector in zip(keys, vectors, strict=True)], 1)

    return _Vector(low, high, flat, tuple(parts))


def _parts(space: gym.spaces.Tuple | gym.spaces.Dict) -> tuple[list[Any], list[gym.Space]]:
    """Keys and spaces of the parts, in their order."""
    spaces = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else dict(enumerate(space.spaces))
    return list(spaces), list(spaces.values())


def _flat(obs: Any, width: int) -> Array:
    return np.asarray(obs).reshape(-1, width).astype(np.float32)


def _brightest(space: gym.spaces.Box) -> int:
    return 1 if space.dtype == np.bool_ else int(space.high.max()) or 1


def stack_observations(space: gym.Space, rows: Sequence[Any]) -> Any:
    """Observations of single simulators as the batch that ``observation_adapter``'s function takes; copied."""
    out: Any = gym.vector.utils.create_empty_array(space, len(rows))
    return gym.vector.utils.concatenate(space, rows, out)


def _as_image(obs: Array) -> Array:
    """``_channels_first``; [B, H, W] gets a channel."""
    return obs[:, None] if obs.ndim == 3 else _channels_first(obs)


def _channels_first(obs: Array) -> Array:
    """[B, H, W, C] -> [B, C, H, W], and [B] -> [B, 1]. Channels are last where that axis is the shortest."""
    if obs.ndim == 1:
        return obs[:, None]
    if obs.ndim == 4 and obs.shape[3] < min(obs.shape[1:3]):
        return np.ascontiguousarray(obs.transpose(0, 3, 1, 2))
    return obs


def action_adapter(space: gym.Space, name: str) -> tuple[gym.Space, Callable[[Array], Any]]:
    """The action space shown outside, and the function that makes a batch of its actions one for the simulators.

    Outside all is Discrete or MultiDiscrete from 0 on, or a flat Box: a MultiBinary is a MultiDiscrete of twos, and a
    Tuple or Dict of discrete spaces one MultiDiscrete.

    Raises:
        ValueError: the space, or a part of it, is none of these, or it holds no number.
    """
    _refuse_empty(space, "the action space", name)
    if isinstance(space, gym.spaces.Discrete):
        return gym.spaces.Discrete(int(space.n)), lambda actions: actions + space.start
    if isinstance(space, gym.spaces.Box):
        flat = gym.spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)
        return (space if len(space.shape) == 1 else flat), lambda actions: actions.reshape(len(actions), *space.shape)
    sizes, take = _choices(space, name)
    return gym.spaces.MultiDiscrete(sizes), take


def _choices(space: gym.Space, name: str) -> tuple[list[int], Callable[[Array], Any]]:
    """Numbers of choices of the discrete parts, and the function ``[B, parts]`` -> what the simulators take."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)], lambda actions: actions[:, 0] + space.start
    if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        start = getattr(space, "start", 0)
        sizes = np.broadcast_to(getattr(space, "nvec", 2), space.shape).ravel()
        return [int(n) for n in sizes], lambda actions: (actions.reshape(len(actions), *space.shape) + start).astype(
            space.dtype
        )
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        keys, spaces = _parts(space)
        parts = [_choices(part, name) for part in spaces]
        cuts = np.cumsum([len(sizes) for sizes, _ in parts])[:-1]

        def take(actions: Array) -> Any:
            taken = [part(mine) for (_, part), mine in zip(parts, np.split(actions, cuts, 1), strict=True)]
            return tuple(taken) if isinstance(space, gym.spaces.Tuple) else dict(zip(keys, taken, strict=True))

        return [n for sizes, _ in parts for n in sizes], take
    raise ValueError(
        f"{name}: {type(space).__name__} actions are not supported; use Box, Discrete, MultiDiscrete, MultiBinary, "
        "or a Tuple or Dict of the discrete ones"
    )


def each_row(space: gym.Space, actions: Any) -> Iterator[Any]:
    """The actions of single simulators, from a batch that ``action_adapter``'s function has made."""
    if isinstance(space, gym.spaces.Tuple):
        return zip(*(each_row(part, mine) for part, mine in zip(space.spaces, actions, strict=True)), strict=True)
    if isinstance(space, gym.spaces.Dict):
        columns = [each_row(part, actions[key]) for key, part in space.spaces.items()]
        return (dict(zip(space.spaces, row, strict=True)) for row in zip(*columns, strict=True))
    return iter(actions)


def describe_space(space: gym.Space) -> dict[str, Any]:
    """A Box, Discrete or MultiDiscrete as JSON; ``space_of`` makes an equal one of it.

    Raises:
        ValueError: another kind of space.
    """
    if isinstance(space, gym.spaces.Box):
        bounds = {"low": _as_list(space.low), "high": _as_list(space.high)}
        box = {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
        if not isinstance(space, FlatBox):
            return box
        parts = [part._asdict() | {"shape": list(part.shape)} for part in space.parts]
        return box | {"type": "FlatBox", "parts": parts, "num_mask": space.num_mask}
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    raise ValueError(f"{space} is not supported; use Box, Discrete or MultiDiscrete")


def space_of(described: dict[str, Any]) -> gym.Space:
    """The space that ``describe_space`` described. Raises ValueError or KeyError if it did not."""
    kind = described["type"]
    if kind in ("Box", "FlatBox"):
        shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
        low, high = (_as_array(described[bound], shape, dtype) for bound in ("low", "high"))
        if kind == "Box":
            return gym.spaces.Box(low, high, shape, dtype.type)
        parts = [Part(**part | {"shape": tuple(part["shape"])}) for part in described["parts"]]
        return FlatBox(low, high, dtype.type, parts, int(described["num_mask"]))
    if kind == "Discrete":
        return gym.spaces.Discrete(described["n"], start=described["start"])
    if kind == "MultiDiscrete":
        return gym.spaces.MultiDiscrete(described["nvec"], start=described["start"])
    raise ValueError(f"unknown kind of space {kind!r}")


def _as_list(bounds: Array) -> list[float | str]:
    """One number if all are equal; what is not finite, which JSON lacks, as text."""
    numbers = bounds.astype(np.float64).ravel().tolist()
    if len(set(numbers)) == 1:
        numbers = numbers[:1]
    return [x if math.isfinite(x) else str(x) for x in numbers]


def _as_array(numbers: list[float | str], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    values = np.array([float(x) for x in numbers])
    return (np.full(shape, values[0]) if len(values) == 1 else values.reshape(shape)).astype(dtype)


def clip_actions(actions: Array, space: gym.Space) -> Array:
    """Within the bounds of a Box and in its dtype, as all continuous-control baselines do; other actions as int64."""
    if isinstance(space, gym.spaces.Box):
        return to_bounds(actions, space)
    return actions.astype(np.int64)
