"""The live view of a run: a panel of at most 80 columns on a terminal, one plain line per record in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gala.config.schema import Config
from gala.processes.output import printable
from gala.runs.health import Finding, health
from gala.runs.units import age_shares, clock, number, per_second, short, size, span, whole_percents

WIDTH = 80
REDRAW_HZ = 4
PLAIN_INTERVAL_S = 10.0
LEARNER_ROWS = 8
LEARNER_FIGURES = {
    "return": (8, "charts/episodic_return"),
    "steps/s": (8, "charts/SPS"),
    "age": (8, "gossip/message_age_mean"),
    "weight": (6, "gossip/weight"),
    "entropy": (8, "losses/entropy"),
}
"""Letters that a figure of a learner takes, and its tag."""
_RANK, _GAP = 7, 2
STAGES = ("simulate", "act", "learn", "gossip", "other")
_BAD = "bold yellow"
_RATE_SMOOTHING = 0.3
_EXACT_BELOW_S = 600.0
"""Shorter runs are told in tenths of a second, so that steps over seconds can be checked against the rate."""


class Panel:
    """Shows the aggregate metric records of one run (flat tags, and ``learner<i>`` with those of one learner).

    Args:
        config: the run's.
        total_steps: env_steps at which the run ends.
        mode: auto takes the live panel if standard output is a terminal.
        console: where to draw; standard output by default.
    """

    def __init__(
        self,
        config: Config,
        total_steps: int,
        mode: Literal["auto", "on", "off"],
        console: Console | None = None,
    ) -> None:
        self.config, self.total_steps = config, total_steps
        self.console = console or Console(highlight=False, file=sys.stdout)
        self.live: Live | None = None
        self._eta = Eta(total_steps)
        self._next_line = 0.0
        self._last: dict[str, Any] | None = None
        if mode == "on" or (mode == "auto" and self.console.is_terminal):
            self.live = Live(console=self.console, auto_refresh=False, transient=False)
            self.live.start()

    def update(self, record: dict[str, Any]) -> None:
        """Show ``record``; in a log at most one line in ten seconds, on a terminal at most four redraws a second."""
        self._last = record
        self._eta.update(record["global_step"], record.get("perf/wall_s"))
        now = time.monotonic()
        over = record["global_step"] >= self.total_steps
        if now < self._next_line and not over:
            return
        if self.live is not None:
            self._next_line = now + 1.0 / REDRAW_HZ
            self.live.update(self._panel(record), refresh=True)
        else:
            self._next_line = now + PLAIN_INTERVAL_S
            print(self._line(record), file=self.console.file, flush=True)

    def message(self, text: str) -> None:
        """Lines that stay: above the live panel, or in the log."""
        text = printable(text, kept="\n\t")
        if self.live is not None:
            self.console.print(Text(text))
        else:
            print(text, file=self.console.file, flush=True)

    def close(self, summary: Mapping[str, Any] | None = None) -> None:
        """Leave the last state on the screen and give the cursor back: with the ``summary`` of a run that has ended,
        its figures over the whole run instead of the last interval's. May be called twice."""
        if self.live is not None:
            if summary is not None and self._last is not None:
                self.live.update(self._panel(closing_record(self._last, summary), str(summary["status"])), refresh=True)
            self.live.stop()
            self.live = None

    def _line(self, r: dict[str, Any]) -> str:
        parts = [
            f"step {r['global_step']:,}/{self.total_steps:,} ({self._share(r):.0%})",
            f"return {number(r.get('charts/episodic_return'))}",
            f"{number(r.get('charts/SPS'))} steps/s",
            f"loss {number(r.get('losses/policy_loss'))} {number(r.get('losses/value_loss'))}",
            f"entropy {number(r.get('losses/entropy'))}",
        ]
        if "gossip/message_age_mean" in r:
            parts.append(f"age {number(r['gossip/message_age_mean'])}")
        if "gossip/consensus_distance" in r:
            parts.append(f"spread {number(r['gossip/consensus_distance'])}")
        parts.append(f"ETA {clock(self._eta.seconds())}")
        return " | ".join([*parts, *(f"! {finding.line()}" for finding in health(r) if not finding.healthy)])

    def _share(self, r: dict[str, Any]) -> float:
        return min(1.0, r["global_step"] / self.total_steps)

    def _panel(self, r: dict[str, Any], ended: str = "") -> RenderableType:
        width = min(WIDTH, self.console.width)
        findings = health(r)
        rows: list[RenderableType] = [
            self._progress(r, width - 4, ended),
            self._figures(r, width - 4, {finding.name for finding in findings if not finding.healthy}),
            *health_lines(findings),
        ]
        learners = sorted((int(key[7:]), value) for key, value in r.items() if key.startswith("learner"))
        if len(learners) > 1:
            rows.append(_learners(learners, width - 4))
        title = Text(f"gala · {self.config.env.id} · {self.config.algo} x{self.config.learners}")
        return Box(Group(*rows), title=title, width=width)

    def _progress(self, r: dict[str, Any], width: int, ended: str) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        done = f"{r['global_step']:,}" if ended else f"{short(r['global_step'])}/{short(self.total_steps)}"
        words = (f"{self._share(r):4.0%}", f"{done} steps")
        eta = ended or f"ETA {clock(self._eta.seconds())}"
        bar = max(4, width - len(words[0]) - len(words[1]) - len(eta) - 3)
        grid.add_row(
            words[0], ProgressBar(self.total_steps, min(r["global_step"], self.total_steps), bar), words[1], eta
        )
        return grid

    def _figures(self, r: dict[str, Any], width: int, sick: set[str]) -> RenderableType:
        weight = span(r.get("gossip/weight_min"), r.get("gossip/weight_max"))
        cells = [
            ("return (last 100)", r.get("charts/episodic_return"), "bold green"),
            ("episode length", r.get("charts/episodic_length"), ""),
            ("learning rate", r.get("charts/learning_rate"), ""),
            ("steps/s", r.get("charts/SPS"), "bold"),
            ("frames/s", r.get("charts/frames_per_s"), ""),
            ("updates", r.get("perf/updates"), ""),
            ("policy loss", r.get("losses/policy_loss"), ""),
            ("value loss", r.get("losses/value_loss"), ""),
            ("entropy", r.get("losses/entropy"), _BAD * ("entropy" in sick)),
            ("expl. variance", r.get("losses/explained_variance"), _BAD * ("explained variance" in sick)),
            ("grad norm", r.get("losses/grad_norm"), ""),
            ("wall", r.get("wall") or clock(r.get("perf/wall_s")), ""),
            ("message age", r.get("gossip/message_age_mean"), _BAD * ("age" in sick)),
            ("age max", r.get("gossip/message_age_max"), ""),
            ("consensus dist.", r.get("gossip/consensus_distance"), _BAD * ("spread" in sick)),
            ("weight", weight, _BAD * bool({"least weight", "most weight"} & sick)),
            ("gossip", per_second(r.get("gossip/bytes_per_s")), ""),
            ("sent", size(r.get("gossip/bytes_sent")), ""),
        ]
        if "gossip/epsilon_bound" in r:
            cells[14:14] = [("epsilon bound", r["gossip/epsilon_bound"], "")]
        grid = in_columns(cells if "gossip/message_age_mean" in r else cells[:12], width)
        split = "  ".join(f"{name} {share}%" for name, share in time_shares(r).items())
        lines = {"time": split, "message ages": age_shares(r.get("message_ages", {}))}
        texts = [Text.assemble((f"{name}: ", "dim"), text) for name, text in lines.items() if text]
        return Group(grid, *texts)


