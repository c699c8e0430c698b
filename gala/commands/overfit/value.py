"""``gala overfit value``: what else one run has learned by heart."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from gala_envs.contexts import ContextSet

from gala.commands.overfit.words import show_help, sort_words
from gala.commands.waiting import waiting
from gala.config.own_words import asks_for_help, take_paths
from gala.diagnostics.overfitting import probes
from gala.overfit.header import SIGNS
from gala.overfit.judging import env_options, judge, load_agent
from gala.overfit.leakage import check_training
from gala.overfit.options import EvalOptions
from gala.overfit.study import read_sets
from gala.runs.run_dir import RunDir


def value(words: Sequence[str]) -> int:
    """RUN sets=DIR: errors of V(s0), shift of the policy under noise, blind replay, what features tell of the MDP."""
    if asks_for_help(words):
        return show_help("value RUN", EvalOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, EvalOptions, None)
    if training or len(paths) != 1:
        raise ValueError("usage: gala overfit value RUN sets=DIRECTORY")
    sets, run, judging = read_sets(options.sets, trust=options.judge.trust), RunDir.open(paths[0]), options.judge
    check_training(run, judging.checkpoint, sets)
    options_of_run = env_options(run.config)
    print(f"{'':<18}{'train':>10}{'test':>10}")
    probed: dict[str, dict[str, float]] = {}
    for name in ("train", "test"):
        agent = load_agent(run, sets[name], judging)
        with waiting(f"playing the {name} set"):
            rows = judge(agent, [sets[name]], judging, {"policy": "agent"}, run.config.a2c.gamma, **options_of_run)
            probed[name] = _probe(agent, sets[name], rows, judging.seed, options_of_run)
    for key in probed["train"]:
        print(f"{key:<18}" + "".join(f"{probed[name][key]:>10.3f}" for name in probed))
    if "value mse" not in probed["train"]:
        print("\n".join(textwrap.wrap(f"V(s0) is left out: {SIGNS}", 80)))
    elif probed["train"]["value mse"]:
        ratio = probed["test"]["value mse"] / probed["train"]["value mse"]
        print(f"value mse, test / train: {ratio:.2f} (1: the value function generalises)")
    return 0


def _probe(
    agent: Any, contexts: ContextSet, rows: list[dict[str, Any]], seed: int, options: dict[str, Any]
) -> dict[str, float]:
    probed = {"return": float(np.mean([r["return"] for r in rows]))}
    probed |= {"entropy": float(np.mean([r["entropy"] for r in rows]))}
    if agent.value_scale is not None:
        errors = probes.value_errors(rows)
        probed |= {"value bias": errors.bias, "value mse": errors.mse, "value explained": errors.explained}
    obs, _ = probes.visited(agent, contexts, seed=seed, **options)
    if obs.dtype.kind == "f" and hasattr(agent.space, "n"):
        noisy = obs + 0.1 * obs.std(0) * np.random.default_rng(seed).standard_normal(obs.shape)
        shift = probes.policy_shift(agent, obs, noisy.astype(obs.dtype))
        probed |= {"KL, sigma 0.1": shift.kl, "agreement": shift.agreement}
    replay = probes.open_loop_replay(agent, contexts, seed=seed, options=options, sticky_actions=0.25)
    probed |= {"sticky 0.25": replay.closed_loop, "blind replay": replay.open_loop}
    if len(contexts) > 1 and not agent.network.gru_size:
        probed["MDP decoded"], probed["by chance"] = probes.context_decodability(agent, contexts, seed=seed, **options)
    return probed
