"""The live view of a run: a panel of at most 80 columns on a terminal, one plain line per record in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gala.config.schema import Config

WIDTH = 80
REDRAW_HZ = 4
PLAIN_INTERVAL_S = 10.0
LEARNER_ROWS = 8
STAGES = ("simulate", "act", "learn", "gossip")
_RATE_SMOOTHING = 0.3


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
        if mode == "on" or (mode == "auto" and self.console.is_terminal):
            self.live = Live(console=self.console, auto_refresh=False, transient=False)
            self.live.start()

    def update(self, record: dict[str, Any]) -> None:
        """Show ``record``; in a log at most one line in ten seconds, on a terminal at most four redraws a second."""
        self._eta.update(record["global_step"])
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
        """A line that stays: above the live panel, or in the log."""
        if self.live is not None:
            self.console.print(Text(text))
        else:
            print(text, file=self.console.file, flush=True)

    def close(self) -> None:
        """Leave the last state on the screen and give the cursor back. May be called twice."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _line(self, r: dict[str, Any]) -> str:
        parts = [
            f"step {r['global_step']:,}/{self.total_steps:,} ({self._share(r):.0%})",
            f"return {_number(r.get('charts/episodic_return'))}",
            f"{_number(r.get('charts/SPS'))} steps/s",
            f"loss {_number(r.get('losses/policy_loss'))} {_number(r.get('losses/value_loss'))}",
            f"entropy {_number(r.get('losses/entropy'))}",
        ]
        if "gossip/message_age_mean" in r:
            parts.append(f"age {_number(r['gossip/message_age_mean'])}")
        if "gossip/consensus_distance" in r:
            parts.append(f"spread {_number(r['gossip/consensus_distance'])}")
        return " | ".join([*parts, f"ETA {clock(self._eta.seconds())}"])

    def _share(self, r: dict[str, Any]) -> float:
        return min(1.0, r["global_step"] / self.total_steps)

    def _panel(self, r: dict[str, Any]) -> RenderableType:
        width = min(WIDTH, self.console.width)
        rows: list[RenderableType] = [self._progress(r, width - 4), self._figures(r)]
        learners = sorted((int(key[7:]), value) for key, value in r.items() if key.startswith("learner"))
        if len(learners) > 1:
            rows.append(self._learners(learners))
        title = Text(f"gala · {self.config.env.id} · {self.config.algo} x{self.config.learners}")
        return Box(Group(*rows), title=title, width=width)

    def _progress(self, r: dict[str, Any], width: int) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        words = (f"{self._share(r):4.0%}", f"{short(r['global_step'])}/{short(self.total_steps)} steps")
        eta = f"ETA {clock(self._eta.seconds())}"
        bar = max(4, width - len(words[0]) - len(words[1]) - len(eta) - 3)
        grid.add_row(
            words[0], ProgressBar(self.total_steps, min(r["global_step"], self.total_steps), bar), words[1], eta
        )
        return grid

    def _figures(self, r: dict[str, Any]) -> RenderableType:
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(3):
            grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        shares = {name: r.get(f"perf/{name}_share") for name in STAGES}
        cells = [
            ("return (last 100)", r.get("charts/episodic_return"), "bold green"),
            ("episode length", r.get("charts/episodic_length"), ""),
            ("learning rate", r.get("charts/learning_rate"), ""),
            ("steps/s", r.get("charts/SPS"), "bold"),
            ("frames/s", r.get("charts/frames_per_s"), ""),
            ("updates", r.get("perf/updates"), ""),
            ("policy loss", r.get("losses/policy_loss"), ""),
            ("value loss", r.get("losses/value_loss"), ""),
            ("entropy", r.get("losses/entropy"), ""),
            ("expl. variance", r.get("losses/explained_variance"), ""),
            ("grad norm", r.get("losses/grad_norm"), ""),
            ("wall", clock(r.get("perf/wall_s")), ""),
            ("message age", r.get("gossip/message_age_mean"), ""),
            ("age max", r.get("gossip/message_age_max"), ""),
            ("consensus dist.", r.get("gossip/consensus_distance"), ""),
            ("weight", span(r.get("gossip/weight_min"), r.get("gossip/weight_max")), ""),
            ("gossip", per_second(r.get("gossip/bytes_per_s")), ""),
            ("sent", size(r.get("gossip/bytes_sent")), ""),
        ]
        if "gossip/epsilon_bound" in r:
            cells[14:14] = [("epsilon bound", r["gossip/epsilon_bound"], "")]
        shown = [Text.assemble((f"{name} ", "dim"), (_number(value), style)) for name, value, style in cells]
        for i in range(0, len(shown) if "gossip/message_age_mean" in r else 12, 3):
            grid.add_row(*shown[i : i + 3])
        split = "  ".join(f"{name} {share:.0%}" for name, share in shares.items() if share is not None)
        lines = {"time": split, "message ages": age_shares(r.get("message_ages", {}))}
        texts = [
            Text.assemble((f"{name}: ", "dim"), text, no_wrap=True, overflow="ellipsis")
            for name, text in lines.items()
            if text
        ]
        return Group(grid, *texts)

    def _learners(self, learners: list[tuple[int, dict[str, Any]]]) -> RenderableType:
        table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        for name in ("learner", "return", "steps/s", "age", "weight", "entropy"):
            table.add_column(name, justify="right", no_wrap=True)
        for rank, r in learners[:LEARNER_ROWS]:
            tags = (
                "charts/episodic_return",
                "charts/SPS",
                "gossip/message_age_mean",
                "gossip/weight",
                "losses/entropy",
            )
            table.add_row(str(rank), *(_number(r.get(tag)) for tag in tags))
        more = len(learners) - LEARNER_ROWS
        return Group(table, Text(f"... and {more} more", style="dim")) if more > 0 else table


