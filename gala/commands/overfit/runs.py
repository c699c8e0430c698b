"""``gala overfit train``, ``eval``, ``stress`` and ``report``: trained runs and what becomes of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.families.easier import easier_variants
from gala_envs.identity import assert_disjoint

from gala.build.trust import check_trusted, family_code
from gala.commands.overfit.verdict import conclude
from gala.commands.overfit.words import (
    asks_for_help,
    command_line,
    default_out,
    show_help,
    sort_words,
    take_paths,
)
from gala.commands.waiting import waiting
from gala.config.parse import parse_options
from gala.diagnostics.overfitting import probes
from gala.diagnostics.overfitting.audit import audit_sets
from gala.diagnostics.overfitting.generalisation import scores
from gala.diagnostics.overfitting.policies import JudgedPolicy, RandomPolicy
from gala.diagnostics.overfitting.python_policies import python_policies
from gala.evaluation.load import checkpoint_hash
from gala.experiments.statistics import gap_interval
from gala.overfit.judging import (
    baselines,
    check_oracle,
    check_played,
    check_training,
    curves,
    env_options,
    judge,
    load_agent,
    normalizer_hash,
    solved,
    spaces_of,
    try_policy,
)
from gala.overfit.options import EvalOptions, JudgeOptions, ReportOptions, StressOptions
from gala.overfit.reference import with_reference
from gala.overfit.study import Study, describe_sets, read_sets
from gala.overfit.sweep import budget_s
from gala.plain_yaml import read_json
from gala.runs.run_dir import RunDir

Sets = Mapping[str, ContextSet]


def evaluate(words: Sequence[str]) -> int:
    """RUN ..., or policy=module:function. Returns the verdict's exit code."""
    if asks_for_help(words):
        return show_help("eval RUN ...", EvalOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, EvalOptions, None)
    if training or bool(paths) == bool(options.policy):
        raise ValueError("usage: gala overfit eval RUN ... sets=DIRECTORY, or policy=module:function instead of runs")
    several = options.policy.split(",") if "," in options.policy else [options.policy] * options.repeats
    if len(paths) in (1, 2) or (options.policy and len(several) < 3):
        raise ValueError("a verdict needs at least 3 training runs; one run cannot tell luck from overfitting")
    sets = read_sets(options.sets, trust=options.judge.trust)
    policies = python_policies(options.policy, options.repeats, spaces_of(sets["train"]).action) if not paths else []
    check_played(options.played, sets)
    for policy in policies:
        try_policy(policy, sets["train"])
    runs = [RunDir.open(path) for path in paths]
    for run in runs:
        check_training(run, options.judge.checkpoint, sets)
    oracles = [RunDir.open(path) for name in filter(None, options.oracle.split(",")) for path in _runs_in(Path(name))]
    for run in oracles:
        check_oracle(run, options.judge.checkpoint, sets["test"])
    study = _study("eval", words, options.out, sets, options.judge)
    sets, judging = _afford(study, runs, sets, with_reference(options.judge, options.sets))
    if judging.reference != options.judge.reference:
        study.note(f"the reference is {judging.reference}, trained on other MDPs by `gala overfit train on=many`")
    study.meta["audit"] = audited = audit_sets(sets)
    if audited["rows"]:
        study.note(f"{len(audited['rows'])} MDPs are in one set twice, and count twice")
    if policies and not options.played:
        study.note("no log of the training MDPs was given (played=FILE): a test MDP among them is unchecked")
    if policies and "," not in options.policy and "{run}" not in options.policy:
        study.note("one policy: its repetitions differ in noise only, so the interval holds for this one policy")
    with waiting("playing the random policy and the reference") as say:
        study.append("baselines", baselines(list(sets.values()), judging, _head(-1, None)))
        _judge_policies(study, policies, sets, judging, say)
        if runs:
            _judge_runs(study, runs, sets, judging, say)
        _judge_oracles(study, oracles, sets["test"], judging)
    return conclude(study)


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
        head = _head(k, len(sets["train"])) | {"policy": "agent"}
        study.append(f"run{k}", judge(policy, list(sets.values()), again, head))
        study.meta["normaliser"] = f"frozen, {normalizer_hash(policy)}"


