"""Checkpoints of a training of a video model: one part for each learner, and the model that all of them are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gala.config.video import VideoConfig
from gala.models.vrnn import VRNN
from gala.optim.ekfac import EKFAC
from gala.optim.slowmo import SlowMo
from gala.runs.checkpoint_names import LATEST
from gala.runs.checkpoints import Checkpoints
from gala.supervised.loop import SupervisedLearner
from gala.supervised.video import make_model
from gala.supervised.video_settings import find_data, kept_settings, read_settings

FOLDER, STAGING = "checkpoints", "staging"


def part_name(rank: int) -> str:
    """The part of one learner."""
    return f"learner{rank}"


def identity(config: VideoConfig) -> dict[str, Any]:
    """What every checkpoint of a training says of it."""
    return {"learners": config.learners, "settings": kept_settings(config)}


def refuse_edited(config: VideoConfig, checkpoints: Checkpoints) -> None:
    """Raises ValueError: the latest checkpoint was trained with other settings. One that is older than the record of
    them is believed."""
    now = kept_settings(config)
    for name, then in dict(checkpoints.meta(LATEST).get("settings", {})).items():
        if now.get(name, then) != then:
            where = checkpoints.root / LATEST
            raise ValueError(f"{where} was trained with {name}={then}, and config.yaml says {now[name]}: undo that")


def stage(checkpoints: Checkpoints, rank: int, learner: SupervisedLearner, meta: dict[str, Any]) -> None:
    """Write one learner's part, from any process; ``commit`` makes all parts visible at once.

    ``meta``: ``iteration``, the number that it has done, and ``gossip``, the averager's state, where there is one.
    """
    step = learner.learning_step
    moments = step.optimizer.state_dict()["state"]
    named = {f"{i}.{key}": x for i, values in moments.items() for key, x in values.items() if isinstance(x, Tensor)}
    tensors: dict[str, dict[str, Tensor]] = {"model": learner.model.state_dict(), "optimizer": named}
    tensors |= {name: extra.tensors() for name, extra in _extras(learner).items()}
    checkpoints.write_part(STAGING, part_name(rank), tensors, meta)


def restore(checkpoints: Checkpoints, rank: int, learner: SupervisedLearner) -> dict[str, Any]:
    """Put a learner where its part of the latest checkpoint was; returns its ``meta``. Raises ValueError."""
    tensors, meta = checkpoints.load_part(LATEST, part_name(rank))
    _load(learner.model, tensors["model"], checkpoints)
    extras, saved = _extras(learner), tensors.keys() - {"model", "optimizer"}
    if extras.keys() != saved:
        now, then = (", ".join(sorted(names)) or "neither ekfac nor slowmo" for names in (extras, saved))
        raise ValueError(f"{checkpoints.root / LATEST} was trained with {then}, and config.yaml says {now}: undo that")
    step = learner.learning_step
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors["optimizer"].items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    step.optimizer.load_state_dict({**step.optimizer.state_dict(), "state": moments})
    for name, extra in extras.items():
        extra.load_tensors(tensors[name])
    return meta


def _extras(learner: SupervisedLearner) -> dict[str, SlowMo | EKFAC]:
    """What learns beside the optimiser, by the name of its group of tensors."""
    step = learner.learning_step
    found = {"slowmo": step.slowmo, "ekfac": step.precondition}
    return {name: extra for name, extra in found.items() if isinstance(extra, (SlowMo, EKFAC))}


def load_video_model(run: str | Path) -> tuple[VideoConfig, VRNN]:
    """The settings of a run of ``gala video train``, and its model as ``load_consensus`` gives it.

    Raises:
        ValueError: it is no such run, has no checkpoint, its rollouts are not where the settings say, or these were
            edited since.
    """
    moved = f"where it was moved, `gala video resume {run} data=FOLDER` notes the place"
    config = find_data(Path(run), read_settings(Path(run)), remedy=moved)
    model = make_model(config)
    load_consensus(config, Path(run), model)
    return config, model


def load_consensus(config: VideoConfig, out: Path, model: VRNN) -> int:
    """Give ``model`` the mean of all learners' parameters, weighted by their PushSum weights; returns the number of
    iterations that the slowest has done. Raises ValueError: there is no checkpoint, it is damaged, or was trained with
    other settings."""
    checkpoints = Checkpoints(out / FOLDER)
    meta = checkpoints.meta(LATEST)
    if (saved := meta.get("learners", config.learners)) != config.learners:
        raise ValueError(
            f"{checkpoints.root / LATEST} is of {saved} learners, config.yaml of {config.learners}: undo that"
        )
    refuse_edited(config, checkpoints)  # before the tensors, which would not fit and name no setting
    parts = [checkpoints.load_part(LATEST, part_name(rank)) for rank in range(config.learners)]
    weights = [float(meta.get("gossip", {}).get("weight", 1.0)) for _, meta in parts]
    states = [tensors["model"] for tensors, _ in parts]
    total = sum(weights)
    with torch.no_grad():
        mean = {
            name: sum(state[name] * (w / total) for state, w in zip(states, weights, strict=True)) for name in states[0]
        }
    _load(model, mean if len(states) > 1 else states[0], checkpoints)
    return int(meta["iteration"])


def _load(model: torch.nn.Module, state: dict[str, Any], checkpoints: Checkpoints) -> None:
    """Raises ValueError where the settings have been changed since."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        details = str(error).splitlines()[1:2] or [str(error)]  # the first of them: there may be hundreds
        raise ValueError(
            f"the model of config.yaml is not that of {checkpoints.root / LATEST}: {details[0].strip()[:200]}"
        ) from None
