"""``gala overfit selftest``: the whole chain, from levels to verdict, against numbers that are known in closed form."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gala_envs.contexts import Context, ContextSet
from gala_envs.families import make_family
from gala_envs.splits import split

from gala.config.own_words import asks_for_help
from gala.diagnostics.overfitting.audit import duplicates
from gala.diagnostics.overfitting.episodes import Row, evaluate
from gala.diagnostics.overfitting.generalisation import judge
from gala.diagnostics.overfitting.policies import JudgedPolicy, RandomPolicy
from gala.experiments import statistics as st
from gala.overfit.oracles import Memoriser

RUNS, LEVELS = 5, 100


class Check(NamedTuple):
    """What was measured, in words, and whether it is what it must be."""

    name: str
    measured: str
    ok: bool


def main(words: Sequence[str]) -> int:
    """Returns 0 if everything is as it must be, otherwise 1."""
    if asks_for_help(words):
        print("usage: gala overfit selftest\n\nChecks the statistics against closed forms, in a minute.")
        return 0
    if words:
        raise ValueError("usage: gala overfit selftest (it has no settings)")
    started, failed = time.monotonic(), 0
    for check in (closed_forms, memoriser, cue_follower, mixture, random_policy, same_set, leaks, coverage):
        checked = check()
        failed += not checked.ok
        print(f"{'ok  ' if checked.ok else 'FAIL'} {checked.name}: {checked.measured}", flush=True)
    print(f"{failed} failed, {time.monotonic() - started:.0f} s")
    return int(failed > 0)


def closed_forms() -> Check:
    """Statistics whose values are known."""
    pairs = [
        (st.iqm([[0, 1], [1, 2], [2, 3], [3, 4]]), 2.0),
        (st.iqm(np.arange(1, 9)), 4.5),
        (st.optimality_gap([[0, 1], [1, 2], [2, 3], [3, 4]]), 0.125),
        (st.probability_of_improvement([1, 2, 3, 4], [2, 2, 2, 2]), 0.625),
        (round(st.wilson(0, 20).high, 4), 0.1611),
        (round(st.wilson(19, 20).low, 4), 0.7639),
    ]
    wrong = [(a, b) for a, b in pairs if abs(a - b) > 1e-12]
    return Check("statistics with known values", f"{len(pairs) - len(wrong)} of {len(pairs)}", not wrong)


def memoriser() -> Check:
    """Score 1 on train, 1/2 elsewhere."""
    result = _judge(lambda train: Memoriser(train, else_cue=False), cue=0.5)
    gap = result["headline"].gap.estimate
    ok = abs(gap - 0.5) < 0.05 and result["verdict"] == "OVERFIT"
    return Check("a lookup memoriser overfits by 0.5", f"gap {gap:.3f}, {result['verdict']}", ok)


def cue_follower() -> Check:
    """Score 0.9 everywhere."""
    result = _judge(lambda train: Memoriser((), else_cue=True), cue=0.9)
    gap = result["headline"].gap.estimate
    return Check("a cue follower does not", f"gap {gap:+.3f}, {result['verdict']}", result["verdict"] == "NO-GAP")


def mixture() -> Check:
    """Train 1, test 0.9: gap 0.1, a fifth of what separates the best from random."""
    head = _judge(lambda train: Memoriser(train, else_cue=True), cue=0.9)["headline"]
    gap, normalised = head.gap.estimate, head.normalised.estimate
    ok = abs(gap - 0.1) < 0.03 and abs(normalised - 0.2) < 0.06
    return Check("a mixture overfits by 0.1, normalised 0.2", f"{gap:.3f}, {normalised:.3f}", ok)


def random_policy() -> Check:
    """Against itself, on the same noise, the adjusted gap is 0 to the last bit."""
    policy = RandomPolicy(_action_space())
    result = _judge(lambda train: policy, cue=0.5, reference=policy)
    adjusted = result["headline"].adjusted
    return Check("a random policy against itself", f"adjusted gap {adjusted.estimate}", adjusted == (0.0, 0.0, 0.0))


def same_set() -> Check:
    """A train set against itself under other noise."""
    policy, covered, gaps = RandomPolicy(_action_space()), 0, []
    for k in range(20):
        contexts = _sets(k, 0.5)["train"].take(20)
        scores = [
            [
                [r["return"] for r in evaluate(policy, contexts, episodes=1, seed=1000 * k + 10 * run + side)]
                for run in range(5)
            ]
            for side in (0, 1)
        ]
        interval = st.gap_interval(*scores)
        covered += interval.low <= 0 <= interval.high
        gaps.append(interval.estimate)
    mean = float(np.mean(gaps)) / 0.5
    ok = covered >= 18 and abs(mean) < 0.02
    return Check("a set against itself", f"interval holds 0 in {covered} of 20, mean normalised gap {mean:+.3f}", ok)


def leaks() -> Check:
    """A test level that has a training level's string under another seed is found."""
    family, sets = make_family("bits"), _sets(0, 0.5, length=4, levels=6)
    wanted = family.fingerprint(sets["train"].contexts[0])
    twin = next(
        c
        for seed in range(10_000)
        if family.fingerprint(c := Context.of("bits", seed, length=4, cue=0.5)) == wanted
        and c.uid not in sets["train"].uids
    )
    leaky = {"train": sets["train"], "test": ContextSet((*sets["test"].contexts, twin), "test")}
    leaked, clean = duplicates(leaky), duplicates(sets)
    ok = not clean and [row["b"] for row in leaked] == [twin.uid]
    return Check("a leaked level", f"{len(leaked)} leaked of 1, {len(clean)} where there is none", ok)