def _judge_oracles(study: Study, runs: Sequence[RunDir], test: ContextSet, judging: JudgeOptions) -> None:
    """Rows of runs that were trained on the test set, there."""
    for k, run in enumerate(runs):
        agent, head = load_agent(run, test, judging), _head(k, len(test)) | {"policy": "oracle"}
        study.append(f"oracle{k}", judge(agent, [test], judging, head, run.config.a2c.gamma, **env_options(run)))


def _judge_runs(
    study: Study, runs: Sequence[RunDir], sets: Sets, judging: JudgeOptions, say: Callable[[str], None]
) -> None:
    """Rows and learning curves of each run, and the controls."""
    for k, run in enumerate(runs):
        say(f"playing run {k + 1} of {len(runs)}")
        agent, head = load_agent(run, sets["train"], judging), _head(k, len(sets["train"]))
        lines = curves(run, [sets["train"], sets["test"]], judging, head)
        study.meta["checkpoints"][f"run{k}"] = checkpoint_hash(run, judging.checkpoint)
        options = {"gamma": run.config.a2c.gamma, **env_options(run)}
        study.append(
            f"run{k}", judge(agent, list(sets.values()), judging, head | {"policy": "agent"}, **options), lines
        )
        study.meta["normaliser"] = f"frozen, {normalizer_hash(agent)}"
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
        other += judge(agent, [train], again, _head(k, None), run.config.a2c.gamma, **env_options(run))
    pair = [[list(by.values()) for by in scores(rows).values()] for rows in (agents, other)]
    return {"train set, other noise": {"gap": gap_interval(*pair), "expected": 0.0}}


def stress(words: Sequence[str]) -> int:
    """RUN ... or a sweep's STUDY: the same runs under changes, on train and test MDPs. Robustness, that is."""
    if asks_for_help(words):
        return show_help("stress RUN ... | STUDY", StressOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, StressOptions, None)
    if training:
        raise ValueError(f"{training[0]} is a setting of training, which stress does not do")
    pairs, judging = _runs_and_sets(paths, options), options.judge
    first = pairs[0][1]
    family = make_family(first["train"].family)
    if options.init_mult and "init_mult" not in family.parameters:
        raise ValueError(f"{family.name} has no parameter init_mult; its starts cannot be widened")
    for run, sets in pairs:
        check_training(run, judging.checkpoint, sets)
    study = _study("stress", words, options.out, first, judging)
    study.meta["design"] = "the training sets of the runs"
    changes = [_changes(options, sets["train"]) for _, sets in pairs]
    test, judging = _afford(study, [run for run, _ in pairs], first, judging, len(changes[0]))
    pairs = [(run, dict(sets) | {"test": test["test"]}) for run, sets in pairs]
    every = {s.sha256: s for _, sets in pairs for s in sets.values()}
    with waiting("playing the random policy and the reference") as say:
        study.append("baselines", baselines(list(every.values()), judging, _head(-1, None)))
        for k, (run, sets) in enumerate(pairs):
            agent = load_agent(run, sets["train"], judging)
            for name, noise, params in changes[k]:
                say(f"playing run {k + 1} of {len(pairs)}, {name or 'unchanged'}")
                changed = [s.with_params(**params) for s in sets.values()]
                head = _head(k, len(sets["train"]), name) | {"policy": "agent"}
                rows = judge(agent, changed, judging, head, run.config.a2c.gamma, **env_options(run), **noise)
                study.append(f"run{k} {name}".strip(), rows)
    return conclude(study)


