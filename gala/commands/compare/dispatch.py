"""``gala compare``: does one algorithm, setting or version learn as well as another, faster, more robustly?"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gala.commands.compare.words import USAGE, Words, cells, sort_words
from gala.config.own_words import asks_for_help
from gala.experiments.algorithms import BASELINE
from gala.experiments.compared import Terms
from gala.experiments.comparison import check, check_task
from gala.experiments.rows import ROWS, Row, name_groups, read_rows

EXIT_FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Returns 0 when there is a report, 1 if a training has failed, 128 + n if signal n has ended it."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    words = sort_words([word for word in argv if word != "--dry-run"])
    from gala.processes.output import forgiving_output
    from gala.reports.figures import check_matplotlib

    check_matplotlib()
    command = shlex.join(["gala", "compare", *argv])
    if (words.rows or words.runs) and "--dry-run" in argv:
        raise ValueError("--dry-run shows what would be trained, and all is trained here already; leave it out")
    if words.rows:
        return _report(words, _read_all(words.rows), command)
    if words.runs:
        return _compare_runs(words, command, argv)
    with forgiving_output():  # a terminal that is gone ends the trainings in order
        return _grid(words, command, dry_run="--dry-run" in argv)


def _read_all(paths: Sequence[Path]) -> list[Row]:
    """The rows of all files, with a ``group`` each. Raises ValueError if a training is there twice, or a seed of one
    group in two files: its luck would count twice."""
    rows: list[Row] = []
    whence: list[Path] = []
    for path in paths:
        for row in read_rows(path):
            if row in rows or any(_as_well(row, other) for other in rows):
                raise ValueError(f"{path}: {row['name']} is there twice; a training counts once")
            rows.append(row)
            whence.append(path)
    rows = name_groups(rows)
    seen: dict[tuple[str, int], Path] = {}
    for row, path in zip(rows, whence, strict=True):
        other = seen.setdefault((row["group"], row["seed"]), path)
        if other != path:
            told = f"seed {row['seed']} of {row['group']} is there twice, in {other} and {path}"
            raise ValueError(f"{told}; give each machine seeds of its own by first_seed=")
    return rows


def _as_well(row: Row, other: Row) -> bool:
    """Whether one training is there as finished and as failed."""
    same = all(row[key] == other[key] for key in ("name", "group", "seed", "settings"))
    return same and ("failed" in row) != ("failed" in other)


def _out(words: Words, default: str) -> Path:
    return Path(words.options.out or f"runs/compare-{default}")


def _grid(words: Words, command: str, *, dry_run: bool) -> int:
    from gala.bench.energy import counters, joules
    from gala.bench.machine import machine_facts
    from gala.commands.compare.progress import Progress
    from gala.experiments.grid import Grid, Plan
    from gala.processes.ending import Ended, ending_signals
    from gala.processes.output import printable
    from gala.processes.resources import available_cores
    from gala.runs.lock import lock

    options, grid_cells = words.options, cells(words)
    preset = grid_cells[0].config.preset or grid_cells[0].config.env.id
    out = _out(words, preset.removesuffix(".yaml").replace("/", "-").replace(":", "-").lower())
    cores = available_cores()
    at_once = options.jobs or max(1, cores // max(cell.config.learners for cell in grid_cells))
    read, facts = counters(), {key: fact for key, fact in machine_facts().items() if key != "versions"}
    plan = Plan(out, options.episodes, options.mode, at_once, cores // at_once, facts, lambda: joules(read))
    grid = Grid(grid_cells, plan)
    fixed = terms(words, [{"group": cell.group, "solved_return": cell.config.solved_return} for cell in grid_cells])
    grid.check()
    print("\n".join(_plan_lines(grid)), flush=True)
    if dry_run:
        return 0
    out.mkdir(parents=True, exist_ok=True)
    held = lock(out)
    grid.recover()
    progress = Progress(grid)
    try:
        with ending_signals():
            failures = grid.run(progress.say, progress.tick)
    except (Ended, KeyboardInterrupt) as end:
        progress.close()
        print(f"stopped; this goes on where it was:\n{command}", flush=True)
        return 128 + end.number if isinstance(end, Ended) else 130
    finally:
        held.close()
    progress.close()
    if not failures:
        return _report(words, grid.rows(), command, out, fixed)
    try:
        _report(words, grid.rows(), command, out, fixed)
    except ValueError as error:  # nothing is left to compare, or no baseline
        print(f"no report: {error}", file=sys.stderr)
    for name, reason in failures.items():
        print(printable(f"{name} failed: {reason}"), file=sys.stderr)
    print(f"all else is kept; this tries again, last, what has failed:\n{command}", file=sys.stderr)
    return EXIT_FAILED


def _plan_lines(grid: object) -> list[str]:
    """What will be trained, in lines of at most 80 columns."""
    from gala.experiments.grid import Grid

    assert isinstance(grid, Grid)
    done, plan = grid.done(), grid.plan
    lines = [f"{'algorithm':<14}{'learners':>9}{'envs each':>10}{'env_steps':>12}{'seeds':>7}{'done':>6}"]
    for group in dict.fromkeys(cell.group for cell in grid.cells):
        mine = [cell for cell in grid.cells if cell.group == group]
        c = mine[0].config
        finished = sum(cell.name in done for cell in mine)
        lines.append(f"{group:<14}{c.learners:>9}{c.envs_per_learner:>10}{c.steps:>12,}{len(mine):>7}{finished:>6}")
    cores = {0: "less than 1 core", 1: "1 core"}.get(plan.cores_each, f"{plan.cores_each} cores")
    shares = f"{plan.at_once} at a time, {cores} each"
    count = f"{len(grid.cells)} training{'s' * (len(grid.cells) > 1)}"
    return [*lines, f"{count}, {shares}", f"out {plan.out}"]


def _compare_runs(words: Words, command: str, argv: Sequence[str]) -> int:
    """Judges existing runs, one at a time, and compares them."""
    from gala.commands.trusted import check_run
    from gala.experiments.jobs import run_all
    from gala.experiments.judging import JudgingJob
    from gala.experiments.rows import known_beforehand, make_row, write_rows
    from gala.processes.ending import Ended, ending_signals
    from gala.runs.distinct import check_distinct
    from gala.runs.lock import is_held, lock
    from gala.runs.run_dir import RunDir

    runs = [RunDir.open(path) for path in words.runs]
    for run in runs:
        check_run(run, words.options.trust, "compare", argv)
    check_distinct(runs)
    for run in runs:
        if is_held(run.path):
            raise ValueError(f"{run.path} is being trained; compare it when that has ended, or end it first")
    for run in runs:
        run.checkpoint_meta("latest")
    known = name_groups(list(map(known_beforehand, runs)))
    check_task(known)
    terms(words, known)
    out, options = _out(words, time.strftime("runs-%Y%m%d-%H%M%S")), words.options
    jobs = [
        JudgingJob(run.path, out / "judged" / f"{k}-{run.path.name}.json", options.episodes, options.mode)
        for k, run in enumerate(runs)
    ]
    there = read_rows(out / ROWS) if (out / ROWS).is_file() else []
    if any("judged" in row or "failed" in row for row in there):  # they say more than runs do: machine, parts, watts
        raise ValueError(f"{out} holds a grid of trainings, whose rows say more; choose another out=DIRECTORY")
    names = sorted(run.path.name for run in runs)
    holds_others = there and sorted(row["name"] for row in there) != names
    if holds_others or any(job.is_of_another_run for job in jobs):
        raise ValueError(f"{out} holds another comparison; choose another out=DIRECTORY")
    (out / "judged").mkdir(parents=True, exist_ok=True)
    with lock(out):
        try:
            with ending_signals():
                run_all([[job] for job in jobs], 1, lambda job, s: print(f"{job.name}: {s:.0f} s", flush=True))
        except Ended as end:
            print(f"stopped; this goes on where it was:\n{command}{'' if options.out else f' out={out}'}", flush=True)
            return 128 + end.number
        except RuntimeError as failure:
            print(failure, file=sys.stderr)
            return EXIT_FAILED
        if trained_on := [job.run for job in jobs if not job.finished]:
            raise ValueError(f"{trained_on[0]} was trained on while it was judged; compare it when that has ended")
        rows = name_groups([make_row(run, "", job.read(), None) for run, job in zip(runs, jobs, strict=True)])
        write_rows(out / ROWS, rows)
    return _report(words, rows, command, out)


def terms(words: Words, rows: Sequence[Row]) -> Terms:
    """What is fixed before the scores are looked at: by the command, or by the presets. Raises ValueError."""
    options = words.options
    groups = list(dict.fromkeys(row["group"] for row in rows))
    plain = {row["group"] for row in rows if BASELINE in (row["group"], row.get("settings", {}).get("algo"))}
    baseline = options.baseline or (plain.pop() if len(plain) == 1 else groups[0])
    if baseline not in groups:
        raise ValueError(f"baseline={baseline}: wants one of {', '.join(groups)}")
    solved = {float(row["solved_return"]) for row in rows if row.get("solved_return") not in (None, "")}
    if len(solved) > 1 and not options.threshold:
        told = ", ".join(f"{each:g}" for each in sorted(solved))
        raise ValueError(f"the trainings have several solved returns ({told}); say which counts, threshold=RETURN")
    threshold = float(options.threshold) if options.threshold else solved.pop() if len(solved) == 1 else None
    return Terms(baseline, options.judged_by, threshold, options.margin)


def _name_of(files: Sequence[Path]) -> str:
    """What tells files of rows from others: each one's folder, if its own name is the one that all of them have. Raises
    ValueError where that is too long for a folder."""
    name = "-and-".join(rows.resolve().parent.name if rows.name == ROWS else rows.stem for rows in files)
    if len(files) > 1 and len(name) > 100:
        raise ValueError(f"{len(files)} files of rows: say where the report goes by out=DIRECTORY")
    return name


def _report(
    words: Words, rows: Sequence[Row], command: str, out: Path | None = None, fixed: Terms | None = None
) -> int:
    from gala.processes.output import printable
    from gala.reports.comparison import plain, write_report

    if not rows:
        raise ValueError("there is no finished training to compare")
    fixed = fixed or terms(words, rows)
    check(rows, fixed)
    out = out or Path(words.options.out or f"runs/compare-from-{_name_of(words.rows)}")
    out.mkdir(parents=True, exist_ok=True)
    analysis = write_report(rows, fixed, out, command)
    print(printable(plain(analysis), kept="\n"))  # names and reasons come from anywhere
    print(f"report: {out / 'report.html'}")
    return 0
