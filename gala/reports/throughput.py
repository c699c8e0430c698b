"""The report of ``gala bench throughput``: a table for the terminal, three figures, one page."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from gala.files.whole import write_atomically
from gala.reports.figures import BLUE, GREY, HALF_PAGE, ORANGE, figure_with_axes, save
from gala.reports.page import items, picture, table
from gala.reports.page import page as one_page

Record = dict[str, Any]
FEWEST_ROUNDS = 6
"""As many as a ranking needs (``gala.bench.ratios``): of fewer an interval is the range."""
NOT_MEASURABLE = "not measurable here"
HEADER = ("variant", "steps/s", "against", "roof", "cpu", "GiB", "age", "J/Mframe")
STAGES = {"simulate": BLUE, "act": ORANGE, "learn": "#55a868", "gossip": "#c44e52", "other": GREY}
_CAPTIONS = {
    "rates": "env_steps/s with their interval, against the number of learners.",
    "shares": "What a learner's time goes into.",
    "power": "env_steps/s against the machine's power.",
}
_COLORS = (BLUE, GREY, "#8172b3", ORANGE, "#55a868", "#c44e52")
_HINTS = {
    "simulate": "simulators: the network waits while they step",
    "act": "forward passes: small batches, or threads that wait for each other",
    "learn": "backward passes, the loss and the optimiser: small batches, or threads that wait for each other",
    "gossip": "the exchange",
    "other": "Python between the stages, and logging",
}


def cells(record: Record) -> list[tuple[str, ...]]:
    """The table's lines, as text."""
    lines: list[tuple[str, ...]] = []
    for row in record["rows"]:
        low, high = row["ratio_interval"]
        ratio = "1" if row["name"] == row["base"] else f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"
        age, joules = row["message_age"], row["joules_per_million_frames"]
        lines.append(
            (
                row["name"],
                f"{row['env_steps_per_s']:,.0f}",
                ratio,
                f"{row['roofline_fraction']:.0%}",
                f"{row['cpu']:.0%}",
                f"{row['peak_memory_gib']:.2f}",
                "" if age is None else f"{age:.2f}",
                "-" if joules is None else f"{joules:,.0f}",
            )
        )
    return lines


