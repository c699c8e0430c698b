"""Algorithms and numbers of learners side by side: the same simulators in all, in turns, against the roofline."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gala.bench.busy import disturbance, taken
from gala.bench.job import BenchJob, Block
from gala.bench.ratios import median_interval, paired_ratio, verdict
from gala.bench.roofline import Ceiling, Roofline, average
from gala.config.parse import override
from gala.config.schema import Algo, Config
from gala.config.validate import validate
from gala.processes.resources import available_cores

ALGOS: dict[str, tuple[Algo, tuple[str, ...]]] = {
    "a2c": ("a2c", ()),
    "two-pass": ("a2c", ("a2c.passes=2",)),
    "textbook": ("a2c", ("a2c.passes=2", "keep_freed_memory=false")),
    "allreduce": ("allreduce", ()),
    "independent": ("independent", ()),
    "gala": ("gala", ()),
}
"""Name -> (algo, settings). textbook is A2C as published: a second pass over the rollout, and the system's malloc."""

STAGE_OF = {"simulate": "simulate", "act": "forward", "learn": "backward"}
"""Stage of the loop -> the part of the roofline that it cannot do without."""


@dataclass(frozen=True)
class Plan:
    """How long each variant gets, and how often."""

    rounds: int = 7
    block_s: float = 8.0
    settle_s: float = 1.0


