"""Contextual MDPs: what a training or test MDP is, sets of them that cannot change unnoticed, and how sets are split.

A context fixes an MDP: its family, its parameters and its level seed. What the level seed does not fix (sticky actions,
sensor noise, a start drawn anew in each episode) comes from an episode's noise seed, which is no part of the MDP.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array

Scalar = int | float | str | bool
Split = Literal["train", "val", "test", "extrap"]
SCHEMA_VERSION = 1
_PATIENCE = 200


@dataclass(frozen=True)
class Context:
    """One MDP. ``params`` are sorted by name; ``seed`` is the level seed (None: the MDP has none).

    ``uid`` is the same in every process and for every order of the parameters; one ulp in one parameter changes it.
    """

    family: str
    params: tuple[tuple[str, Scalar], ...] = ()
    seed: int | None = None

    @classmethod
    def of(cls, family: str, seed: int | None = None, **params: Scalar) -> Context:
        return cls(family, tuple(sorted(params.items())), seed)

    @cached_property
    def uid(self) -> str:
        return _digest(self.to_json())[:16]

    def __getitem__(self, name: str) -> Any:
        return dict(self.params)[name]

    def get(self, name: str, default: Any) -> Any:
        return dict(self.params).get(name, default)

    def with_params(self, **params: Scalar) -> Context:
        """The same context but for these parameters."""
        return replace(self, params=tuple(sorted({**dict(self.params), **params}.items())))

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family, "params": dict(self.params), "seed": self.seed}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Context:
        return cls.of(tree["family"], tree["seed"], **tree["params"])


@dataclass(frozen=True)
class ContextSet:
    """Ordered, frozen contexts of one family and one split, and where they came from.

    Raises:
        ValueError: no context, two equal ones, or contexts of several families.
    """

    contexts: tuple[Context, ...]
    split: Split
    region: str = ""
    sampler_seed: int = 0

    def __post_init__(self) -> None:
        if not self.contexts:
            raise ValueError(f"the {self.split} set has no context")
        if self.split not in get_args(Split):
            raise ValueError(f"split '{self.split}' must be one of {', '.join(get_args(Split))}")
        if len({c.family for c in self.contexts}) > 1:
            raise ValueError(f"the {self.split} set mixes families: {', '.join(sorted({c.family for c in self}))}")
        if len(set(self.uids)) < len(self.contexts):
            twice = next(uid for uid in self.uids if self.uids.count(uid) > 1)
            raise ValueError(f"context {twice} is in the {self.split} set twice")

    def __len__(self) -> int:
        return len(self.contexts)

    def __iter__(self) -> Any:
        return iter(self.contexts)

    @property
    def family(self) -> str:
        return self.contexts[0].family

    @cached_property
    def uids(self) -> tuple[str, ...]:
        return tuple(c.uid for c in self.contexts)

    @cached_property
    def sha256(self) -> str:
        """A hash of the contexts in their order, the split and the provenance."""
        return _digest(self.to_json())

    def take(self, n: int) -> ContextSet:
        """The first ``n`` contexts."""
        return replace(self, contexts=self.contexts[:n])

    def with_params(self, **params: Scalar) -> ContextSet:
        """The same set with these parameters changed in every context."""
        return replace(self, contexts=tuple(c.with_params(**params) for c in self.contexts))

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "split": self.split,
            "region": self.region,
            "sampler_seed": self.sampler_seed,
            "contexts": [c.to_json() for c in self.contexts],
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ContextSet:
        """Raises ValueError if the tree was written by another schema, or its hash no longer fits its contents."""
        if tree.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"context set of schema {tree.get('schema')!r}; this version reads {SCHEMA_VERSION}")
        contexts = tuple(Context.from_json(c) for c in tree["contexts"])
        read = cls(contexts, tree["split"], tree["region"], tree["sampler_seed"])
        if "sha256" not in tree:
            raise ValueError(
                "the context set has no hash, so nobody can tell whether it is what was written; sets are "
                "written by `gala overfit split`, or by ContextSet.write"
            )
        if tree["sha256"] != read.sha256:
            raise ValueError("the context set was edited after it was written: its hash does not fit its contents")
        return read

    def write(self, path: str | Path) -> None:
        """As JSON with its hash. Raises ValueError if the file exists."""
        path = Path(path)
        if path.exists():
            raise ValueError(f"{path} already exists; choose another directory or remove it first")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.to_json() | {"sha256": self.sha256}, indent=1) + "\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | Path) -> ContextSet:
        """Raises ValueError, naming the file, if it is no context set or its hash does not fit."""
        try:
            return cls.from_json(json.loads(Path(path).read_text()))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such context set; write one with `gala overfit split`") from None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is not a context set") from None
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            text = str(error)
            raise ValueError(f"{path}: {text[:300]}{' ...' if len(text) > 300 else ''}") from None


class Parameter(NamedTuple):
    """What a context may set: a number in [low, high], or one of ``choices``."""

    default: Scalar
    low: float = -np.inf
    high: float = np.inf
    choices: tuple[Scalar, ...] = ()


class Transition(NamedTuple):
    """One step of all rows, before any autoreset. ``success`` is read where an episode ended; None: undefined."""

    obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    success: Array | None = None


class Simulators(Protocol):
    """Rows of MDPs of one family, each on a context of its own. No autoreset: ``ContextualEnv`` does that."""

    obs_space: gym.Space
    action_space: gym.Space
    frames_per_step: int

    def start(self, rows: Array, contexts: Sequence[Context], noise: Sequence[np.random.Generator]) -> Array:
        """Begin an episode of ``contexts[i]`` in row ``rows[i]``. Returns obs [len(rows), ...].

        All randomness that the context does not fix comes from ``noise[i]``, in this episode's later steps too.
        """
        ...

    def step(self, actions: Array) -> Transition:
        """Advance all rows; ``actions`` are already checked. Rows whose episode is over were restarted before."""
        ...

    def close(self) -> None: ...


class Family(Protocol):
    """A kind of contextual MDP; ``gala_envs.families.FAMILIES`` lists them.

    ``name`` is what ``Context.family`` holds, such as maze or classic:CartPole-v1. ``compares``: what two contexts must
    have in common to be one MDP, in words. ``regions``: the distributions that
    contexts can be drawn from, the usual one first. ``parameters``: everything that a context of it may set.
    """

    name: str
    regions: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    compares: str

    def sample(self, n: int, region: str, rng: np.random.Generator, settings: Mapping[str, Scalar]) -> list[Context]:
        """``n`` contexts, no two of them the same MDP (by ``fingerprint``). ``settings`` fix parameters of them all.

        Raises:
            ValueError: the family has fewer, or a setting is impossible.
        """
        ...

    def simulators(self, contexts: Sequence[Context], num_envs: int, threads: int) -> Simulators:
        """Rows that can play any of ``contexts``."""
        ...

    def fingerprint(self, context: Context) -> str:
        """Equal for two contexts that are the same MDP in spite of their seeds: a hash of all that dynamics, reward and
        start depend on, or of what comes of fixed actions. See ``identity`` for contexts that were not drawn here."""
        ...

    def optimal_return(self, context: Context) -> float | None:
        """The best return, exactly; None where nobody knows it."""
        ...


def draw_distinct(
    n: int, draw: Callable[[], Context], fingerprint: Callable[[Context], str], cardinality: float = np.inf
) -> list[Context]:
    """``n`` contexts from ``draw``, no two with one fingerprint.

    Raises:
        ValueError: ``n`` is above ``cardinality``, or so many draws in a row were repetitions that there are no more.
    """
    known: dict[str, Context] = {}
    repeated = 0
    # Were one of equally likely contexts left, ten times as many draws would miss it with probability exp(-10).
    while len(known) < min(n, cardinality) and repeated < _PATIENCE + 10 * len(known):
        context = draw()
        print_ = fingerprint(context)
        repeated = repeated + 1 if print_ in known else 0
        known.setdefault(print_, context)
    if len(known) < n:
        raise ValueError(f"{n} different contexts were asked for, but with these settings there are only {len(known)}")
    return list(known.values())


def array_hash(*arrays: Array) -> str:
    """A hash of shapes, dtypes and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        a = np.ascontiguousarray(array + 0.0 if array.dtype.kind == "f" else array)  # -0.0 is 0.0
        sha.update(f"{a.shape}{a.dtype.str}".encode())
        sha.update(a.tobytes())
    return sha.hexdigest()[:16]


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