def rich_table(record: Record) -> Table:
    """At most 80 columns wide."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = len(HEADER) if _has_energy(record) else len(HEADER) - 1
    for i, name in enumerate(header(record)[:shown]):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for line in cells(record):
        table.add_row(*line[:shown])
    return table


def header(record: Record) -> tuple[str, ...]:
    """The columns of the table."""
    return tuple(f"/ {record['rows'][0]['base']}" if name == "against" else name for name in HEADER)


def notes(record: Record) -> list[str]:
    """What the table says, in sentences."""
    roof, rows, plan = record["roofline"], record["rows"], record["plan"]
    parts = ", ".join(f"{part} {1e6 * s:,.0f}" for part, s in roof["core_s_per_env_step"].items())
    best = max(rows, key=lambda row: row["env_steps_per_s"])
    few = plan["rounds"] < FEWEST_ROUNDS
    disturbed = record.get("disturbance", {}).get("warnings", ())
    return [
        *([f"The machine was busy: {'; '.join(disturbed)}. Measure again on an idle one."] if disturbed else ()),
        f"{record['envs']} simulators in all, {record['cores']} cores; medians of {plan['rounds']} rounds of "
        f"{plan['block_s']:g} s each, in turns; ratios are paired by round, with their "
        + ("range." if few else "95% interval."),
        _order(rows) if not few else f"Nothing is ranked: a 95% interval needs {FEWEST_ROUNDS} rounds or more.",
        f"Roofline: {roof['env_steps_per_s']:,.0f} env_steps/s; core-microseconds per env_step: {parts}.",
        *(f"{row['name']}: {_loss(row)}." for row in [best]),
        f"Energy: {'counters of this machine' if _has_energy(record) else NOT_MEASURABLE}.",
    ]


def _order(rows: Sequence[Record]) -> str:
    groups = ranking(rows)
    told = " (=: of these, not all can be told apart)" if any(len(group) > 1 for group in groups) else ""
    return f"Fast to slow: {' > '.join(' = '.join(group) for group in groups)}{told}."


def _has_energy(record: Record) -> bool:
    return any(row["joules_per_million_frames"] is not None for row in record["rows"])


def _loss(row: Record) -> str:
    low, high = row["roofline_fraction_interval"]
    fraction = f"{row['roofline_fraction']:.0%} [{low:.0%}, {high:.0%}] of the roofline"
    if not row["losses"]:  # no learner has reported where its time goes within a block
        return f"{fraction}; where the rest goes a longer block_s would tell"
    stage = max(row["losses"], key=lambda s: row["losses"][s])
    return f"{fraction}; largest loss: {1e6 * row['losses'][stage]:,.0f} core-microseconds in {_HINTS[stage]}"


def figures(record: Record, folder: Path) -> list[Path]:
    """PNG files: rates, time shares, and rate against power where power was measured."""
    paths = [folder / "rates.png", folder / "shares.png"]
    _rates(record, paths[0])
    _shares(record, paths[1])
    if any(row["watts"] for row in record["rows"]):
        paths.append(folder / "power.png")
        _power(record, paths[-1])
    return paths


def _rates(record: Record, path: Path) -> None:
    figure, axes = figure_with_axes(HALF_PAGE)
    by_algo: dict[str, list[Record]] = {}
    for row in record["rows"]:
        by_algo.setdefault(row["name"].split()[0], []).append(row)
    for (algo, rows), color in zip(by_algo.items(), _COLORS, strict=False):
        x, y = [row["learners"] for row in rows], [row["env_steps_per_s"] for row in rows]
        low = [row["env_steps_per_s"] - row["env_steps_per_s_interval"][0] for row in rows]
        high = [row["env_steps_per_s_interval"][1] - row["env_steps_per_s"] for row in rows]
        axes.errorbar(x, y, [low, high], marker="o", ms=4, capsize=3, lw=1.2, color=color, label=algo)
    axes.axhline(record["roofline"]["env_steps_per_s"], color="black", ls="--", lw=1, label="roofline")
    ticks = sorted({row["learners"] for row in record["rows"]})
    axes.set(xscale="log", xlabel=f"learners ({record['envs']} simulators in all)", ylabel="env_steps/s")
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    save(figure, path)


def _shares(record: Record, path: Path) -> None:
    figure, axes = figure_with_axes(HALF_PAGE)
    names, left = [row["name"] for row in record["rows"]], [0.0] * len(record["rows"])
    for stage, color in STAGES.items():
        widths = [row["shares"].get(stage, 0.0) for row in record["rows"]]
        axes.barh(names, widths, left=left, color=color, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set(xlabel="share of a learner's wall time", xlim=(0, 1))
    axes.invert_yaxis()
    tight = {"columnspacing": 0.8, "handlelength": 1.0, "handletextpad": 0.4, "frameon": False}
    axes.legend(fontsize=8, ncols=len(STAGES), loc="lower right", bbox_to_anchor=(1.02, 0.98), **tight)
    save(figure, path)


def _power(record: Record, path: Path) -> None:
    figure, axes = figure_with_axes(HALF_PAGE)
    for row in record["rows"]:
        axes.plot(row["watts"], row["env_steps_per_s"], "o", color=BLUE)
        axes.annotate(
            row["name"], (row["watts"], row["env_steps_per_s"]), fontsize=8, xytext=(4, 4), textcoords="offset points"
        )
    axes.set(xlabel="watts", ylabel="env_steps/s")
    save(figure, path)


def page(record: Record, pictures: Sequence[Path], path: Path) -> None:
    """One HTML file with everything in it; opens without a network."""
    body = [
        *(f"<p>{html.escape(note)}</p>" for note in notes(record)),
        table([header(record), *cells(record)]),
        f'<div class="figures">{"".join(picture(file.read_bytes(), _CAPTIONS[file.stem]) for file in pictures)}</div>',
        "<h2>Where the rest of the machine goes</h2>",
        items([f"{row['name']}: {_loss(row)}" for row in record["rows"]]),
        "<h2>Measured with</h2>",
        table([["what", "value"], ["command", record["command"]], *record["machine"].items()], "facts"),
    ]
    write_atomically(path, one_page("Throughput", "\n".join(body), generator="gala bench").encode())


def plain(record: Record) -> str:
    """The notes, at most 80 columns wide."""
    return "\n".join(textwrap.fill(note, 80, subsequent_indent="  ") for note in notes(record))


def ranking(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Groups from fast to slow. Each row is slower than every row of all groups above its own, whatever noise there is;
    within a group no order is claimed, though some of it may be known."""
    groups: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda r: -r["env_steps_per_s"]):
        open_to = (any(row["against"][other["name"]] != "slower" for other in group) for group in groups)
        first = next((i for i, undecided in enumerate(open_to) if undecided), len(groups))
        groups[first:] = [[*chain.from_iterable(groups[first:]), row]]
    return [[row["name"] for row in group] for group in groups]
