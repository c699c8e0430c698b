"""The learning claims of the overfitting diagnostics: trains, judges, and holds the verdicts against frozen thresholds.

    python benchmarks/overfitting.py --studies STUDIES            two hours on two cores; goes on where it was cut off
    python benchmarks/overfitting.py --studies STUDIES --judge    only what is there already

Five training runs of each kind, seeds 1 to 5, fresh training sets. The thresholds were set once, at about half of the
effect that was seen then. One line per group of each study and one per claim in benchmarks/results/overfitting.jsonl,
the reports beside it as overfit_NAME.html, and the table of randomised rewards beside Table 2 of arXiv 1804.06893 in
overfit_table2.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from studies import Results, run_all, short

from gala.bench.machine import machine_facts
from gala.diagnostics.overfitting.probes import value_errors

RESULTS = Path(__file__).parent / "results"
MAZE = "maze size=5 bads=1 limit=50 preset=overfit/maze test=200 runs=5"
CARTPOLE = "preset=classic/cartpole algo=a2c runs=5 log.keep_milestones=0"
ALGOS = "algos=a2c,gala,independent,allreduce learners=4 torch_threads=1 jobs=1"
STUDIES = {
    "R1-mlp": f"sweep {MAZE} n=1,10,100,1000 algo=a2c",
    "R1-conv": f"sweep {MAZE} n=100 algo=a2c model.encoder=minatar_cnn torch_threads=1 steps=500000",
    "R2-flip": f"flip {MAZE} n=10,100,1000 flip=0.2,0.5 algo=a2c",
    "R3-stress": "stress {studies}/R1-mlp n=10 sticky=0.25",
    "R4-cartpole": "sweep seeds:CartPole-v1 n=1,10,100 runs=5 test=200 preset=classic/cartpole algo=a2c",
    "R4-wide": f"sweep seeds:CartPole-v1 init_mult=4 n=100 test=200 {CARTPOLE}",
    "R4-stress": "stress {studies}/R4-cartpole n=10 init_mult=4",
    "R5-D": f"sweep classic:CartPole-v1 region=D n=100 test=200 steps=100000 {CARTPOLE}",
    "R5-R": f"sweep classic:CartPole-v1 region=R n=100 test=200 steps=100000 {CARTPOLE}",
    "R6-16": f"sweep confounded:seeds:CartPole-v1 noise_dims=16 n=1,10 test=100 steps=100000 {CARTPOLE}",
    "R6-128": f"sweep confounded:seeds:CartPole-v1 noise_dims=128 n=1,10 test=100 steps=100000 {CARTPOLE}",
    "R6-g": f"sweep confounded:seeds:CartPole-v1 noise_dims=128 shown=g n=10 test=100 steps=100000 {CARTPOLE}",
    "R6-wide": f"sweep confounded:seeds:CartPole-v1 noise_dims=128 n=1 test=100 steps=100000 model.hidden=512,512 "
    f"{CARTPOLE}",
    "R8-plain": f"sweep {MAZE} n=2 algo=a2c steps=500000",
    "R8-model": f"sweep {MAZE} n=2 algo=a2c steps=500000 model.dynamics_coef=1",
    "D8-plain": f"sweep {MAZE} n=100 algo=a2c steps=500000",
    "D8-dropout": f"sweep {MAZE} n=100 algo=a2c steps=500000 model.dropout=0.2",
    "D8-l2": f"sweep {MAZE} n=100 algo=a2c steps=500000 a2c.l2=0.001",
    "D8-sticky": f"sweep {MAZE} n=100 algo=a2c steps=500000 env.sticky_actions=0.25",
    "D8-cutout": f"sweep {MAZE} n=100 algo=a2c steps=500000 model.augment=cutout",
    "compare-maze": f"sweep {MAZE} n=10,100 {ALGOS} steps=500000",
    "compare-maze-4x": f"sweep {MAZE} n=10,100 algos=gala learners=4 torch_threads=1 jobs=1 steps=2000000",
    "compare-mujoco": "sweep mujoco:InvertedPendulum-v5 n=1,10 runs=3 test=50 preset=mujoco/inverted_pendulum "
    f"steps=300000 log.keep_milestones=0 {ALGOS}",
    "compare-mujoco-4x": "sweep mujoco:InvertedPendulum-v5 n=1,10 runs=3 test=50 preset=mujoco/inverted_pendulum "
    "steps=1200000 log.keep_milestones=0 algos=gala learners=4 torch_threads=1 jobs=1",
}
REPORTS = (
    "R1-mlp",
    "R2-flip",
    "R3-stress",
    "R4-cartpole",
    "R6-128",
    "compare-maze",
    "compare-maze-4x",
    "compare-mujoco",
    "compare-mujoco-4x",
)
PAPER = {
    (10, 0.0): (2.1, -0.6), (10, 0.2): (2.1, -0.2), (10, 0.5): (2.1, -0.4),
    (100, 0.0): (2.1, 0.9), (100, 0.2): (2.1, 0.4), (100, 0.5): (2.0, -0.4),
    (1000, 0.0): (2.1, 1.6), (1000, 0.2): (2.0, 0.9), (1000, 0.5): (2.0, -0.2),
}  # fmt: skip
"""Table 2 of 1804.06893, BASIC, MLP: (levels, flip probability) -> (train, test)."""


class Claim(NamedTuple):
    """``holds`` is None where there is no gate."""

    name: str
    measured: Any
    wanted: str
    holds: bool | None


def r1(r: Results) -> Iterator[Claim]:
    groups = r.judged["R1-mlp"]["groups"]
    train = [round(g.train_normalised, 3) for g in groups]
    yield Claim("R1 train stays optimal for every N", train, ">= 0.9", min(train) >= 0.9)
    yield Claim("R1 gap at N = 1", r.gap("R1-mlp", 1), ">= 0.5", r.gap("R1-mlp", 1) >= 0.5)
    yield Claim("R1 gap at N = 1000", r.gap("R1-mlp", 1000), "<= 0.15", r.gap("R1-mlp", 1000) <= 0.15)
    p = r.judged["R1-mlp"]["trends"][""]["page_p"]
    yield Claim("R1 the gap falls with N, Page's p", p, "< 0.01", p < 0.01)
    if "R1-conv" in r.judged:
        less = r.gap("R1-mlp", 100) - r.gap("R1-conv", 100)
        yield Claim("R1 gap of the MLP less that of the ConvNet, N = 100", less, "> 0", less > 0)


def r2(r: Results) -> Iterator[Claim]:
    half = "flip=0.5"
    train = r.group("R2-flip", 10, half).train_normalised
    yield Claim("R2 random rewards of 10 levels are memorised, normalised train", train, ">= 0.9", train >= 0.9)
    less = r.mean("R1-mlp", 10, "test") - r.mean("R2-flip", 10, "test", half)
    yield Claim("R2 test return lost to random rewards, N = 10", less, ">= 0.14", less >= 0.14)
    fall = r.mean("R2-flip", 10, "train", half) - r.mean("R2-flip", 1000, "train", half)
    yield Claim("R2 capacity: train return at N = 10 less that at 1000", fall, ">= 0.46", fall >= 0.46)
    same = {f"N={n} p={p}": _directions(r, n, p) for n in (10, 100, 1000) for p in (0.2, 0.5)}
    # No gate: at N = 10 the paper's MLP gains by flips what its ConvNet loses; both test at chance.
    yield Claim("R2 cells with the directions of the paper's MLP (flips against none)", same, "all, where N > 10", None)


def _directions(r: Results, n: int, p: float) -> bool:
    """Whether flips change train and test as in the paper: train falls or stays, test falls."""
    train, test = (r.mean("R2-flip", n, s, f"flip={p:g}") - r.mean("R1-mlp", n, s) for s in ("train", "test"))
    paper = [PAPER[n, p][i] - PAPER[n, 0.0][i] for i in (0, 1)]
    close = 0.1  # what two returns may differ by and still be called equal, in the paper's rounding
    pairs = ((train, paper[0]), (test, paper[1]))
    return all(abs(a) <= close + abs(b) if abs(b) <= close else np.sign(a) == np.sign(b) for a, b in pairs)


def r3(r: Results) -> Iterator[Claim]:
    base, sticky = r.group("R3-stress", 10), r.group("R3-stress", 10, "sticky=0.25")
    train, test = (base.sets[s]["mean"].estimate for s in ("train", "test"))
    share = (train - sticky.sets["train"]["mean"].estimate) / (train - test)
    yield Claim("R3 loss to sticky actions, as a share of the loss to new levels", share, "< 1/3", share < 1 / 3)


def r4(r: Results) -> Iterator[Claim]:
    verdicts = {g.n_train: g.verdict for g in r.judged["R4-cartpole"]["groups"]}
    yield Claim("R4 CartPole by seeds alone", verdicts, "NO-GAP at N = 10", verdicts[10] == "NO-GAP")
    if {"R4-stress", "R4-wide"} <= r.judged.keys():
        plain, wide = (r.mean("R4-stress", 10, "test", c) for c in ("", "init_mult=4"))
        trained = r.mean("R4-wide", 100, "test")
        yield Claim("R4 return lost to starts four times as wide", plain - wide, "> 0", plain > wide)
        kept = (trained - wide) / max(plain - wide, 1e-9)
        yield Claim("R4 share of it that training on such starts removes", kept, ">= 0.5", kept >= 0.5)


def r5(r: Results) -> Iterator[Claim]:
    returns = {s: r.mean(s, 100, "test") for s in ("R5-D", "R5-R")}
    yield Claim("R5 CartPole trained and tested on D, and on R", returns, "no gate", None)


def r6(r: Results) -> Iterator[Claim]:
    gaps = [r.gap("R4-cartpole", 1), r.gap("R6-16", 1), r.gap("R6-128", 1)]
    yield Claim(
        "R6 gap at N = 1 without, with 16 and with 128 spurious numbers", gaps, "it rises", gaps == sorted(gaps)
    )
    fewer = r.gap("R6-128", 1) - r.gap("R6-128", 10)
    yield Claim("R6 gap at N = 1 less that at N = 10, 128 numbers", fewer, "> 0", fewer > 0)
    if "R6-g" in r.judged:
        test = r.group("R6-g", 10).sets["test"]
        low, _, high = test["mean"]
        text = f"{test['mean'].estimate:.1f} [{low:.1f}, {high:.1f}], random {test['random']:.1f}"
        yield Claim("R6 with spurious numbers only, test return", text, "no gate", None)
    if "R6-wide" in r.judged:
        more = r.gap("R6-wide", 1) - r.gap("R6-128", 1)
        yield Claim("R6 gap of 512 units less that of 64", more, "<= 0.1", more <= 0.1)


def r7(r: Results) -> Iterator[Claim]:
    gaps = {}
    for n in (1, 10, 100, 1000):
        rows = [x for x in r.rows["R1-mlp"] if x["policy"] == "agent" and x["n_train"] == n]
        mse = {s: value_errors([x for x in rows if x["set"] == s]).mse for s in ("train", "test")}
        gaps[n] = round(mse["test"] / mse["train"], 2)
    yield Claim("R7 squared error of V(s0), test / train, by N", gaps, "no gate", None)


def r8(r: Results) -> Iterator[Claim]:
    gaps = {s: r.gap(s, 2) for s in ("R8-plain", "R8-model")}
    yield Claim("R8 gap at N = 2 without and with a learned model", gaps, "no gate", None)


def d8(r: Results) -> Iterator[Claim]:
    for name in (s for s in STUDIES if s.startswith("D8-") and s in r.judged):
        train, test = (round(r.mean(name, 100, s), 2) for s in ("train", "test"))
        measured = {"gap": round(r.gap(name, 100), 3), "train": train, "test": test}
        yield Claim(f"{name}: remedies at N = 100, 500,000 env_steps", measured, "no gate", None)


CLAIMS = {
    r1: ("R1-mlp",), r2: ("R1-mlp", "R2-flip"), r3: ("R3-stress",), r4: ("R4-cartpole",), r5: ("R5-D", "R5-R"),
    r6: ("R4-cartpole", "R6-16", "R6-128"), r7: ("R1-mlp",), r8: ("R8-plain", "R8-model"),
    d8: ("D8-plain",),
}  # fmt: skip


def table2(r: Results) -> str:
    """Train and test return here and in the paper, side by side."""
    lines = [
        "| levels | flip | train, here | paper | test, here | paper |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (n, p), (train, test) in PAPER.items():
        study, condition = ("R2-flip", f"flip={p:g}") if p else ("R1-mlp", "")
        here = [r.mean(study, n, s, condition) for s in ("train", "test")]
        lines.append(f"| {n} | {p:g} | {here[0]:.2f} | {train} | {here[1]:.2f} | {test} |")
    note = (
        "Here: 5x5 cells, two good objects and one bad one, 50 steps, A2C, 2M env_steps, five runs, mean. Paper: Zhang "
        "et al. 2018, Table 2, BASIC 9x9, two and two, 200 steps, MLP, up to 1e9 steps, mean of the top 3 of 20 jobs."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, required=True, help="a directory for trainings and rows; large")
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    run_all(options.studies, {} if options.judge else STUDIES)
    r = Results(options.studies, STUDIES)
    claims = [c for check, needs in CLAIMS.items() if set(needs) <= r.judged.keys() for c in check(r)]
    with (RESULTS / "overfitting.jsonl").open("w") as file:
        for c in claims:
            print(
                json.dumps({"claim": c.name, "measured": c.measured, "wanted": c.wanted, "holds": c.holds}), file=file
            )
            mark = "--" if c.holds is None else "ok" if c.holds else "NO"
            print(f"{mark}  {c.name}: {c.measured} ({c.wanted})")
        for name, result in r.judged.items():
            if name in REPORTS:
                shutil.copyfile(options.studies / name / "report.html", RESULTS / f"overfit_{name}.html")
            for g in result["groups"]:
                print(json.dumps({"study": name, "command": STUDIES[name]} | short(g)), file=file)
        print(json.dumps({"machine": machine_facts()}), file=file)
    if {"R1-mlp", "R2-flip"} <= r.judged.keys():
        (RESULTS / "overfit_table2.md").write_text(table2(r))
    return int(any(claim.holds is False for claim in claims))


if __name__ == "__main__":
    sys.exit(main())
