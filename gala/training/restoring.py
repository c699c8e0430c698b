"""Which checkpoint a run goes on from: looked through as a whole before anything of the run is changed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gala.build.envs import probe_spaces
from gala.build.policy import make_policy
from gala.config import derived
from gala.config.schema import Config
from gala.runs.checkpoint_names import LATEST
from gala.runs.checkpoints import NO_CHECKPOINT, Damaged
from gala.runs.run_dir import RunDir

BEST = "best"
_GIVEN_UP = "given-up-best"
_NEEDED = ("env_steps", "ranks", "progress", "moments", "weights", "return_mean")


def choose(run_dir: RunDir, config: Config, wanted: str) -> tuple[str, list[str]]:
    """(name, lines for the user). ``wanted`` is a name, or empty: latest, or else the newest that is whole. The name is
    empty if the run has no checkpoint yet.

    Raises:
        ValueError: the wanted one cannot be used, or none can; the line names the file.
    """
    if wanted.startswith(_GIVEN_UP):
        raise ValueError(
            f"{run_dir.path}: {wanted} is of a part of the run that was given up, whose records are gone; it can be "
            "evaluated and exported, and not gone on from"
        )
    if wanted:
        check(run_dir, config, wanted)
        return wanted, new_episodes(run_dir, config, wanted)
    names = [name for name in run_dir.checkpoints.names() if not name.startswith(_GIVEN_UP)]
    problems: list[ValueError] = []
    for name in sorted(names, key=lambda name: (name != LATEST, -_env_steps(run_dir, name), name)):
        try:
            check(run_dir, config, name)
        except ValueError as error:
            problems.append(error)
        else:
            lines = [f"warning: {problem}" for problem in problems] + ([] if name == LATEST else [_falls(name)])
            return name, lines + new_episodes(run_dir, config, name)
    if problems:
        remedy = "to begin again, give gala train its words and overwrite=true"
        told = (error.problem if isinstance(error, Damaged) else str(error) for error in problems)
        each = "; ".join(dict.fromkeys(told))  # two names may be of one checkpoint
        raise ValueError(f"no checkpoint can be resumed from: {each}; {remedy}")
    return "", [f"{run_dir.path} {NO_CHECKPOINT}"]


def give_up_newer(run_dir: RunDir, name: str) -> list[str]:
    """The run goes on from ``name``: that is ``latest`` now, and the names of newer checkpoints are dropped, as their
    records are; else a run that is killed before its next checkpoint would go on with the part that was given up. A
    newer ``best`` is kept aside, under a name that nothing goes on from. Returns lines for the user."""
    done_steps, names = _env_steps(run_dir, name), run_dir.checkpoints.names()
    newer = [n for n in names if _env_steps(run_dir, n) > done_steps and not n.startswith(_GIVEN_UP)]
    lines = []
    if BEST in newer:
        candidates = (_GIVEN_UP, *(f"{_GIVEN_UP}{i}" for i in range(2, len(names) + 3)))
        free = next(candidate for candidate in candidates if candidate not in names)
        run_dir.checkpoints.point(free, BEST)
        lines.append(f"best is newer than {name}: it is kept as {free}")
    if name != LATEST:
        run_dir.checkpoints.point(LATEST, name)
    for dropped in newer:
        if dropped != LATEST:
            run_dir.checkpoints.drop(dropped)
    told = [n for n in newer if n not in (LATEST, BEST)]
    return [*lines, *([f"newer than {name}, and dropped: {', '.join(told)}"] if told else [])]


def new_episodes(run_dir: RunDir, config: Config, name: str) -> list[str]:
    """A line that says why simulators are not restored, if they are not."""
    for rank in run_dir.checkpoint_meta(name)["ranks"]:
        tensors, meta = run_dir.load_part(name, f"learner{rank}")
        if "in_progress" not in tensors:
            why = meta.get("new_episodes", "the checkpoint is of an earlier version")
            return [f"{config.env.id} begins new episodes, so the run differs from one that never stopped: {why}"]
    return []


def _falls(name: str) -> str:
    return f"resuming from {name}, the newest checkpoint that is whole"


def check(run_dir: RunDir, config: Config, name: str) -> None:
    """Raises ValueError, in one line with the file, if the checkpoint is damaged, holds what is not finite, or belongs
    to another run or network."""
    meta = run_dir.checkpoint_meta(name)
    where = run_dir.checkpoints.root / name
    run, ours = meta.get("run"), run_dir.identity()
    if run is not None and ours is not None and run != ours:
        raise ValueError(f"{where / 'meta.json'} is of another run ({run}, this is {ours})")
    missing = [key for key in _NEEDED if key not in meta]
    if missing or not meta["ranks"]:
        raise ValueError(f"{where / 'meta.json'} has no {(missing or ['ranks'])[0]}")
    if derived.is_lock_step(config) and meta["ranks"] != [*range(config.learners)]:
        raise ValueError(f"{where / 'meta.json'} has not all {config.learners} learners, which wait for each other")
    policy = make_policy(config, probe_spaces(config))
    network, learned = policy.state_dict(), {name for name, _ in policy.named_parameters()}
    for rank in meta["ranks"]:
        tensors, _ = run_dir.load_part(name, f"learner{rank}")
        file = where / f"learner{rank}.safetensors"
        _check_network(tensors.get("policy", {}), network, str(file))
        for group, named in tensors.items():
            for key, tensor in named.items():
                # A buffer may be a mask of -inf, a number of an optimiser no limit; what was learned is finite.
                may_be_infinite = key not in learned if group == "policy" else tensor.ndim == 0
                if tensor.is_floating_point() and _is_broken(tensor, may_be_infinite):
                    raise ValueError(f"{file} holds numbers that are not finite, in {group}.{key}")


def _is_broken(tensor: Tensor, may_be_infinite: bool) -> bool:
    return bool(tensor.isnan().any()) if may_be_infinite else not tensor.isfinite().all()


def _check_network(saved: dict[str, Any], network: dict[str, Any], file: str) -> None:
    if saved.keys() != network.keys():
        odd = min(saved.keys() ^ network.keys())
        raise ValueError(f"{file} is of another network: {odd} is {'missing' if odd in network else 'unknown'}")
    for key, tensor in network.items():
        if saved[key].shape != tensor.shape or saved[key].dtype != tensor.dtype:
            has = f"{saved[key].dtype} {list(saved[key].shape)}"
            raise ValueError(f"{file} is of another network: {key} is {has}, not {tensor.dtype} {list(tensor.shape)}")


def _env_steps(run_dir: RunDir, name: str) -> int:
    try:
        return int(run_dir.checkpoint_meta(name)["env_steps"])
    except (ValueError, KeyError, TypeError):
        return -1
