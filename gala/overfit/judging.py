"""A training run judged on sets of contexts: rows of its episodes, and of the policies that it is set against."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gala_envs.contexts import ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family
from gala_envs.families.solved import solved_return
from gala_envs.for_gymnasium import read_log
from gala_envs.identity import identity

from gala.build.envs import Spaces
from gala.build.trust import check_trusted, family_code, named_code
from gala.diagnostics.overfitting.episodes import Row, evaluate
from gala.diagnostics.overfitting.policies import JudgedPolicy, RandomPolicy
from gala.diagnostics.overfitting.python_policies import python_policies
from gala.diagnostics.overfitting.torch_policy import TorchPolicy
from gala.evaluation.load import load_policy
from gala.overfit.options import JudgeOptions
from gala.runs.run_dir import RunDir

CURVE_CONTEXTS = 50
RANDOM_EPISODES = 5
FEWEST_EPISODES = 50
"""On a set: one with few contexts is played several times."""


def spaces_of(contexts: ContextSet, expose: bool = False) -> Spaces:
    env = ContextualEnv(make_family(contexts.family), contexts.take(1), 1, expose=expose)
    try:
        return Spaces(env.obs_space, env.action_space, env.frames_per_step)
    finally:
        env.close()


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
    family = make_family(sets["train"].family)
    for path in filter(None, logs.split(",")):
        played = read_log(path)
        if any(c.family != family.name for c in played):
            raise ValueError(f"{path} is of another family than {family.name}")
        seen = {identity(family, c) for c in played}
        for name, contexts in sets.items():
            leaked = [c.uid for c in contexts if identity(family, c) in seen]
            if name != "train" and leaked:
                raise ValueError(f"{path}: {len(leaked)} MDPs of the {name} set were trained on ({leaked[0]}, ...)")
        if foreign := seen - {identity(family, c) for c in sets["train"]}:
            raise ValueError(f"{path}: {len(foreign)} MDPs outside the train set were trained on")


def load_agent(run: RunDir, contexts: ContextSet, judging: JudgeOptions, checkpoint: str = "") -> TorchPolicy:
    """The run's policy. Raises ValueError if it was trained on another observation space than these contexts have."""
    named = named_code(run.config) | family_code(contexts.family)
    check_trusted(named, run.path, trust=judging.trust, remedy="add judge.trust=true")
    spaces = spaces_of(contexts, run.config.env.expose)
    network, normalizer = load_policy(run, run.config, spaces, checkpoint or judging.checkpoint, "consensus")
    return TorchPolicy(network, normalizer, spaces.action, judging.act == "greedy")


def env_options(run: RunDir) -> dict[str, Any]:
    """Options of the environments in which a run is judged: its training's, without the noise of training."""
    return {"expose": run.config.env.expose, "max_episode_steps": run.config.env.max_episode_steps}


def normalizer_hash(policy: JudgedPolicy) -> str:
    """A hash of the statistics that observations are divided by; 'none' without."""
    normalizer = getattr(policy, "normalizer", None)
    return "none" if normalizer is None else hashlib.sha256(normalizer.applied.pack().tobytes()).hexdigest()[:16]


def judge(
    policy: JudgedPolicy,
    sets: Sequence[ContextSet],
    judging: JudgeOptions,
    head: Row,
    gamma: float = 0.99,
    **options: Any,
) -> list[Row]:
    """Rows of ``policy`` on each set, each with the fields of ``head``.

    Raises:
        ValueError: the policy's observation statistics moved while it was judged.
    """
    frozen, rows = normalizer_hash(policy), []
    for contexts in sets:
        episodes = max(judging.episodes, -(-FEWEST_EPISODES // len(contexts)))
        played = evaluate(policy, contexts, episodes=episodes, seed=judging.seed, gamma=gamma, **options)
        varied = varied_parameters(contexts)
        rows += [head | row | {"params": {name: row["params"][name] for name in varied}} for row in played]
    if normalizer_hash(policy) != frozen:
        raise ValueError("the observation normaliser changed during the evaluation; freeze it")
    return rows


def try_policy(policy: JudgedPolicy, contexts: ContextSet) -> None:
    """Raises ValueError if the policy cannot act on a first observation: before anything else is done."""
    env = ContextualEnv(make_family(contexts.family), contexts.take(1), 2)
    try:
        obs = env.reset(0)
        action = policy.act(obs, None, np.ones(2, bool), [np.random.default_rng(k) for k in range(2)]).action
        env.step(np.asarray(action))
    finally:
        env.close()


def baselines(sets: Sequence[ContextSet], judging: JudgeOptions, head: Row) -> list[Row]:
    """Rows of the uniformly random policy, and of the reference: the best return where the family knows it
    (``optimal``; ``auto`` where it does), a function ``module:function`` or the directory of a run.

    Raises:
        ValueError: there is no such reference.
    """
    space = spaces_of(sets[0]).action
    often = dataclasses.replace(judging, episodes=max(judging.episodes, RANDOM_EPISODES))
    reference, rows = judging.reference, judge(RandomPolicy(space), sets, often, head | {"policy": "random"})
    if reference == "random":
        return rows
    if reference in ("auto", "optimal"):
        known = [optimal_rows(contexts, head) for contexts in sets]
        if reference == "optimal" and not all(known):
            raise ValueError(f"reference=optimal: nobody knows the best return of {sets[0].family}")
        return rows + [row for best in known for row in best if all(known)]
    policy: JudgedPolicy
    if (Path(reference) / "config.yaml").is_file():
        policy = load_agent(RunDir.open(reference), sets[0], judging)
    else:
        policy = python_policies(reference, 1, space)[0]
    return rows + judge(policy, sets, judging, head | {"policy": "reference"})


def solved(family: str, judging: JudgeOptions) -> dict[str, Any] | None:
    """{return, source} of the return that counts as all of the task: what the user gave, or Gymnasium's."""
    if judging.solved is not None:
        return {"return": judging.solved, "source": "given by the user"}
    known = solved_return(family)
    return None if known is None else {"return": known.value, "source": known.source}


def optimal_rows(contexts: ContextSet, head: Row) -> list[Row]:
    """One row per context with its best return; none if any is unknown."""
    family = make_family(contexts.family)
    best = [family.optimal_return(c) for c in contexts]
    if any(value is None for value in best):
        return []
    blank = {"length": 0, "success": None, "value": None, "discounted": None, "entropy": None, "episode": 0}
    return [
        head | blank | {"policy": "reference", "set": contexts.split, "context": c.uid, "return": value}
        for c, value in zip(contexts, best, strict=True)
    ]


def varied_parameters(contexts: ContextSet) -> list[str]:
    """Names of the parameters that differ between the contexts of a set."""
    first = contexts.contexts[0].params
    return [name for name, value in first if any(c.get(name, value) != value for c in contexts)]


def curves(run: RunDir, sets: Sequence[ContextSet], judging: JudgeOptions, head: Row) -> list[Row]:
    """Mean return on (the first fifty contexts of) each set at each milestone of a run that is kept on disk."""
    rows = []
    for name in run.checkpoints.names():
        if not name.startswith("step") and name != "latest":
            continue
        env_steps = int(run.checkpoint_meta(name)["env_steps"])
        for contexts in sets:
            policy = load_agent(run, contexts, judging, name)
            played = evaluate(policy, contexts.take(CURVE_CONTEXTS), episodes=1, seed=judging.seed, **env_options(run))
            mean = float(np.mean([row["return"] for row in played]))
            rows.append(head | {"env_steps": env_steps, "set": contexts.split, "return": mean})
    return sorted(rows, key=lambda row: (row["set"], row["env_steps"]))
