"""Protocols of the papers on overfitting at the size of two cores: noise, wider starts, pictures, regions, algorithms.

    python benchmarks/overfit_protocols.py --studies STUDIES            about two hours; goes on where it was cut off
    python benchmarks/overfit_protocols.py --studies STUDIES --judge    only what is there already

No thresholds: each finding of a paper is set beside what was measured here, as agrees, does not, or undecided at this
size (the interval of the difference, over training runs, contains 0). One line per finding and per group of each study
in benchmarks/results/overfit_protocols.jsonl, the findings as a table in overfit_protocols.md, reports beside them.
Lines of studies that the folder lacks stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from studies import Results, read, run_all, short

from gala.bench.machine import machine_facts
from gala.experiments.statistics import Interval

RESULTS = Path(__file__).parent / "results"
MAZE = "maze size=5 bads=1 limit=50 preset=overfit/maze test=200 runs=5"
BLOCKS = "maze size=7 blocks=6 bads=1 limit=60 preset=overfit/maze test=200 runs=5 algo=a2c steps=1000000"
CARTPOLE = "preset=classic/cartpole algo=a2c log.keep_milestones=0"
PENDULUM = "mujoco:InvertedPendulum-v5 region=R test=50 preset=mujoco/inverted_pendulum log.keep_milestones=0"
PICTURES = (
    "tiny_objects coverage=0 test=200 runs=5 preset=overfit/tiny_objects algo=a2c model.encoder=a3c_cnn "
    "model.receptive_field=33 steps=150000"
)
BINS = "seeds:InvertedPendulum-v5 n=1,10 test=50 runs=5 preset=mujoco/inverted_pendulum algo=a2c steps=200000"
WIDTH = f"sweep confounded:seeds:CartPole-v1 noise_dims=16 n=10 test=100 runs=5 steps=300000 {CARTPOLE}"
ONE, FOUR = "algo=a2c envs_per_learner=64", "algo=gala learners=4 envs_per_learner=16 torch_threads=1 jobs=1"
ALIKE, SUMMED = FOUR.replace("algo=gala", "algo=independent"), FOUR.replace("algo=gala", "algo=allreduce")
STUDIES = {
    "maze-a2c": f"sweep {MAZE} n=10,100 steps=1000000 {ONE}",
    "maze-gala": f"sweep {MAZE} n=10,100 steps=1000000 {FOUR}",
    "maze-independent": f"sweep {MAZE} n=10,100 steps=1000000 {ALIKE}",
    "maze-allreduce": f"sweep {MAZE} n=10,100 steps=1000000 {SUMMED}",
    "maze-slowmo": f"sweep {MAZE} n=10,100 steps=1000000 {FOUR} slowmo.every=48",
    "pendulum-a2c": f"sweep {PENDULUM} n=1,10 runs=5 steps=600000 {ONE}",
    "pendulum-gala": f"sweep {PENDULUM} n=1,10 runs=5 steps=600000 {FOUR}",
    "D3-starts": "stress {studies}/pendulum-a2c n=10 init_mult=2,4,10",
    "D4-pendulum": "stress {studies}/pendulum-a2c n=10 obs_sigma=0.1,0.3,1",
    "cartpole": f"sweep seeds:CartPole-v1 n=10 runs=5 test=200 {CARTPOLE}",
    "D4-cartpole": "stress {studies}/cartpole n=10 obs_sigma=0.1,0.3,1",
    "D7-continuous": f"sweep {BINS}",
    "D7-bins": f"sweep {BINS} action_bins=5",
    "D7-narrow": WIDTH,
    "D7-wide": f"{WIDTH} model.hidden=512,512 optim.lr=1e-3",
    "blocks": f"sweep {BLOCKS} n=10,100,1000",
    "blocks-stress": "stress {studies}/blocks n=10 sticky=0.25 random_start=true",
    "D8-plain": f"sweep {MAZE} n=100 algo=a2c steps=1000000",
    "D8-starts": f"sweep {MAZE} n=100 algo=a2c steps=1000000 random_start=1",
    "D8-both": f"sweep {MAZE} n=100 algo=a2c steps=1000000 random_start=1 env.sticky_actions=0.25",
    "D5-plain": f"sweep {PICTURES} background=plain n=10,100,1000",
    "D5-texture": f"sweep {PICTURES} background=texture n=10,100,1000",
    "ale": "sweep ale:SpaceInvaders test=16 n=1,5 runs=3 preset=atari/spaceinvaders algo=a2c envs_per_learner=16 "
    "steps=300000",
}
REPORTS = ("maze-a2c", "maze-gala", "pendulum-a2c", "pendulum-gala", "D3-starts", "blocks", "D5-texture", "ale")
REGIONS = ("D", "R", "E")
CROSSED = {"CartPole-v1": "classic/cartpole", "Acrobot-v1": "classic/acrobot"}


class Finding(NamedTuple):
    """A row of the table."""

    paper: str
    finding: str
    ours: str
    verdict: str


def gaps(r: Results, study: str, n: int, condition: str = "") -> np.ndarray:
    """Each run's adjusted gap, normalised."""
    return np.array(list(r.group(study, n, condition).by_run.values()))


