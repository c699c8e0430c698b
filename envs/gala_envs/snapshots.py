"""The state of simulators as data: read from them, written as JSON, put back into others of the same kind. No pickle.

A part of an environment takes part in one of two ways. ``SAVED`` on its class names the attributes that change while it
runs; those that are parts themselves, or lists of parts, are followed. Or it has ``get_state()`` and
``set_state(state)`` of its own. A state is built from None, bool, int, float, str, NumPy arrays, scalars and random
generators, in lists, tuples, deques and dicts; what occurs in it twice is restored as one object.

Simulators written in Python need neither (``python_state``), as long as all of their attributes are such values.
"""

from __future__ import annotations

import base64
import itertools
import json
import types
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

State = Any
_CONSTANTS = (gym.Space, EnvSpec, type, types.ModuleType, types.BuiltinFunctionType, np.dtype, np.ufunc, PurePath)
_NOT_STATE = {"_saved_kwargs", "spec", "_cached_spec"}
"""Attributes by which Gymnasium remembers how an environment was made."""
_BIT_GENERATORS = {c.__name__: c for c in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox)}


class Unrestorable(ValueError):
    """These simulators cannot be restored; the text says which and why, in a few words."""


def get_state(part: Any) -> State:
    """The state of a part as it is now; may share memory with it. Raises Unrestorable."""
    if (own := getattr(type(part), "get_state", None)) is not None:
        return own(part)
    if (names := getattr(type(part), "SAVED", None)) is None:
        raise Unrestorable(f"the state of {type(part).__name__} cannot be read")
    return {name: _map_parts(getattr(part, name)) for name in names}


def set_state(part: Any, state: State) -> None:
    """Put back what ``get_state`` gave, or what ``loads`` has made of it; the state is used up."""
    if (own := getattr(type(part), "set_state", None)) is not None:
        return own(part, state)
    for name in type(part).SAVED:
        now, value = getattr(part, name), state[name]
        if _is_part(now):
            set_state(now, value)
        elif _is_parts(now):
            for each, its in zip(now, value, strict=True):
                set_state(each, its)
        elif _same_layout(now, value):
            now[...] = value  # where it lies: others may look at it
        else:
            setattr(part, name, value)
    return None


def _same_layout(a: Any, b: Any) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype


def _is_part(value: Any) -> bool:
    return hasattr(type(value), "SAVED") or hasattr(type(value), "get_state")


def _is_parts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_part(each) for each in value)


def _map_parts(value: Any) -> State:
    return [get_state(each) for each in value] if _is_parts(value) else get_state(value) if _is_part(value) else value


def python_state(env: Any) -> list[dict[str, Any]]:
    """All attributes of a simulator that is written in Python, of its wrappers from the outermost on and of itself,
    but for what never changes, such as spaces."""
    return [
        {k: v for k, v in vars(layer).items() if k not in _NOT_STATE | {"env"} and not _is_constant(v)}
        for layer in _layers(env)
    ]


def set_python_state(env: Any, state: list[dict[str, Any]]) -> None:
    """Put back what ``python_state`` gave."""
    for layer, attributes in zip(_layers(env), state, strict=True):
        vars(layer).update(attributes)


def _layers(env: Any) -> list[Any]:
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _is_constant(value: Any) -> bool:
    plain_function = isinstance(value, types.FunctionType) and value.__closure__ is None
    return isinstance(value, _CONSTANTS) or plain_function


def dumps(state: State) -> bytes:
    """As JSON. Raises Unrestorable if something in it is none of the values above, or if arrays overlap."""
    writer = _Writer()
    tree = writer.write(state, "")
    writer.check_overlaps()
    return json.dumps(tree).encode()


def loads(data: bytes) -> State:
    """The inverse of ``dumps``: a copy of the state."""
    return _Reader().read(json.loads(data))


class _Writer:
    """Containers, arrays and generators are numbered in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._arrays: list[tuple[int, int, str]] = []
        self._kept: list[Any] = []  # an id is one's own only while one lives

    def write(self, value: Any, path: str) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.generic):
            return {"scalar": _array(np.asarray(value), path)}
        if id(value) in self._numbers:
            return {"again": self._numbers[id(value)]}
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        kind, body = self._write_new(value, path)
        return {kind: body}

    def _write_new(self, value: Any, path: str) -> tuple[str, Any]:
        kind, body = type(value), None
        if kind is np.ndarray:
            self._arrays.append((*np.lib.array_utils.byte_bounds(value), path))
            body = _array(value, path)
        elif kind is dict:
            body = [[self.write(k, path), self.write(v, f"{path}.{k}")] for k, v in value.items()]
        elif kind in (list, tuple, deque):
            body = [self.write(each, f"{path}[{i}]") for i, each in enumerate(value)]
            body = [value.maxlen, body] if kind is deque else body
        elif kind is np.random.Generator and type(value.bit_generator).__name__ in _BIT_GENERATORS:
            body = self.write(value.bit_generator.state, path)
        elif kind is np.random.RandomState:
            body = self.write(value.get_state(legacy=False), path)
        else:
            raise Unrestorable(f"{path.lstrip('.')} is a {kind.__name__}")
        return kind.__name__, body

    def check_overlaps(self) -> None:
        """An array that shares memory with another would be restored as two."""
        self._arrays.sort()
        for (_, end, _), (start, _, path) in itertools.pairwise(self._arrays):
            if start < end:
                raise Unrestorable(f"{path.lstrip('.')} shares memory with another array")


def _array(array: np.ndarray, path: str) -> list[Any]:
    if array.dtype.kind not in "biufcSUmM":
        raise Unrestorable(f"{path.lstrip('.')} holds {array.dtype}")
    return [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _from_array(tree: list[Any]) -> np.ndarray:
    dtype, shape, data = tree
    return np.frombuffer(bytearray(base64.b64decode(data)), np.dtype(dtype)).reshape(shape)


class _Reader:
    """Numbers as the writer does."""

    def __init__(self) -> None:
        self._known: list[Any] = []

    def read(self, tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        ((kind, body),) = tree.items()
        if kind == "scalar":
            return _from_array(body)[()]
        if kind == "again":
            return self._known[body]
        number = len(self._known)
        self._known.append(_EMPTY[kind](body) if kind in _EMPTY else None)
        if kind == "dict":
            self._known[number].update((self.read(k), self.read(v)) for k, v in body)
        elif kind in _EMPTY:
            self._known[number].extend(self.read(each) for each in (body[1] if kind == "deque" else body))
        else:
            self._known[number] = self._leaf(kind, body)
        return self._known[number]

    def _leaf(self, kind: str, body: Any) -> Any:
        if kind == "ndarray":
            return _from_array(body)
        if kind == "tuple":
            return tuple(self.read(each) for each in body)
        state = self.read(body)
        if kind == "RandomState":
            stream = np.random.RandomState()
            stream.set_state(state)
            return stream
        bits = _BIT_GENERATORS[state["bit_generator"]]()
        bits.state = state
        return np.random.Generator(bits)


_EMPTY: dict[str, Callable[[Any], Any]] = {
    "list": lambda _: [],
    "dict": lambda _: {},
    "deque": lambda body: deque(maxlen=body[0]),
}
"""Containers that can hold themselves: made before what is in them."""
