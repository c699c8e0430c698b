"""Do the optional ways of running a learner pay on this machine? Each against the default, in turns.

    python benchmarks/variants.py                              about ten minutes on two cores
    python benchmarks/variants.py --tasks minatar/breakout --variants default autograd      all other rows stay

autograd    a2c.passes=1: PyTorch's gradient, in place of the lean path where there is one.
groups      env_groups=2: half of a learner's simulators step while its network acts for the other half.
compile     model.compile=default: torch.compile of the encoder.
overlap     gossip.overlap: the exchange in a thread of its own.

Two learners of 32 simulators, four of 16 (small), or one of 64 (a2c). One JSON line per task and variant in
benchmarks/results/variants.jsonl: the rate of every turn, and the ratio to the default paired by turn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stragglers import in_turns, rates

from gala.bench.machine import machine_facts
from gala.bench.ratios import paired_ratio, verdict

RESULTS = Path(__file__).parent / "results" / "variants.jsonl"
TASKS = ("classic/cartpole", "mujoco/halfcheetah", "atari/pong", "minatar/breakout")
TWO, ONE = ["learners=2", "envs_per_learner=32"], ["algo=a2c", "envs_per_learner=64"]
FOUR = ["learners=4", "envs_per_learner=16"]
VARIANTS = {
    "default": TWO,
    "autograd": [*TWO, "a2c.passes=1"],
    "small": FOUR,
    "small autograd": [*FOUR, "a2c.passes=1"],
    "groups": [*TWO, "env_groups=2"],
    "compile": [*TWO, "model.compile=default"],
    "overlap": [*TWO, "gossip.overlap=true"],
    "a2c": ONE,
    "a2c groups": [*ONE, "env_groups=2"],
    "a2c autograd": [*ONE, "a2c.passes=1"],
}
BASE = dict.fromkeys(VARIANTS, "default") | {"a2c groups": "a2c", "a2c autograd": "a2c", "small autograd": "small"}


def _is_run_again(row: dict[str, Any], options: argparse.Namespace) -> bool:
    return row["task"] in options.tasks and row["variant"] in options.variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    if lacking := {BASE[name] for name in options.variants} - set(options.variants):
        parser.error(f"--variants wants {', '.join(sorted(lacking))} too, which others are compared with")
    known = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    lines = [line for line in known if not _is_run_again(json.loads(line), options)]
    for task in options.tasks:
        words = {name: [f"preset={task}", *VARIANTS[name]] for name in options.variants}
        found = in_turns(words, options.rounds, options.seconds)
        for name, blocks in found.items():
            ratio = paired_ratio(rates(blocks), rates(found[BASE[name]]))
            row = {"task": task, "variant": name, "settings": words[name], "env_steps_per_s": rates(blocks)}
            row |= {"over": BASE[name], "ratio": ratio._asdict()}
            lines.append(json.dumps({"benchmark": "variants", **row, "machine": machine_facts()}))
            print(
                f"{task:<20} {name:<14} {ratio.median:5.2f} [{ratio.low:.2f}, {ratio.high:.2f}] x {BASE[name]:<8}"
                f"{'' if name == BASE[name] else verdict(ratio, options.rounds)}"
            )
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