def returns(r: Results, study: str, n: int, condition: str = "", on: str = "test") -> np.ndarray:
    """Each run's mean return on a set, as a share of what separates the best policy from a random one."""
    every = [x for x in r.rows[study] if x["policy"] == "agent" and (x["set"], x["n_train"]) == (on, n)]
    every = [x for x in every if x["condition"] == condition]
    runs = sorted({x["run"] for x in every})
    group = r.group(study, n)
    means = np.array([np.mean([x["return"] for x in every if x["run"] == run]) for run in runs])
    return (means - (group.j_random or 0.0)) / group.scale


def more(a: np.ndarray, b: np.ndarray, paired: bool = False) -> Interval:
    """mean(a) - mean(b) and its 95 % interval over runs: Welch's, or of the ``paired`` differences."""
    test = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    if np.isnan(test.statistic):  # no spread at all
        mid = float(a.mean() - b.mean())
        return Interval(mid, mid, mid)
    low, high = test.confidence_interval(0.95)
    return Interval(float(low), float(a.mean() - b.mean()), float(high))


def verdict(difference: Interval) -> str:
    """Whether what a paper says is more is more here."""
    return "agrees" if difference.low > 0 else "does not agree" if difference.high < 0 else "undecided"


def told(x: Interval) -> str:
    return f"{x.estimate:+.2f} [{x.low:+.2f}, {x.high:+.2f}]"


def listed(values: Sequence[np.ndarray]) -> str:
    return " / ".join(f"{x.mean():.2f}" for x in values)


def strengths(r: Results, study: str, name: str, values: str, paper: str, finding: str) -> Iterator[Finding]:
    """Return on test MDPs falls as a stress grows: the strongest against none."""
    n = 10
    every = [returns(r, study, n, f"{name}={v}") for v in values.split(",")]
    lost = more(returns(r, study, n), every[-1], paired=True)
    ours = f"test return {listed([returns(r, study, n), *every])} at {name} = none/{values.replace(',', '/')}; "
    yield Finding(paper, finding, ours + f"lost {told(lost)}", verdict(lost))


ZHANG, MAZES = "1806.07937", "1804.06893"


def wider(r: Results) -> Iterator[Finding]:
    said = "return falls as starts widen"
    yield from strengths(r, "D3-starts", "init_mult", "2,4,10", f"{ZHANG} (D3), InvertedPendulum", said)


def noisy(r: Results) -> Iterator[Finding]:
    for study, task in (("D4-cartpole", "CartPole"), ("D4-pendulum", "InvertedPendulum")):
        if study in r.judged:
            said = "return falls with noise on observations"
            yield from strengths(r, study, "sigma", "0.1,0.3,1", f"{ZHANG} (D4), {task}", said)


def pictures(r: Results) -> Iterator[Finding]:
    extra = more(gaps(r, "D5-texture", 100), gaps(r, "D5-plain", 100))
    ours = f"gap over textures less that over black, N = 100: {told(extra)}"
    yield Finding(f"{ZHANG} (D5), tiny_objects", "natural backgrounds overfit more", ours, verdict(extra))
    few = more(gaps(r, "D5-texture", 10), gaps(r, "D5-texture", 1000))
    every = [gaps(r, "D5-texture", n) for n in (10, 100, 1000)]
    ours = f"gap {listed(every)} at N = 10/100/1000; less from 10 to 1000: {told(few)}"
    yield Finding(f"{ZHANG} (D5), tiny_objects", "diversity closes the gap", ours, verdict(few))