def variants(config: Config, envs: int, algos: Sequence[str], learners: Sequence[int]) -> dict[str, Config]:
    """Name -> configuration, all with ``envs`` simulators in all. Raises ValueError: one line, with the way out."""
    configs: dict[str, Config] = {}
    for algo in algos:
        if algo not in ALGOS:
            raise ValueError(f"algos={algo} is unknown; use some of {', '.join(ALGOS)}")
        name, words = ALGOS[algo]
        for n in (1,) if name == "a2c" else [n for n in learners if n > 1]:
            if envs % n:
                raise ValueError(f"envs={envs} cannot be shared equally among {n} learners; change envs or learners")
            one = replace(config, algo=name, learners=n, envs_per_learner=envs // n, on_failure="auto")
            one = override(one, words)
            validate(replace(one, steps=max(one.steps, envs * config.a2c.num_steps)))
            configs[algo if n == 1 else f"{algo} x{n}"] = one
    if not configs:
        raise ValueError("nothing to measure: algos other than a2c and textbook need learners of 2 or more")
    return configs


def run(jobs: dict[str, Config], plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Start all, then measure them in turns; each round begins with another. Returns the record of ``report``."""
    blocks: dict[str, list[Block]] = {name: [] for name in jobs}
    ceilings: list[Ceiling] = []
    with _roofline(next(iter(jobs.values())), say) as roofline, _started(jobs, say) as running:
        names, before = list(running), taken()
        for i in range(plan.rounds):
            say(f"round {i + 1} of {plan.rounds}")
            ceilings.append(roofline.measure(plan.block_s))
            for name in names[i % len(names) :] + names[: i % len(names)]:
                blocks[name].append(running[name].measure(plan.block_s, plan.settle_s))
        found = disturbance(before, taken(), [c.env_steps_per_s for c in ceilings])
        facts = {name: (job.first_update_s, job.frames_per_step) for name, job in running.items()}
        best = {part: setting._asdict() for part, setting in roofline.best.items()}
    rows = [_row(name, jobs[name], blocks[name], ceilings, *facts[name]) for name in names]
    _compare(rows, blocks)
    ceiling = average(ceilings)
    return {
        "plan": asdict(plan),
        "envs": jobs[names[0]].envs_per_learner * jobs[names[0]].learners,
        "cores": available_cores(),
        "disturbance": found,
        "roofline": {
            "core_s_per_env_step": ceiling.core_s,
            "env_steps_per_s": ceiling.env_steps_per_s,
            "rounds": [c.env_steps_per_s for c in ceilings],
            "best": best,
        },
        "rows": rows,
    }


@contextlib.contextmanager
def _roofline(config: Config, say: Callable[[str], None]) -> Iterator[Roofline]:
    say("roofline: trying batches and threads")
    roofline = Roofline(config)
    try:
        yield roofline
    finally:
        roofline.close()


@contextlib.contextmanager
def _started(jobs: dict[str, Config], say: Callable[[str], None]) -> Iterator[dict[str, BenchJob]]:
    running: dict[str, BenchJob] = {}
    try:
        for name, config in jobs.items():
            say(f"starting {name}")
            running[name] = BenchJob(config)
        yield running
    finally:
        for job in running.values():
            job.close()


def _row(
    name: str,
    config: Config,
    blocks: Sequence[Block],
    ceilings: Sequence[Ceiling],
    first_update_s: float,
    frames_per_step: int,
) -> dict[str, Any]:
    rates = [b.env_steps_per_s for b in blocks]
    rate = median_interval(rates)
    used = [b.joules / b.seconds / b.env_steps_per_s for b in blocks if b.joules is not None]
    ages = [b.message_age for b in blocks if b.message_age is not None]
    shares = _mean_shares(blocks)
    row: dict[str, Any] = {
        "name": name,
        "algo": config.algo,
        "learners": config.learners,
        "envs_per_learner": config.envs_per_learner,
        "env_steps_per_s": rate.median,
        "env_steps_per_s_interval": [rate.low, rate.high],
        "frames_per_s": rate.median * frames_per_step,
        "rates": rates,
        "learner_updates_per_s": np.median([b.updates_per_s for b in blocks], axis=0).tolist(),
        "cpu": float(np.median([b.cpu for b in blocks])),
        "peak_memory_gib": max(b.memory_gib for b in blocks),
        "first_update_s": first_update_s,
        "message_age": float(np.mean(ages)) if ages else None,
        "watts": float(np.median([b.joules / b.seconds for b in blocks if b.joules is not None])) if used else None,
        "joules_per_million_frames": float(np.median(used)) / frames_per_step * 1e6 if used else None,
        "shares": shares,
    }
    reached = paired_ratio(rates, [c.env_steps_per_s for c in ceilings])
    row |= {"roofline_fraction": reached.median, "roofline_fraction_interval": [reached.low, reached.high]}
    row["losses"] = losses(shares, rate.median, average(ceilings))
    return row


def losses(shares: dict[str, float], rate: float, ceiling: Ceiling) -> dict[str, float]:
    """Where the rest of the machine goes: seconds of a core per env_step that each stage takes beyond what its part
    takes at its best (less than 0: it is better than alone, because others fill its gaps).

    A learner's wall time divides into stages, and all learners together have all cores, so stage s takes
    ``share_s * cores / rate`` of a core per env_step.
    """
    spent = {stage: share * ceiling.cores / rate for stage, share in shares.items()}
    return {stage: s - ceiling.core_s.get(STAGE_OF.get(stage, ""), 0.0) for stage, s in spent.items()}


def _mean_shares(blocks: Sequence[Block]) -> dict[str, float]:
    known = [b.shares for b in blocks if b.shares]
    return {stage: float(np.mean([s[stage] for s in known])) for stage in known[0]} if known else {}


def _compare(rows: list[dict[str, Any]], blocks: dict[str, list[Block]]) -> None:
    """Adds each row's paired ratio to the first row, and which rows its rate can be told apart from."""
    rates = {name: [b.env_steps_per_s for b in measured] for name, measured in blocks.items()}
    base = rows[0]["name"]
    for row in rows:
        ratio = paired_ratio(rates[row["name"]], rates[base])
        row |= {"base": base, "ratio": ratio.median, "ratio_interval": [ratio.low, ratio.high]}
        row["against"] = {
            other: verdict(paired_ratio(rates[row["name"]], rates[other]), len(rates[other]))
            for other in rates
            if other != row["name"]
        }
