"""What ``benchmarks/optimizers.py`` tabulates, against medians by hand."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import optimizers


def test_who_does_not_reach_the_bar_takes_for_ever_in_the_median_too():
    def row(seed, steps):
        told = {"task": "cartpole", "optimizer": "ekfac", "lr": 0.25, "seed": seed, "final_return": 1.0}
        return told | {
            "env_steps_to_bar": steps,
            "seconds_to_bar": steps and steps / 10,
            "env_steps": 9,
            "seconds": 9.0,
        }

    rows = [row(seed, steps) for seed, steps in enumerate((100, None, 300, None, 200), 1)]
    cells = optimizers.table(rows).splitlines()[-1].split(" | ")
    assert cells[3:5] == ["300 [100, 300] (3 of 5)", "30.0"]  # of 100, 200, 300, inf, inf