def discretised(r: Results) -> Iterator[Finding]:
    change = more(gaps(r, "D7-continuous", 1), gaps(r, "D7-bins", 1))
    ours = f"gap at N = 1, continuous less five bins: {told(change)}"
    yield Finding(f"{ZHANG} (D7), InvertedPendulum", "discretised actions overfit less", ours, verdict(change))


def width(r: Results) -> Iterator[Finding]:
    change = more(gaps(r, "D7-narrow", 10), gaps(r, "D7-wide", 10))
    trained = [returns(r, s, 10, on="train") for s in ("D7-narrow", "D7-wide")]
    ours = f"learned {listed(trained)} of the task; gap of 64 units less that of 512: {told(change)}"
    yield Finding("1912.02975, CartPole with 16 spurious numbers", "width shrinks the gap", ours, verdict(change))


def blocks(r: Results) -> Iterator[Finding]:
    few = more(gaps(r, "blocks", 10), gaps(r, "blocks", 1000))
    every = [gaps(r, "blocks", n) for n in (10, 100, 1000)]
    ours = f"gap {listed(every)} at N = 10/100/1000; less from 10 to 1000: {told(few)}"
    yield Finding(f"{MAZES}, BLOCKS", "the gap falls with N", ours, verdict(few))


def detected(r: Results) -> Iterator[Finding]:
    gap = gaps(r, "blocks-stress", 10)
    for condition in ("sticky=0.25", "random_start"):
        lost = returns(r, "blocks-stress", 10, on="train") - returns(r, "blocks-stress", 10, condition, on="train")
        hidden = more(gap, lost, paired=True)
        ours = f"lost to new mazes {gap.mean():.2f}, to {condition} {lost.mean():.2f}; more by {told(hidden)}"
        said = f"{'sticky actions' if 'sticky' in condition else 'random starts'} do not detect overfitting"
        yield Finding(f"{MAZES}, BLOCKS, N = 10", said, ours, verdict(hidden))


def remedies(r: Results) -> Iterator[Finding]:
    for study, said in (("D8-starts", "random starts"), ("D8-both", "random starts and sticky actions")):
        kept = more(gaps(r, "D8-plain", 100), gaps(r, study, 100))
        trained = more(returns(r, study, 100, on="train"), returns(r, "D8-plain", 100, on="train"))
        both = listed([gaps(r, "D8-plain", 100), gaps(r, study, 100)])
        ours = f"gap {both} without/with, less by {told(kept)}; train return changes by {told(trained)}"
        still = "agrees" if r.group(study, 100).verdict == "OVERFIT" else "undecided"
        yield Finding(f"{MAZES} (D8), N = 100", f"{said} do not prevent overfitting", ours, still)


def algorithms(r: Results) -> Iterator[Finding]:
    pairs = {"pendulum": (1, 10), "maze": (10, 100)}
    for task, sizes in pairs.items():
        for other in ("gala", "independent", "allreduce", "slowmo"):
            for n in sizes if {f"{task}-a2c", f"{task}-{other}"} <= r.judged.keys() else ():
                change = more(gaps(r, f"{task}-{other}", n), gaps(r, f"{task}-a2c", n))
                trained = [returns(r, f"{task}-{algo}", n, on="train") for algo in ("a2c", other)]
                ours = f"gap of {other} 4 x 16 less that of A2C 1 x 64: {told(change)}; learned {listed(trained)}"
                differs = "undecided" if verdict(change) == "undecided" else "more" if change.low > 0 else "less"
                yield Finding(f"none; {task}, N = {n}", f"does {other} change overfitting?", ours, differs)


def flavours(r: Results) -> Iterator[Finding]:
    lost = r.group("ale", 1).gap
    ours = f"Space Invaders, {r.group('ale', 1).runs} runs: return lost on other flavours {told(lost)}"
    yield Finding("1810.00123", "agents specialise to the flavour they play", ours, verdict(lost))


FINDINGS = {
    algorithms: ("maze-a2c",), wider: ("D3-starts",), noisy: ("D4-cartpole",), pictures: ("D5-plain", "D5-texture"),
    discretised: ("D7-continuous", "D7-bins"), width: ("D7-narrow", "D7-wide"), blocks: ("blocks",),
    detected: ("blocks-stress",), remedies: ("D8-plain", "D8-starts", "D8-both"), flavours: ("ale",),
}  # fmt: skip


