"""A training run judged on sets of contexts: rows of its episodes, and of the policies that it is set against."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gala_envs.contexts import ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family
from gala_envs.families.solved import solved_return

from gala.build.envs import Spaces
from gala.build.trust import check_trusted, family_code, named_code
from gala.config.schema import Config
from gala.diagnostics.overfitting.episodes import Row, evaluate
from gala.diagnostics.overfitting.policies import JudgedPolicy, RandomPolicy
from gala.diagnostics.overfitting.python_policies import python_policies
from gala.diagnostics.overfitting.torch_policy import TorchPolicy
from gala.evaluation.load import load_policy, return_scale
from gala.overfit.leakage import check_reference_run
from gala.overfit.options import JudgeOptions
from gala.runs.run_dir import RunDir

CURVE_CONTEXTS = 50
RANDOM_EPISODES = 5
FEWEST_EPISODES = 50
"""On a set: one with few contexts is played several times."""


def spaces_of(contexts: ContextSet, expose: bool = False) -> Spaces:
    """The spaces of a set's simulators; ``expose``: with the context's numbers in the observation."""
    env = ContextualEnv(make_family(contexts.family), contexts.take(1), 1, expose=expose)
    try:
        return Spaces(env.obs_space, env.action_space, env.frames_per_step)
    finally:
        env.close()


def load_agent(run: RunDir, contexts: ContextSet, judging: JudgeOptions, checkpoint: str = "") -> TorchPolicy:
    """The run's policy, with V in units of the environment's rewards, or without it (``return_scale``).

    Raises:
        ValueError: it was trained on another observation space than these contexts have, or names code of others.
    """
    named = named_code(run.config) | family_code(contexts.family)
    check_trusted(named, run.path, trust=judging.trust, remedy="add judge.trust=true")
    spaces = spaces_of(contexts, run.config.env.expose)
    network, normalizer = load_policy(run, run.config, spaces, checkpoint or judging.checkpoint, "consensus")
    scale = return_scale(run, checkpoint or judging.checkpoint)
    return TorchPolicy(network, normalizer, spaces.action, judging.act == "greedy", scale)


def env_options(config: Config) -> dict[str, Any]:
    """Options of the environments in which a run is judged: its training's, without the noise of training."""
    return {"expose": config.env.expose, "max_episode_steps": config.env.max_episode_steps}


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
        episodes = episodes_each(contexts, judging.episodes)
        played = evaluate(policy, contexts, episodes=episodes, seed=judging.seed, gamma=gamma, **options)
        varied = varied_parameters(contexts)
        rows += [head | row | {"params": {name: row["params"][name] for name in varied}} for row in played]
    if normalizer_hash(policy) != frozen:
        raise ValueError("the observation normaliser changed during the evaluation; freeze it")
    return rows


def episodes_each(contexts: ContextSet, episodes: int = 1) -> int:
    """How many episodes are played on each context: ``episodes``, or as many as a small set needs."""
    return max(episodes, -(-FEWEST_EPISODES // len(contexts)))


def try_policy(policy: JudgedPolicy, contexts: ContextSet) -> None:
    """Raises ValueError if the policy cannot act on a first observation: before anything else is done."""
    env = ContextualEnv(make_family(contexts.family), contexts.take(1), 2)
    try:
        obs = env.reset(0)
        action = policy.act(obs, None, np.ones(2, bool), [np.random.default_rng(k) for k in range(2)]).action
        env.step(np.asarray(action))
    finally:
        env.close()


def check_reference(
    judging: JudgeOptions, sets: Sequence[ContextSet], runs: Sequence[RunDir] = (), limit: int = 0
) -> None:
    """Raises ValueError, before anything is trained or played, for a reference that cannot be one for these sets and
    ``runs``: nobody knows the best return, there is no such function, or ``leakage.check_reference_run``."""
    if judging.reference == "optimal" and not optimum_is_known(sets[0], limit):
        raise ValueError(_nobody_knows(sets[0], limit))
    if (run := reference_run(judging)) is not None:
        check_reference_run(run, judging.checkpoint, sets, runs)
        load_agent(run, sets[0], judging)
    elif judging.reference not in ("auto", "optimal", "random"):
        try_policy(python_policies(judging.reference, 1, spaces_of(sets[0]).action)[0], sets[0])


def reference_run(judging: JudgeOptions) -> RunDir | None:
    """The run that ``reference=`` names; None where it names something else."""
    return RunDir.open(judging.reference) if (Path(judging.reference) / "config.yaml").is_file() else None


def optimum_is_known(contexts: ContextSet, limit: int = 0) -> bool:
    """Whether the family tells the best return. It knows nothing of a ``limit`` of the user's own on the steps."""
    return not limit and make_family(contexts.family).optimal_return(contexts.contexts[0]) is not None


def _nobody_knows(contexts: ContextSet, limit: int) -> str:
    within = f" within env.max_episode_steps={limit}" if limit else ""
    return f"reference=optimal: nobody knows the best return of {contexts.family}{within}"


def baselines(sets: Sequence[ContextSet], judging: JudgeOptions, head: Row, limit: int = 0) -> list[Row]:
    """Rows of the uniformly random policy, and of the reference: the best return where the family knows it
    (``optimal``; ``auto`` where it does), a function ``module:function`` or the directory of a run.

    Args:
        limit: ``max_episode_steps`` of those that are judged, which holds for both; a run observes as it was trained.

    Raises:
        ValueError: there is no such reference.
    """
    space, within = spaces_of(sets[0]).action, {"max_episode_steps": limit}
    often = dataclasses.replace(judging, episodes=max(judging.episodes, RANDOM_EPISODES))
    rows = judge(RandomPolicy(space), sets, often, head | {"policy": "random"}, **within)
    if judging.reference == "random":
        return rows
    if judging.reference in ("auto", "optimal"):
        known = [] if limit else [optimal_rows(contexts, head) for contexts in sets]
        if judging.reference == "optimal" and not (known and all(known)):
            raise ValueError(_nobody_knows(sets[0], limit))
        return rows + [row for best in known for row in best if all(known)]
    run, policy_head = reference_run(judging), head | {"policy": "reference"}
    if run is None:
        return rows + judge(python_policies(judging.reference, 1, space)[0], sets, judging, policy_head, **within)
    options = env_options(run.config) | within
    return rows + judge(load_agent(run, sets[0], judging), sets, judging, policy_head, **options)


def solved(family: str, judging: JudgeOptions, limit: int = 0) -> dict[str, Any] | None:
    """{return, source} of the return that counts as all of the task: what the user gave, or Gymnasium's, which is of
    the task with its own limit on the steps."""
    if judging.solved is not None:
        return {"return": judging.solved, "source": "given by the user"}
    known = None if limit else solved_return(family)
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
            played = evaluate(
                policy, contexts.take(CURVE_CONTEXTS), episodes=1, seed=judging.seed, **env_options(run.config)
            )
            mean = float(np.mean([row["return"] for row in played]))
            rows.append(head | {"env_steps": env_steps, "set": contexts.split, "return": mean})
    return sorted(rows, key=lambda row: (row["set"], row["env_steps"]))