class Eta:
    """Time to the end from a smoothed rate, so that start-up and one slow checkpoint do not set it."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._last: tuple[float, int] | None = None
        self._rate = 0.0

    def update(self, step: int) -> None:
        now = time.monotonic()
        if self._last is not None and now > self._last[0]:
            rate = (step - self._last[1]) / (now - self._last[0])
            self._rate = rate if self._rate == 0.0 else self._rate + _RATE_SMOOTHING * (rate - self._rate)
        self._last = (now, step)

    def seconds(self) -> float | None:
        """None while unknown."""
        if self._last is None or self._rate <= 0.0:
            return None
        return max(0, self.total_steps - self._last[1]) / self._rate


def clock(seconds: float | None) -> str:
    """3725 -> 1:02:05; what is a hundred days or more away is unknown."""
    if seconds is None or seconds >= 100 * 86_400:
        return "--:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def short(count: float) -> str:
    """1234567 -> 1.23M, for counts of 0 or more."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def size(count: float | None) -> str | None:
    """3.25e6 bytes -> 3.25 MB."""
    if count is None:
        return None
    text = short(count)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def per_second(count: float | None) -> str | None:
    return None if count is None else f"{size(count)}/s"


def span(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.2g} to {high:.2g}"


def age_shares(counts: Mapping[str, int]) -> str:
    """{"0": 1, "1": 3} -> 0 25%  1 75%; what is older than seven updates is one bin."""
    total = sum(counts.values())
    old = sum(n for label, n in counts.items() if int(label.split("-")[0]) > 7)
    young = {label: n for label, n in counts.items() if int(label.split("-")[0]) <= 7}
    bins = young | ({"8 or more": old} if old else {})
    return "  ".join(f"{label} {n / total:.0%}" for label, n in bins.items())


def _number(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    value = float(value)
    if abs(value) >= 1e6:
        return short(value) if value > 0 else f"-{short(-value)}"
    if abs(value) >= 1e3 or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"
