"""A reference where nobody knows the best return: a run trained on many MDPs, beside the sets that it is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.identity import identity

from gala.overfit.options import JudgeOptions

MANY = "many.json"


def reference_folder(sets: str | Path) -> Path:
    """Where ``gala overfit train on=many`` keeps the reference of a folder of sets."""
    return Path(sets) / "reference"


def with_reference(judging: JudgeOptions, sets: str | Path) -> JudgeOptions:
    """``reference=auto`` as the run that was trained for these sets, if there is one and no optimum is known."""
    run = reference_folder(sets) / "run0"
    if judging.reference != "auto" or not (run / "checkpoints" / "latest").exists():
        return judging
    train = ContextSet.read(Path(sets) / "train.json")
    known = make_family(train.family).optimal_return(train.contexts[0]) is not None
    return judging if known else dataclasses.replace(judging, reference=str(run))


def write_many(folder: Path, sets: Mapping[str, ContextSet], number: int) -> None:
    """``number`` MDPs of the family, region and fixed parameters of the sets, none of which is in one of them, as
    ``many.json`` beside them; one that is there stays if it is of this size.

    Raises:
        ValueError: the family has not so many, or ``many.json`` has another size.
    """
    path, train = folder / MANY, sets["train"]
    if path.exists():
        if len(there := ContextSet.read(path)) != number:
            raise ValueError(f"{path} holds {len(there)} MDPs, not many={number}; give that, or remove it")
        return
    family = make_family(train.family)
    every = [dict(context.params) for its in sets.values() for context in its]
    fixed = {name: value for name, value in every[0].items() if all(other.get(name) == value for other in every)}
    taken = {identity(family, context) for its in sets.values() for context in its}
    rng = np.random.default_rng([train.sampler_seed, 2])
    drawn = family.sample(number + len(taken), train.region or family.regions[0], rng, fixed)
    others = [context for context in drawn if identity(family, context) not in taken][:number]
    ContextSet(tuple(others), "train", train.region, train.sampler_seed).write(path)
