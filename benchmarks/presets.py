"""What does each preset come to, as it is written? One training of each, with all of its settings.

    python benchmarks/presets.py --presets mujoco/hopper classic/acrobot     what has a row of these settings is skipped
    python benchmarks/presets.py                                             all; Atari takes hours
    python benchmarks/presets.py --presets atari/pong --run RUN              a training that is there already
    python benchmarks/presets.py --table                                     what was measured

Seed 1 (that of RUN), the preset's own env_steps or ``--at-most``; judged by a hundred episodes each of sampled and of
greedy actions beside as many of random ones. A row has the settings, so that a test can say of every preset that it is
what was run (`tests/bench/test_preset_rows.py`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kept_rows import KeptRows, Row

from gala.api.run import Run
from gala.config.parse import parse_config, schema
from gala.config.preset_files import preset_names
from gala.config.schema import Config
from gala.experiments.jobs import TrainingJob
from gala.experiments.judging import random_return
from gala.experiments.rows import command_of, differing, known_beforehand, settings_of
from gala.runs.run_dir import RunDir
from gala.runs.units import number
from gala.training.new_run import prepare

RESULTS = Path(__file__).parent / "results" / "presets.jsonl"
KEYS = ("preset", "settings")
EPISODES = 100


def agents() -> list[str]:
    """Presets of `gala train` for one environment each."""
    return [name for name in preset_names() if schema(name) is Config and parse_config([f"preset={name}"]).env.id]


def changed_since(rows: Sequence[Row], preset: str) -> set[str] | None:
    """Settings that are not those of the preset's latest row, its env_steps aside; None where it has no row."""
    found = [row["settings"] for row in rows if row["preset"] == preset]
    return changed(found[-1], preset) if found else None


def changed(settings: Mapping[str, Any], preset: str) -> set[str]:
    """The names of those that are not the preset's, its env_steps aside."""
    mine = settings_of(prepare([f"preset={preset}"], start_processes=False))
    return set(differing(settings, mine)) - {"steps"}


def train(preset: str, steps: int) -> Row:
    """Raises RuntimeError with the command's own words if it fails."""
    words = [f"preset={preset}", f"steps={steps}", "seed=1"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gala", "train", *words, f"run={folder}/run", "log.panel=off"]
        done = subprocess.run([*command, "log.tensorboard=false"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"gala train {' '.join(words)}:\n{done.stderr}")
        return judged(preset, Path(folder) / "run")


def judged(preset: str, folder: Path) -> Row:
    """The row of the finished training in ``folder``. Raises ValueError if it is not finished, or of other settings."""
    run, run_dir, stock = Run(folder), RunDir.open(folder), settings_of(Config())
    known = known_beforehand(run_dir)
    others = changed(known["settings"], preset)
    if others or not TrainingJob(folder, ()).finished:
        raise ValueError(f"{folder}: {', '.join(sorted(others)) or 'its end'} is not that of preset={preset}")
    returns = {mode: run.evaluate(episodes=EPISODES, mode=mode).return_mean for mode in ("sampled", "greedy")}
    settings = {key: value for key, value in known["settings"].items() if stock.get(key) != value}
    row = {"preset": preset, "settings": settings, "seed": known["seed"], "returns": returns}
    row["seconds"] = round(run_dir.read_metrics()[-1]["perf/wall_s"], 1)
    return row | {"random": random_return(run.config, EPISODES), "command": command_of(run_dir)}


def table(rows: list[Row]) -> str:
    """The latest row of each preset."""
    lines = ["| preset | env_steps | random | sampled | greedy |", "| --- | ---: | ---: | ---: | ---: |"]
    for preset, row in sorted({row["preset"]: row for row in rows}.items()):
        figures = [row["random"], row["returns"]["sampled"], row["returns"]["greedy"]]
        lines.append(
            f"| {preset} | {row['settings'].get('steps', Config().steps):,} | {' | '.join(map(number, figures))} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=agents(), default=agents(), metavar="PRESET")
    parser.add_argument("--at-most", type=float, default=float("inf"), help="env_steps of a training")
    parser.add_argument("--run", type=Path, help="a finished training of the one preset, to be judged and not trained")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.run and len(options.presets) > 1:
        parser.error("--run is of one preset: give --presets")
    kept = KeptRows(options.out, KEYS)
    if options.table:
        print(table(kept.rows))
        return
    for preset in options.presets:
        since = changed_since(kept.rows, preset)
        if options.run:
            kept.add_new([judged(preset, options.run)])
        elif since is None or since:
            steps = parse_config([f"preset={preset}"]).steps
            kept.add(train(preset, int(min(steps, options.at_most))))
    kept.conclude(())


if __name__ == "__main__":
    main()
