"""The live view of ``gala video train``: a panel of at most 80 columns on a terminal, one line per record in a log."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gala.config.video import VideoConfig
from gala.runs.units import clock, short
from gala.training.panel import WIDTH, Eta, in_columns

_LEVELS = " ▁▂▃▄▅▆▇█"
_MOST_FRAMES = 48


class VideoPanel:
    """Shows the records of one training.

    Args:
        config: the run's.
        console: where to draw; standard output by default. A terminal gets the panel.
    """

    def __init__(self, config: VideoConfig, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console(highlight=False, file=sys.stdout)
        self._eta = Eta(config.iterations)
        self.live: Live | None = None
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=False)
            self.live.start()

    def update(self, row: dict[str, Any]) -> None:
        """Show a record of ``gala.supervised.video.train``."""
        self._eta.update(row["iteration"], row["wall_s"])
        if self.live is not None:
            self.live.update(self._panel(row), refresh=True)
            return
        kl = " ".join(f"{x:.3f}" for x in row["kl"])
        self._print(f"{row['iteration']:>7}  {row['nats']:.3f} nats per held-out frame, of these KL {kl}")

    def message(self, text: str) -> None:
        """A line that stays: above the live panel, or in the log."""
        if self.live is not None:
            self.console.print(Text(text))
        else:
            self._print(text)

    def close(self) -> None:
        """Leave the last state on the screen and give the cursor back. May be called twice."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _print(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)

    def _panel(self, row: dict[str, Any]) -> RenderableType:
        width = min(WIDTH, self.console.width)
        config = self.config
        learners = f" x{config.learners}" if config.learners > 1 else ""
        title = Text(f"gala video · {config.data[-30:]} · {config.levels} level{'s' * (config.levels > 1)}{learners}")
        rows = [self._progress(row, width - 4), self._figures(row, width - 4), self._kl(row, width - 4)]
        return Box(Group(*rows), title=title, width=width)

    def _progress(self, row: dict[str, Any], width: int) -> RenderableType:
        done, total = row["iteration"], self.config.iterations
        words = (
            f"{done / total:4.0%}",
            f"{short(done)}/{short(total)} iterations",
            f"ETA {clock(self._eta.seconds())}",
        )
        grid = Table.grid(padding=(0, 1))
        bar = max(4, width - sum(map(len, words)) - 3)
        grid.add_row(words[0], ProgressBar(total, done, bar), *words[1:])
        return grid

    def _figures(self, row: dict[str, Any], width: int) -> RenderableType:
        cells = [
            ("held-out nats", row["nats"], "bold green"),
            ("entropy of the law", row.get("nats_if_known"), ""),
            ("bits/dim", row["bits_per_dim"], ""),
            ("training loss", row["train_loss"], ""),
            ("weight of the KL", row["beta"], ""),
            ("wall", clock(row["wall_s"]), ""),
        ]
        return in_columns(cells, width)

    def _kl(self, row: dict[str, Any], width: int) -> RenderableType:
        """A line for each level: its KL, its active units, and the KL of each predicted frame as a bar."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        active, by_frame = ("active units", "KL by predicted frame") if width > 50 else ("active", "KL by frame")
        for name in ("level", "KL nats", active):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column(by_frame, no_wrap=True, max_width=max(8, min(_MOST_FRAMES, width - 30)))
        top = max((x for level in row["kl_by_level"] for x in level), default=0.0)
        for level, (kl, units, frames) in enumerate(
            zip(row["kl"], row["active_units"], row["kl_by_level"], strict=True)
        ):
            table.add_row(str(level + 1), f"{kl:.3f}", str(units), bars(frames, top))
        return table


def bars(values: list[float], top: float) -> str:
    """Each value as a block of up to 8 eighths of ``top``."""
    return "".join(_LEVELS[round(8 * min(1.0, max(0.0, v / top)))] if top > 0 else " " for v in values)
