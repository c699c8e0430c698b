"""``gala overfit stress``: the same runs under changes. Robustness, that is, and not generalisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gala_envs.contexts import ContextSet
from gala_envs.families import make_family
from gala_envs.families.easier import easier_variants
from gala_envs.identity import assert_disjoint

from gala.build.trust import check_trusted, family_code
from gala.commands.overfit.judged import Sets, afford, begin_study, head_of
from gala.commands.overfit.verdict import conclude
from gala.commands.overfit.words import show_help, sort_words
from gala.commands.waiting import waiting
from gala.config.own_words import asks_for_help, take_paths
from gala.diagnostics.overfitting import probes
from gala.diagnostics.overfitting.policies import RandomPolicy
from gala.evaluation.load import checkpoint_hash
from gala.overfit.judging import (
    baselines,
    check_reference,
    env_options,
    judge,
    load_agent,
    normalizer_hash,
    spaces_of,
)
from gala.overfit.leakage import check_training, common_limit
from gala.overfit.options import StressOptions
from gala.overfit.reference import with_reference
from gala.overfit.study import Study, read_sets
from gala.overfit.sweep import slug
from gala.runs.distinct import check_distinct
from gala.runs.run_dir import RunDir


def stress(words: Sequence[str]) -> int:
    """RUN ... or a sweep's STUDY: the same runs under changes, on train and test MDPs. Robustness, that is."""
    if asks_for_help(words):
        return show_help("stress RUN ... | STUDY", StressOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, StressOptions, None)
    if training:
        raise ValueError(f"{training[0]} is a setting of training, which stress does not do")
    pairs = _runs_and_sets(paths, options)
    first, runs = pairs[0][1], [run for run, _ in pairs]
    family, limit = make_family(first["train"].family), common_limit(runs)
    for name, asked in {"init_mult": options.init_mult, "random_start": options.random_start}.items():
        if asked and name not in family.parameters:
            raise ValueError(f"{family.name} has no parameter {name}; its starts cannot be changed like that")
    check_distinct(runs)
    for run, sets in pairs:
        check_training(run, options.judge.checkpoint, sets)
    judging, own_sets = options.judge, {s.sha256: s for _, sets in pairs for s in sets.values()}
    if len(paths) > 1:  # a sweep's sets have no reference of their own
        judging = with_reference(judging, options.sets, first, limit)
    check_reference(judging, list(own_sets.values()), runs, limit)
    design = "the training sets of the runs"
    study = begin_study("stress", words, options.out, first, (options.judge, judging), runs, design)
    changes = [_changes(options, sets["train"], limit) for _, sets in pairs]
    test = afford(study, runs, first, judging, len(changes[0]))["test"]
    pairs = [(run, dict(sets) | {"test": test}) for run, sets in pairs]
    every = {s.sha256: s for _, sets in pairs for s in sets.values()}
    with waiting("playing the random policy and the reference") as say:
        study.append("baselines", baselines(list(every.values()), judging, head_of(-1, None), limit))
        for k, (run, sets) in enumerate(pairs):
            agent, options_of_run = load_agent(run, sets["train"], judging), env_options(run.config)
            study.meta["checkpoints"][f"run{k}"] = checkpoint_hash(run, judging.checkpoint)
            study.meta["normaliser"] = f"frozen, {normalizer_hash(agent)}"
            for name, noise, params in changes[k]:
                say(f"playing run {k + 1} of {len(pairs)}, {name or 'unchanged'}")
                changed = [s.with_params(**params) for s in sets.values()]
                head = head_of(k, len(sets["train"]), name) | {"policy": "agent"}
                rows = judge(agent, changed, judging, head, run.config.a2c.gamma, **options_of_run, **noise)
                study.append(f"run{k} {name}".strip(), rows)
    return conclude(study)


def _changes(options: StressOptions, train: ContextSet, limit: int) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, noise of the environment, parameters of the contexts) of each change, and first of none."""
    unit: Any = 0.0
    if options.obs_sigma:
        policy, within = RandomPolicy(spaces_of(train).action), {"max_episode_steps": limit}
        unit = probes.observation_std(policy, train, seed=options.judge.seed, **within)
    changes: list[tuple[str, dict[str, Any], dict[str, Any]]] = [("", {}, {})]
    changes += [(f"sticky={p:g}", {"sticky_actions": p}, {}) for p in options.sticky if p]
    changes += [(f"sigma={s:g}", {"obs_noise": s * unit}, {}) for s in options.obs_sigma if s]
    if options.easier:
        variants = easier_variants(make_family(train.family), train)
        changes += [(f"easier={name}", {}, params) for name, params in variants.items()]
    if options.random_start:
        changes.append(("random_start", {}, {"random_start": 1}))
    return changes + [(f"init_mult={k:g}", {}, {"init_mult": k}) for k in options.init_mult if k != 1]


def _runs_and_sets(paths: Sequence[str], options: StressOptions) -> list[tuple[RunDir, Sets]]:
    """Each run with its train and its test set. Raises ValueError for fewer than 3 runs."""
    if len(paths) == 1 and (Path(paths[0]) / "study.json").is_file():
        return _of_study(Path(paths[0]), options)
    if len(paths) in (1, 2):
        raise ValueError(
            f"stress needs at least 3 training runs, and {len(paths)} is given (a sweep's STUDY has a study.json); one "
            "run cannot tell a change from luck"
        )
    if not paths:
        raise ValueError("usage: gala overfit stress RUN RUN RUN ... sets=DIRECTORY sticky=0.25, or stress STUDY ...")
    if options.n or options.condition:
        raise ValueError("n and condition choose runs of a sweep's STUDY; here the runs are named")
    read = read_sets(options.sets, trust=options.judge.trust)
    sets = {name: read[name] for name in ("train", "test")}
    return [(RunDir.open(path), sets) for path in paths]


def _of_study(root: Path, options: StressOptions) -> list[tuple[RunDir, Sets]]:
    begun = slug(options.condition)
    of_condition: dict[str, dict[int, list[Path]]] = {}
    for path in sorted(root.glob("sets/*n*-run*.json")):
        if found := re.fullmatch(r"(.*-)?n(\d+)-run\d+", path.stem):
            of_condition.setdefault(found[1] or "", {}).setdefault(int(found[2]), []).append(path)
    if begun not in of_condition:
        names = sorted({row["condition"] for row in Study(root, {}).rows()} - {""})
        told = f"condition={'|'.join(names)} says of which" if names else "leave out condition"
        raise ValueError(f"{root} has no runs of {options.condition or 'one condition alone'}; {told}")
    by_size = of_condition[begun]
    n = options.n or max(by_size)
    if n not in by_size:
        raise ValueError(f"{root} has no runs with {n} training MDPs; it has {', '.join(map(str, sorted(by_size)))}")
    test = ContextSet.read(root / "sets" / f"{begun}test.json")
    check_trusted(family_code(test.family), root, trust=options.judge.trust, remedy="add judge.trust=true")
    pairs: list[tuple[RunDir, Sets]] = [
        (RunDir.open(root / "runs" / path.stem), {"train": ContextSet.read(path), "test": test}) for path in by_size[n]
    ]
    for _, sets in pairs:
        assert_disjoint(list(sets.values()))
    return pairs
