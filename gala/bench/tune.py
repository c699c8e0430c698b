"""Which number of learners, threads, passes and groups is the fastest on this machine for a preset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from gala.bench.job import BenchFailed, BenchJob
from gala.build.policy import pick_device
from gala.config.derived import is_lean
from gala.config.schema import Config
from gala.config.validate import validate
from gala.processes.resources import available_cores

TUNED = (
    *("learners", "envs_per_learner", "torch_threads", "env.threads", "a2c.passes", "env_groups", "model.compile"),
    "device",
)
"""What a tuned file may set: how the work is cut up, and nothing that changes what is learned per env_step but the
number of learners that share it."""
_BLOCK_S = 2.0
_LEARNERS_PER_CORE = 4
"""Room for the fastest so far beside the next one, of up to two learners a core each."""


def candidates(config: Config, envs: int) -> list[Config]:
    """Ways that the settings allow to share ``envs`` simulators and this machine's cores. ``on_failure`` and
    ``max_learners`` are of trainings, and allow what they like.

    Raises:
        ValueError: what the settings forbid, if they allow none.
    """
    allowed, refused = list[Config](), None
    for one in _shares(replace(config, on_failure="auto", max_learners=0), envs):
        try:
            _check(one)
            allowed.append(one)
        except ValueError as error:
            refused = error
    if refused and not allowed:
        raise refused
    return allowed


def _check(one: Config) -> None:
    """Raises ValueError for what no training may be; one of few env_steps is tuned by more."""
    validate(replace(one, steps=max(one.steps, one.learners * one.envs_per_learner * one.a2c.num_steps)))


def _shares(config: Config, envs: int) -> Iterator[Config]:
    """Dense networks of a few units are not given more threads than one."""
    cores = available_cores()
    counts = sorted({n for n in (1, 2, 3, 4, 6, 8, cores, 2 * cores) if n <= 2 * cores and envs % n == 0})
    passes: tuple[Literal["auto", "1", "2"], ...] = ("2", "1") if config.model.encoder == "mlp" else ("1", "2")
    if is_lean(replace(config, a2c=replace(config.a2c, passes="auto"))) and pick_device(config, 0).type == "cpu":
        passes = ("auto",)  # the lean path: faster than both
    for n in counts:
        share = max(1, cores // n)
        for threads in sorted({1, share} if config.model.encoder != "mlp" else {1}):
            for p in passes:
                one = replace(config, learners=n, envs_per_learner=envs // n, torch_threads=threads)
                yield replace(one, a2c=replace(config.a2c, passes=p), env=replace(config.env, threads=share))


def variants(config: Config) -> Iterator[Config]:
    """Ways to run the same learners that pay on some machines, and that the settings allow: groups of simulators; on a
    GPU, compiled encoders."""
    for one in _variants(config):
        try:
            _check(one)
        except ValueError:
            continue
        yield one


def _variants(config: Config) -> Iterator[Config]:
    if config.envs_per_learner % 2 == 0 and config.env_groups == 1:
        yield replace(config, env_groups=2)
    if config.device != "cpu" and torch.cuda.is_available():
        one = replace(config, device="cuda")
        yield replace(one, model=replace(one.model, compile="default"))
        yield replace(one, model=replace(one.model, compile="cuda-graphs"), a2c=replace(one.a2c, passes="2"))


def tune(config: Config, envs: int, budget_s: float, say: Callable[[str], None]) -> list[tuple[Config, float]]:
    """(configuration, env_steps/s) of all candidates, the fastest first; three quarters of the time go to the number
    of learners, threads and passes, the rest to variants of the best. What fails is left out.

    Raises:
        BenchFailed: all have failed.
    """
    ranked = race(candidates(config, envs), 0.75 * budget_s, say)
    best, *others = ranked
    try:
        return race([best[0], *variants(best[0])], 0.25 * budget_s, say, turns=3) + others
    except BenchFailed:
        if not others:
            raise
        return others


def race(
    field: Sequence[Config], budget_s: float, say: Callable[[str], None], turns: int = 1
) -> list[tuple[Config, float]]:
    """(configuration, env_steps/s), the fastest first. After every ``turns`` turns each, halves the field until one is
    left or the budget is used up (successive halving, arXiv 1502.07943), so that most of the time goes to the close
    ones. Each has its first turns when it is started; where many cores make many candidates, the slowest so far then
    leave for the next, so that no more than ``_LEARNERS_PER_CORE`` learners a core are in memory. One that fails, for
    want of memory say, is left out, and told in a line.

    Raises:
        BenchFailed: all have failed; what the first said.
    """
    seen: list[list[float]] = [[] for _ in field]
    jobs: dict[int, BenchJob] = {}
    failed: dict[int, BenchFailed] = {}

    def keep(those: Sequence[int]) -> None:
        for i in [i for i in jobs if i not in those]:
            jobs.pop(i).close()

    def measure(those: Sequence[int]) -> None:
        for i in [*those] * turns:
            if i in failed:  # in the turn before
                continue
            try:
                if i not in jobs:
                    jobs[i] = BenchJob(field[i])
                seen[i].append(jobs[i].measure(_BLOCK_S, settle_s=0.5).env_steps_per_s)
            except BenchFailed as failure:
                failed[i] = failure
                keep([j for j in jobs if j != i])
                say(f"left out: {label(field[i])}: {str(failure).splitlines()[-1]}"[:80])
            else:
                say(f"{label(field[i]):<40} {np.median(seen[i]):10,.0f} env_steps/s")

    try:
        for i, one in enumerate(field):
            places = _LEARNERS_PER_CORE * available_cores() - one.learners
            ranked = _fastest_first(jobs, seen)
            room = np.cumsum([field[j].learners for j in ranked]) <= places
            keep(ranked[: int(room.sum())])
            say(f"starting {label(one)}")
            measure([i])
        began = time.monotonic()
        while len(jobs) > 1 and time.monotonic() - began <= budget_s:
            keep(_fastest_first(jobs, seen)[: -(-len(jobs) // 2)])
            measure([*jobs])
    finally:
        keep([])
    if len(failed) == len(field):
        raise next(iter(failed.values()))
    # Who stayed in for longer was measured better, so it comes before one that left with a lucky first turn.
    order = sorted(set(range(len(field))) - failed.keys(), key=lambda i: (-len(seen[i]), -np.median(seen[i])))
    return [(field[i], float(np.median(seen[i]))) for i in order]


def _fastest_first(jobs: Iterable[int], seen: Sequence[Sequence[float]]) -> list[int]:
    return sorted(jobs, key=lambda i: -np.median(seen[i]))


def label(config: Config) -> str:
    """How a candidate runs, in a few words."""
    c = config
    groups = f" in {c.env_groups} groups" if c.env_groups > 1 else ""
    how = f", {c.model.compile}" if c.model.compile != "none" else ""
    passes = "" if c.a2c.passes == "auto" else f", {c.a2c.passes} pass"
    return f"{c.learners} x {c.envs_per_learner} simulators{groups}, {c.torch_threads} threads{passes}{how}"


def settings(config: Config) -> dict[str, Any]:
    """The settings of ``TUNED``, nested as a preset is."""
    tree: dict[str, Any] = {}
    for name in TUNED:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
