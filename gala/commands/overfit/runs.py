"""``gala overfit eval`` and ``report``: a verdict on trained runs, or on policies that were trained elsewhere."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gala_envs.contexts import ContextSet

from gala.commands.overfit.judged import Sets, afford, begin_study, head_of
from gala.commands.overfit.verdict import conclude
from gala.commands.overfit.words import show_help, sort_words
from gala.commands.waiting import waiting
from gala.config.own_words import asks_for_help, take_paths
from gala.config.parse import parse_options
from gala.diagnostics.overfitting.audit import audit_sets
from gala.diagnostics.overfitting.policies import JudgedPolicy
from gala.diagnostics.overfitting.python_policies import check_distinct_policies, python_policies
from gala.diagnostics.overfitting.tables import scores
from gala.evaluation.load import checkpoint_hash
from gala.experiments.statistics import gap_interval
from gala.files.plain_yaml import read_json
from gala.overfit.judging import (
    baselines,
    check_reference,
    curves,
    env_options,
    judge,
    load_agent,
    normalizer_hash,
    spaces_of,
    try_policy,
)
from gala.overfit.leakage import check_oracle, check_played, check_training, common_limit
from gala.overfit.options import EvalOptions, JudgeOptions, ReportOptions
from gala.overfit.reference import with_reference
from gala.overfit.study import Study, read_sets
from gala.runs.distinct import check_distinct
from gala.runs.run_dir import RunDir

ONE_POLICY = "one policy: its repetitions differ in noise only, so the interval holds for this one policy"


def evaluate(words: Sequence[str]) -> int:
    """RUN ..., or policy=module:function. Returns the verdict's exit code."""
    if asks_for_help(words):
        return show_help("eval RUN ...", EvalOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, EvalOptions, None)
    if training or bool(paths) == bool(options.policy):
        raise ValueError("usage: gala overfit eval RUN ... sets=DIRECTORY, or policy=module:function instead of runs")
    several = options.policy.split(",") if "," in options.policy else [options.policy] * options.repeats
    if folders := [path for path in paths if _runs_in(Path(path)) != [Path(path)]]:
        raise ValueError(f"{folders[0]} is a folder of runs; name the runs: {Path(folders[0]) / 'run*'}")
    if len(paths) in (1, 2) or (options.policy and len(several) < 3):
        raise ValueError("a verdict needs at least 3 training runs; one run cannot tell luck from overfitting")
    check_distinct_policies(options.policy, options.repeats)
    sets: Sets = read_sets(options.sets, trust=options.judge.trust)
    policies = python_policies(options.policy, options.repeats, spaces_of(sets["train"]).action) if not paths else []
    check_played(options.played, sets)
    for policy in policies:
        try_policy(policy, sets["train"])
    runs, oracles = _checked_runs(paths, options, sets)
    limit = common_limit([*runs, *oracles])
    judging = with_reference(options.judge, options.sets, sets, limit)
    check_reference(judging, list(sets.values()), runs, limit)
    design = "one training set for all runs"
    study = begin_study("eval", words, options.out, sets, (options.judge, judging), runs, design)
    sets = afford(study, runs, sets, judging)
    study.meta["audit"] = audited = audit_sets(sets, limit=limit)
    if audited["rows"]:
        study.note(f"{len(audited['rows'])} MDPs are in one set twice, and count twice")
    if policies:
        _describe_policies(study, options)
    with waiting("playing the random policy and the reference") as say:
        study.append("baselines", baselines(list(sets.values()), judging, head_of(-1, None), limit))
        _judge_policies(study, policies, sets, judging, say)
        if runs:
            _judge_runs(study, runs, sets, judging, say)
        _judge_oracles(study, oracles, sets["test"], judging)
    status = conclude(study)
    if ONE_POLICY in study.meta["notes"]:
        print("\n".join(textwrap.wrap(f"note: {ONE_POLICY}", 80, subsequent_indent="  ")))
    return status


def _describe_policies(study: Study, options: EvalOptions) -> None:
    """What the report must say of policies that were trained elsewhere."""
    study.meta |= {"policy": options.policy, "played": options.played}
    if not options.played:
        study.note("no log of the training MDPs was given (played=FILE): a test MDP among them is unchecked")
    if "," not in options.policy and "{run}" not in options.policy:
        study.note(ONE_POLICY)


