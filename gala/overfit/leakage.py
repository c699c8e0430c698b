"""What a run was trained on decides on which sets it may be judged, and whether gaps may be taken against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.for_gymnasium import read_log
from gala_envs.identity import canonical, identity

from gala.runs.distinct import are_one
from gala.runs.run_dir import RunDir


def trained_on(run: RunDir, checkpoint: str) -> dict[str, int]:
    """Id of each MDP that the learners of a run have played -> number of episodes."""
    counts: dict[str, int] = {}
    for rank in run.checkpoint_meta(checkpoint)["ranks"]:
        for uid, n in run.load_part(checkpoint, f"learner{rank}")[1].get("contexts", {}).items():
            counts[uid] = counts.get(uid, 0) + n
    return counts


def check_training(run: RunDir, checkpoint: str, sets: Mapping[str, ContextSet]) -> None:
    """Raises ValueError if the run has seen any MDP of another set, or none that could be checked."""
    seen = trained_on(run, checkpoint)
    if not seen:
        raise ValueError(f"{run.path} was not trained on contexts, so nobody can tell train from test in its score")
    for name, contexts in sets.items():
        if name != "train" and (leaked := set(seen) & set(contexts.uids)):
            raise ValueError(
                f"{run.path} has trained on {len(leaked)} MDPs of the {name} set ({min(leaked)}: "
                f"{seen[min(leaked)]} episodes): its score there would measure nothing"
            )
    if foreign := set(seen) - set(sets["train"].uids):
        raise ValueError(f"{run.path} has trained on {len(foreign)} MDPs outside the train set ({min(foreign)}, ...)")


def check_oracle(run: RunDir, checkpoint: str, test: ContextSet) -> None:
    """Raises ValueError unless the run has trained on test MDPs and on no others."""
    seen = set(trained_on(run, checkpoint))
    if not seen or (others := seen - set(test.uids)):
        told = f"{len(others)} others ({min(others)}, ...)" if seen else "no context that it has recorded"
        raise ValueError(f"oracle={run.path} must have trained on test MDPs and no others; it has trained on {told}")


def check_played(logs: str, sets: Mapping[str, ContextSet]) -> None:
    """As ``check_training``, for logs of ``gala_envs.as_gymnasium``, by commas."""
    family, paths = make_family(sets["train"].family), [path for path in logs.split(",") if path]
    if logs and not paths:
        raise ValueError(f"played={logs} names no file")
    for path in paths:
        played = read_log(path)
        if not played:
            raise ValueError(f"{path} names no MDP, so it proves nothing: was it given to as_gymnasium(log=...)?")
        if any(c.family != family.name for c in played):
            raise ValueError(f"{path} is of another family than {family.name}")
        seen = {identity(family, c) for c in played}
        for name, contexts in sets.items():
            leaked = [c.uid for c in contexts if identity(family, c) in seen]
            if name != "train" and leaked:
                raise ValueError(f"{path}: {len(leaked)} MDPs of the {name} set were trained on ({leaked[0]}, ...)")
        if foreign := seen - {identity(family, c) for c in sets["train"]}:
            raise ValueError(f"{path}: {len(foreign)} MDPs outside the train set were trained on")


def check_reference_run(run: RunDir, checkpoint: str, sets: Sequence[ContextSet], judged: Sequence[RunDir]) -> None:
    """Raises ValueError unless gaps on these sets may be taken against ``run``: it is none of those that are
    ``judged``, and what it was trained on is known and in none of the sets. Else its own gap would hide theirs."""
    if same := [other for other in judged if are_one(run, other)]:
        raise ValueError(f"reference={run.path} is {same[0].path}, which is judged: against itself it has no gap")
    seen = set(trained_on(run, checkpoint))
    if not seen:
        raise ValueError(
            f"reference={run.path} was not trained on contexts: whether it knows these sets cannot be told"
        )
    for contexts in sets:
        family = make_family(contexts.family)
        if known := sorted(seen & {uid for c in contexts for uid in (c.uid, canonical(family, c).uid)}):
            raise ValueError(
                f"reference={run.path} has trained on {len(known)} MDPs of the {contexts.split} set ({known[0]}, ...): "
                "its own gap would hide that of the others; `gala overfit train on=many` trains one on other MDPs"
            )


def common_limit(runs: Sequence[RunDir]) -> int:
    """``env.max_episode_steps`` of the runs, 0 for the task's own. Raises ValueError if they differ in it."""
    limits: dict[int, RunDir] = {}
    for run in runs:
        limits.setdefault(run.config.env.max_episode_steps, run)
    if len(limits) > 1:
        (one, a), (other, b), *_ = limits.items()
        raise ValueError(
            f"{a.path} has env.max_episode_steps={one} and {b.path} {other}: returns of episodes that end at different "
            "limits cannot be compared; judge them apart"
        )
    return next(iter(limits), 0)