class Eta:
    """Time to the end from a smoothed rate, so that start-up and one slow checkpoint do not set it."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._last: tuple[float, int] | None = None
        self._rate = 0.0

    def update(self, step: int, now: float | None = None) -> None:
        """``now``: seconds of the run at which it stood at ``step``; those of this machine's clock by default."""
        now = time.monotonic() if now is None else now
        if self._last is not None and now > self._last[0]:
            rate = (step - self._last[1]) / (now - self._last[0])
            self._rate = rate if self._rate == 0.0 else self._rate + _RATE_SMOOTHING * (rate - self._rate)
        self._last = (now, step)

    def seconds(self) -> float | None:
        """None while unknown."""
        if self._last is None or self._rate <= 0.0:
            return None
        return max(0, self.total_steps - self._last[1]) / self._rate


def in_columns(cells: Sequence[tuple[str, Any, str]], width: int) -> Table:
    """(name, value, style) side by side, in as many columns as have room for 24 letters each. No value is cut off."""
    columns = min(3, max(1, (width + 2) // 26))
    room = (width + 2) // columns - 2
    grid = Table.grid(padding=(0, 2))
    for _ in range(columns):
        grid.add_column(width=room, no_wrap=True)
    shown = [_cell(name, number(value), style, room) for name, value, style in cells]
    for i in range(0, len(shown), columns):
        grid.add_row(*shown[i : i + columns])
    return grid


def _cell(name: str, value: str, style: str, room: int) -> Text:
    """A long name gives way to its value."""
    told = Text(name, "dim")
    told.truncate(max(1, room - 1 - len(value)), overflow="ellipsis")
    return Text.assemble(told, " ", (value, style))


def _learners(learners: list[tuple[int, dict[str, Any]]], width: int) -> RenderableType:
    """A line for each, of as many figures as ``width`` has room for."""
    room = list(accumulate(_GAP + letters for letters, _ in LEARNER_FIGURES.values()))
    shown = dict(list(LEARNER_FIGURES.items())[: sum(_RANK + letters <= width for letters in room)])
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for name in ("learner", *shown):
        table.add_column(name, justify="right", no_wrap=True)
    for rank, r in learners[:LEARNER_ROWS]:
        table.add_row(str(rank), *(number(r.get(tag)) for _, tag in shown.values()))
    more = len(learners) - LEARNER_ROWS
    return Group(table, Text(f"... and {more} more", style="dim")) if more > 0 else table


def time_shares(record: Mapping[str, Any]) -> dict[str, int]:
    """Per cents of the learners' time by stage, which add up to 100; what no stage measures is ``other``. Empty where a
    record has none."""
    shares = {name: record[tag] for name in STAGES if record.get(tag := f"perf/{name}_share") is not None}
    if not shares:
        return {}
    shares.setdefault("other", max(0.0, 1.0 - sum(shares.values())))
    return whole_percents(shares)


def closing_record(last: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The last record with the whole run's counts, rates and shares of time in place of those of the last interval, so
    that steps over seconds are the rate. A summary of an older version has no shares: the record's own stay."""
    wall_s = summary["wall_s"]
    per_s = 1.0 / max(wall_s, 1e-9)
    closing = {
        "global_step": summary["env_steps"],
        "charts/episodic_return": summary["return_mean"],
        "charts/SPS": summary["env_steps"] * per_s,
        "charts/frames_per_s": summary["frames"] * per_s,
        "perf/updates": summary["updates"],
        "perf/wall_s": wall_s,
        **({"wall": f"{wall_s:.1f} s"} if wall_s < _EXACT_BELOW_S else {}),
    }
    shares = {f"perf/{name}_share": share for name, share in summary.get("time_shares", {}).items()}
    learners = {}
    for each in summary["learners"]:
        if (name := f"learner{each.get('rank')}") in last:
            own = {"charts/SPS": each["env_steps"] * per_s, "charts/episodic_return": each["return_mean"]}
            learners[name] = {**last[name], **own}
    return {**last, **closing, **shares, **learners}


def health_lines(findings: Sequence[Finding]) -> list[Text]:
    """What is fine in one line, and a line for each quantity that is not, with the reason."""
    well = [finding.name for finding in findings if finding.healthy]
    lines = [Text.assemble(("fine: ", "dim"), (", ".join(well), "green"))] if well else []
    return lines + [Text(f"! {finding.line()}", style=_BAD) for finding in findings if not finding.healthy]