def cross(studies: Path) -> None:
    """Five runs trained on 100 contexts of each region, and judged on 200 of each."""
    for task, preset in CROSSED.items():
        for region in REGIONS:
            folder = studies / f"cross-{task}" / region
            if not (folder / "sets" / "test.json").is_file():
                _gala("split", f"classic:{task}", f"region={region}", "train=100", "test=200", f"out={folder}/sets")
            given = [f"sets={folder}/sets", "runs=5", f"preset={preset}", "algo=a2c", "log.keep_milestones=0"]
            _gala("train", *given, f"out={folder}/runs")
        for region in REGIONS:
            for other in REGIONS:
                _judged_on(studies / f"cross-{task}", region, other)


def _judged_on(folder: Path, region: str, other: str) -> None:
    sets, out = folder / f"{region}-on-{other}-sets", folder / f"{region}-on-{other}"
    if not (out / "report.html").is_file():
        sets.mkdir(exist_ok=True)
        shutil.copyfile(folder / region / "sets" / "train.json", sets / "train.json")
        shutil.copyfile(folder / other / "sets" / "test.json", sets / "test.json")
        runs = [str(folder / region / "runs" / f"run{k}") for k in range(5)]
        _gala("eval", *runs, f"sets={sets}", f"out={out}")


def _gala(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "gala", "overfit", *words], check=False)


def successes(folder: Path) -> dict[str, np.ndarray]:
    """Such as "DE" -> the share of test contexts of E that each run trained on D succeeds in."""
    shares = {}
    for a in REGIONS:
        for b in REGIONS:
            every = read(folder / f"{a}-on-{b}" / "rows.jsonl")
            rows = [x for x in every if x["policy"] == "agent" and x["set"] == "test"]
            shares[a + b] = np.array([np.mean([x["success"] for x in rows if x["run"] == k]) for k in range(5)])
    return shares


def packer(studies: Path) -> Iterator[Finding]:
    """Default DD, interpolation RR, extrapolation the geometric mean of DR, DE and RE (1810.12282)."""
    for task in CROSSED:
        if not all((studies / f"cross-{task}" / f"{a}-on-{b}" / "report.html").is_file() for a in "DRE" for b in "DRE"):
            continue
        share = successes(studies / f"cross-{task}")
        extrapolation = np.cbrt(share["DR"] * share["DE"] * share["RE"])
        fall = more(share["DD"], extrapolation, paired=True)
        cells = ", ".join(f"{cell} {x.mean():.0%}" for cell, x in share.items())
        ours = f"D {share['DD'].mean():.0%}, I {share['RR'].mean():.0%}, E {extrapolation.mean():.0%}; D less E "
        yield Finding(
            f"1810.12282, {task}",
            "default >= interpolation >= extrapolation",
            ours + f"{told(fall)} ({cells})",
            verdict(fall),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True, help="a directory for trainings and rows; large")
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    if not options.judge:
        run_all(options.studies, {name: command for name, command in STUDIES.items() if name != "ale"})
        cross(options.studies)
        run_all(options.studies, STUDIES)
    r = Results(options.studies, STUDIES)
    findings = [f for find, needs in FINDINGS.items() if set(needs) <= r.judged.keys() for f in find(r)]
    findings += packer(options.studies)
    written = RESULTS / "overfit_protocols.jsonl"
    known = read(written) if written.is_file() else []
    told_now = {(f.paper, f.finding) for f in findings}
    old = [
        Finding(**x) for x in known if "verdict" in x and "paper" in x and (x["paper"], x["finding"]) not in told_now
    ]
    findings = [*old, *findings]
    table = ["| paper | finding | here | |", "| --- | --- | --- | --- |"]
    table += [f"| {f.paper} | {f.finding} | {f.ours} | {f.verdict} |" for f in findings]
    (RESULTS / "overfit_protocols.md").write_text("\n".join([*table, ""]))
    lines: list[dict[str, Any]] = [f._asdict() for f in findings]
    lines += [x for x in known if "study" in x and x["study"] not in r.judged]
    for name, result in r.judged.items():
        if name in REPORTS:
            report = (options.studies / name / "report.html").read_text().replace(str(options.studies), "STUDIES")
            (RESULTS / f"overfit_{name}.html").write_text(report)
        lines += [{"study": name, "command": STUDIES[name]} | short(g) for g in result["groups"]]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"machine": machine_facts()}])
    written.write_text(text)


if __name__ == "__main__":
    main()
