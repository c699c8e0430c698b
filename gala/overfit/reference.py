"""A reference where nobody knows the best return: a run trained on many MDPs, beside the sets that it is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gala_envs.contexts import ContextSet, Scalar
from gala_envs.families import make_family
from gala_envs.identity import identity
from gala_envs.splits import check_size

from gala.experiments.jobs import TrainingJob
from gala.overfit.judging import optimum_is_known
from gala.overfit.leakage import trained_on
from gala.overfit.options import JudgeOptions
from gala.runs.run_dir import RunDir

MANY = "many.json"
_REMEDY = "remove {}, and train it again with `gala overfit train on=many`, or give reference=random"


def reference_folder(sets: str | Path) -> Path:
    """Where ``gala overfit train on=many`` keeps the reference of a folder of sets."""
    return Path(sets) / "reference"


def with_reference(
    judging: JudgeOptions, folder: str | Path, sets: Mapping[str, ContextSet], limit: int = 0
) -> JudgeOptions:
    """``reference=auto`` as the run that was trained for these sets, in their ``folder``, if there is one and no
    optimum is known.

    Args:
        limit: ``max_episode_steps`` of those that are judged: see ``optimum_is_known``.

    Raises:
        ValueError: its training has not finished, or it was trained for other sets: ``check_reference_folder``.
    """
    run = reference_folder(folder) / "run0"
    if judging.reference != "auto" or not run.exists() or optimum_is_known(sets["train"], limit):
        return judging
    check_reference_folder(Path(folder), sets)
    if not TrainingJob(run, ()).finished:
        again = "the same `gala overfit train on=many` goes on with it"
        raise ValueError(f"the reference {run} has not finished its training; {again}, or give reference=random")
    return dataclasses.replace(judging, reference=str(run))


def check_reference_folder(folder: Path, sets: Mapping[str, ContextSet]) -> None:
    """Raises ValueError if the reference in a folder of sets is there and was trained for other sets than these: on
    MDPs of another kind, on one of theirs, or on others than ``many.json`` holds now."""
    path, run = folder / MANY, reference_folder(folder) / "run0"
    if not path.is_file():
        if run.exists():
            raise ValueError(f"{run} has no {path} to tell what it was trained on; {_REMEDY.format(run.parent)}")
        return
    many, train = ContextSet.read(path), sets["train"]
    remedy = _REMEDY.format(f"{path} and {run.parent}")
    family, fixed = make_family(train.family), _fixed(sets)
    if (many.family, many.region) != (train.family, train.region):
        raise ValueError(
            f"{path} is of {many.family} {many.region}, the sets of {train.family} {train.region}; {remedy}"
        )
    for name, value in fixed.items():
        default = family.parameters[name].default if name in family.parameters else None
        if odd := [c for c in many if c.get(name, default) != value]:
            told = f"{name}={odd[0].get(name, default)}, and the sets {name}={value}"
            raise ValueError(f"{path} has {told}; {remedy}")
    taken = {identity(family, context) for its in sets.values() for context in its}
    if shared := [context.uid for context in many if identity(family, context) in taken]:
        raise ValueError(f"{path} shares {len(shared)} MDPs with the sets ({shared[0]}, ...); {remedy}")
    if (run / "config.yaml").is_file() and "latest" in (its := RunDir.open(run)).checkpoints.names():
        others = set(trained_on(its, "latest")) - set(many.uids)
        if others:
            raise ValueError(f"{run} has trained on {len(others)} MDPs that {path} does not hold; {remedy}")


def write_many(folder: Path, sets: Mapping[str, ContextSet], number: int) -> None:
    """``number`` MDPs of the family, region and fixed parameters of the sets, none of which is in one of them, as
    ``many.json`` beside them; one that is there stays if it is of this size and for these sets.

    Raises:
        ValueError: the family has not so many, ``many.json`` has another size, or it or the reference in the folder is
            for other sets.
    """
    check_size(number)
    path, train = folder / MANY, sets["train"]
    if path.exists() and len(there := ContextSet.read(path)) != number:
        raise ValueError(f"{path} holds {len(there)} MDPs, not many={number}; give that, or remove it")
    check_reference_folder(folder, sets)
    if path.exists():
        return
    family = make_family(train.family)
    taken = {identity(family, context) for its in sets.values() for context in its}
    rng = np.random.default_rng([train.sampler_seed, 2])
    drawn = family.sample(number + len(taken), train.region or family.regions[0], rng, _fixed(sets))
    others = [context for context in drawn if identity(family, context) not in taken][:number]
    ContextSet(tuple(others), "train", train.region, train.sampler_seed).write(path)


def _fixed(sets: Mapping[str, ContextSet]) -> dict[str, Scalar]:
    """The parameters in which no two MDPs of the sets differ."""
    every = [dict(context.params) for its in sets.values() for context in its]
    return {name: value for name, value in every[0].items() if all(other.get(name) == value for other in every)}