def coverage(repeats: int = 150) -> Check:
    """Null data with variance in runs, in their gaps, contexts and cells: the interval holds 0 as often as it says."""
    rng, shares = np.random.default_rng(0), []
    for runs, nested in ((3, False), (3, True), (10, False), (10, True)):
        covered = 0
        for _ in range(repeats):
            run, gap = rng.normal(0, 1, (2, runs, 1))
            own = rng.normal(0, 1, (runs if nested else 1, 100))
            train = run + gap + own + rng.normal(0, 0.7, (runs, 100))
            test = run + rng.normal(0, 1, 200) + rng.normal(0, 0.7, (runs, 200))
            interval = st.gap_interval(train, test, nested=nested)
            covered += interval.low <= 0 <= interval.high
        shares.append(covered / repeats)
    ok = all(0.89 <= share <= 1.0 for share in shares)
    return Check("coverage at nominal 95%, runs differ", " ".join(f"{share:.0%}" for share in shares), ok)


def _sets(seed: int, cue: float, length: int = 16, levels: int = LEVELS) -> dict[Any, ContextSet]:
    return split(make_family("bits"), {"train": levels, "test": levels}, seed=seed, cue=cue, length=length)


def _action_space() -> Any:
    return make_family("bits").simulators(_sets(0, 0.5, levels=1)["train"].contexts, 1, 1).action_space


def _judge(
    make: Callable[[ContextSet], JudgedPolicy], cue: float, reference: JudgedPolicy | None = None
) -> dict[str, Any]:
    """Five runs on one train set; the reference is the best possible score of 1 unless a policy is given."""
    sets, rows = _sets(0, cue), []
    for name in ("train", "test"):
        for run in range(RUNS):
            played = evaluate(make(sets["train"]), sets[name], episodes=1, seed=run if reference is None else 0)
            rows += [_row(r, run, "agent") for r in played]
        base = evaluate(RandomPolicy(_action_space()), sets[name], episodes=1, seed=0)
        rows += [_row(r, -1, "random") | {"return": 0.5} for r in base]
        best = base if reference is None else evaluate(reference, sets[name], episodes=1, seed=0)
        rows += [_row(r, -1, "reference") | ({"return": 1.0} if reference is None else {}) for r in best]
    return judge(rows, delta=0.05)


def _row(row: Row, run: int, policy: str) -> Row:
    return row | {"run": run, "policy": policy, "condition": "", "n_train": LEVELS}