def _changes(options: StressOptions, train: ContextSet) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, noise of the environment, parameters of the contexts) of each change, and first of none."""
    unit: Any = 0.0
    if options.obs_sigma:
        unit = probes.observation_std(RandomPolicy(spaces_of(train).action), train, seed=options.judge.seed)
    changes: list[tuple[str, dict[str, Any], dict[str, Any]]] = [("", {}, {})]
    changes += [(f"sticky={p:g}", {"sticky_actions": p}, {}) for p in options.sticky if p]
    changes += [(f"sigma={s:g}", {"obs_noise": s * unit}, {}) for s in options.obs_sigma if s]
    if options.easier:
        variants = easier_variants(make_family(train.family), train)
        changes += [(f"easier={name}", {}, params) for name, params in variants.items()]
    return changes + [(f"init_mult={k:g}", {}, {"init_mult": k}) for k in options.init_mult if k != 1]


def _runs_and_sets(paths: Sequence[str], options: StressOptions) -> list[tuple[RunDir, Sets]]:
    """Each run with its train and its test set. Raises ValueError for fewer than 3 runs."""
    if len(paths) == 1 and (Path(paths[0]) / "study.json").is_file():
        root = Path(paths[0])
        set_files = sorted(root.glob("sets/n*-run*.json"))
        sizes = {int(p.stem.split("-")[0][1:]) for p in set_files}
        n = options.n or max(sizes, default=0)
        if n not in sizes:
            raise ValueError(f"{root} has no runs with {n} training MDPs; it has {', '.join(map(str, sorted(sizes)))}")
        test = ContextSet.read(root / "sets" / "test.json")
        check_trusted(family_code(test.family), root, trust=options.judge.trust, remedy="add judge.trust=true")
        mine = [p for p in set_files if p.stem.startswith(f"n{n}-")]
        pairs: list[tuple[RunDir, Sets]] = [
            (RunDir.open(root / "runs" / p.stem), {"train": ContextSet.read(p), "test": test}) for p in mine
        ]
        for _, sets in pairs:
            assert_disjoint(list(sets.values()))
        return pairs
    if len(paths) < 3:
        raise ValueError("usage: gala overfit stress RUN RUN RUN ... sets=DIRECTORY sticky=0.25, or stress STUDY ...")
    read = read_sets(options.sets, trust=options.judge.trust)
    sets = {name: read[name] for name in ("train", "test")}
    return [(RunDir.open(path), sets) for path in paths]


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
    if options.surprise:
        from gala.commands.overfit.surprise import measure

        rows = measure(study, Path(options.surprise), options.sets, options.trust)
        study.replace("surprise.jsonl", rows)
    return conclude(study)


def _head(run: int, n_train: int | None, condition: str = "") -> dict[str, Any]:
    return {"run": run, "n_train": n_train, "condition": condition}


def _study(protocol: str, words: Sequence[str], out: str, sets: Sets, judging: JudgeOptions) -> Study:
    budget_s(judging.budget)
    out = default_out(protocol, out)
    given = [word for word in words if not word.startswith(("out=", "--out"))]
    meta = {
        "protocol": protocol,
        "family": sets["train"].family,
        "command": command_line(protocol, [*given, f"out={out}"]),
        "sets": describe_sets(sets),
        "delta": judging.delta,
        "solved": solved(sets["train"].family, judging),
        "mode": judging.act,
        "expose": False,
        "selection": f"{judging.checkpoint} checkpoint",
        "normaliser": "none",
        "checkpoints": {},
        "budget": judging.budget or None,
        "audit": None,
        "controls": None,
        "design": "one training set for all runs",
    }
    return Study.create(out, meta)


def _afford(
    study: Study, runs: Sequence[RunDir], sets: Sets, judging: JudgeOptions, times: int = 1
) -> tuple[dict[str, ContextSet], Any]:
    """The sets, with fewer contexts where the budget asks for it, after the first 20 were timed. Each run plays them
    ``times`` times."""
    seconds = budget_s(judging.budget)
    if not seconds or not runs:
        return dict(sets), judging
    sample = sets["test"].take(20)
    started = time.monotonic()
    judge(load_agent(runs[0], sample, judging), [sample], judging, {}, **env_options(runs[0]))
    each_s = (time.monotonic() - started) / 50  # so many episodes are played on a small set
    wanted = sum(max(len(s) * judging.episodes, 50) for s in sets.values()) * (len(runs) * times + 2)
    share = min(1.0, 0.8 * seconds / (each_s * wanted))
    if share < 1.0:
        sets = {n: s if n == "train" else s.take(max(20, int(len(s) * share))) for n, s in sets.items()}
        sizes = ", ".join(f"{len(s)} {n}" for n, s in sets.items())
        study.note(f"budget {judging.budget}: {sizes} contexts, fewer than the sets hold")
    return dict(sets), judging