def _checked_runs(paths: Sequence[str], options: EvalOptions, sets: Sets) -> tuple[list[RunDir], list[RunDir]]:
    """(the runs that are judged, the oracles). Raises ValueError if one of them is there twice, or was trained on MDPs
    that its kind must not know."""
    runs = [RunDir.open(path) for path in paths]
    oracles = [RunDir.open(path) for name in filter(None, options.oracle.split(",")) for path in _runs_in(Path(name))]
    check_distinct(runs)
    check_distinct(oracles)
    for run in runs:
        check_training(run, options.judge.checkpoint, sets)
    for run in oracles:
        check_oracle(run, options.judge.checkpoint, sets["test"])
    return runs, oracles


def _runs_in(path: Path) -> list[Path]:
    """A run, or the runs in a folder that ``gala overfit train`` wrote."""
    return sorted(p.parent for p in path.glob("run*/config.yaml")) or [path]


def _judge_policies(
    study: Study, policies: Sequence[JudgedPolicy], sets: Sets, judging: JudgeOptions, say: Callable[[str], None]
) -> None:
    """Rows of policies that were trained elsewhere, each under noise of its own."""
    for k, policy in enumerate(policies):
        say(f"playing policy {k + 1} of {len(policies)}")
        again = dataclasses.replace(judging, seed=judging.seed + k)
        head = head_of(k, len(sets["train"])) | {"policy": "agent"}
        study.append(f"run{k}", judge(policy, list(sets.values()), again, head))
        study.meta["normaliser"] = f"frozen, {normalizer_hash(policy)}"


def _judge_oracles(study: Study, runs: Sequence[RunDir], test: ContextSet, judging: JudgeOptions) -> None:
    """Rows of runs that were trained on the test set, there."""
    for k, run in enumerate(runs):
        agent, head = load_agent(run, test, judging), head_of(k, len(test)) | {"policy": "oracle"}
        study.append(f"oracle{k}", judge(agent, [test], judging, head, run.config.a2c.gamma, **env_options(run.config)))


def _judge_runs(
    study: Study, runs: Sequence[RunDir], sets: Sets, judging: JudgeOptions, say: Callable[[str], None]
) -> None:
    """Rows and learning curves of each run, and the controls."""
    for k, run in enumerate(runs):
        say(f"playing run {k + 1} of {len(runs)}")
        agent, head = load_agent(run, sets["train"], judging), head_of(k, len(sets["train"]))
        lines = curves(run, [sets["train"], sets["test"]], judging, head)
        study.meta["checkpoints"][f"run{k}"] = checkpoint_hash(run, judging.checkpoint)
        options = {"gamma": run.config.a2c.gamma, **env_options(run.config)}
        study.append(
            f"run{k}", judge(agent, list(sets.values()), judging, head | {"policy": "agent"}, **options), lines
        )
        study.meta["normaliser"] = f"frozen, {normalizer_hash(agent)}"
    if len(sets["train"]) < 2:
        study.note("1 training MDP: the control, its score under other noise, needs 2 and was left out")
        return
    say("playing the control: the train set under other noise")
    study.meta["controls"] = _controls(study, runs, sets, judging)
    study.save()


def _controls(study: Study, runs: Sequence[RunDir], sets: Sets, judging: JudgeOptions) -> dict[str, Any]:
    """Gaps that must be 0: of the train set against itself, under other noise."""
    train = sets["train"]
    agents = [r for r in study.rows() if r["policy"] == "agent" and r["set"] == "train"]
    again = dataclasses.replace(judging, seed=judging.seed + 1)
    other = []
    for k, run in enumerate(runs):
        agent = load_agent(run, train, judging)
        other += judge(agent, [train], again, head_of(k, None), run.config.a2c.gamma, **env_options(run.config))
    pair = [[list(by.values()) for by in scores(rows).values()] for rows in (agents, other)]
    return {"train set, other noise": {"gap": gap_interval(*pair), "expected": 0.0}}


def report(words: Sequence[str]) -> int:
    """STUDY: its report again, from its rows, with the surprise of a video model if one is named. Returns the verdict's
    exit code."""
    if asks_for_help(words):
        return show_help("report STUDY", ReportOptions)
    paths, rest = take_paths(words)
    options = parse_options(ReportOptions, rest)
    if len(paths) != 1:
        raise ValueError("usage: gala overfit report STUDY [surprise=VIDEO_RUN sets=DIRECTORY]")
    path = Path(paths[0])
    if not (path / "study.json").is_file():
        raise ValueError(f"{path} is no study: it has no study.json")
    study = Study(path, read_json(path / "study.json"))
    if not any(row["policy"] == "agent" for row in study.rows()):
        raise ValueError(f"{path} has no judged agent yet; its command goes on with it: {study.meta.get('command')}")
    if options.surprise:
        from gala.commands.overfit.surprise import measure

        rows = measure(study, Path(options.surprise), options.sets, options.trust)
        study.replace("surprise.jsonl", rows)
    return conclude(study)
