"""``track=wandb|trackio``: every record also goes to an experiment tracker.

A tracker is slow, may want a network, and may fail; a training is not to notice. So a thread of the parent's hands it
the records, which wait in a queue; learners, records on disk and checkpoints never wait for it. Whatever it raises, the
training goes on without it, after one warning.
"""

from __future__ import annotations

import importlib.util
import math
import os
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from gala.config.extras import install
from gala.config.schema import PLACE, Config, flatten
from gala.runs.run_dir import RunDir, flat_numbers

PROJECT = "gala"
PATIENCE_S = 60.0
"""How long the end of a run waits for a tracker that has not taken all records yet."""


class Tracker(Protocol):
    """What is needed of an experiment tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Values of one record, at ``step`` env_steps."""

    def finish(self) -> None:
        """No more will come."""


class Wandb:
    """Weights & Biases; with WANDB_MODE=offline everything stays in RUN/wandb, for ``wandb sync``."""

    def __init__(self, run_dir: RunDir) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        mode = os.environ.get("WANDB_MODE", "online")
        # It would ask for a key, on the terminal that shows the panel.
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("nobody is logged in; `wandb login` does that, and WANDB_MODE=offline needs nobody")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.path.name,
            id=run_dir.identity(),
            resume="allow",
            dir=run_dir.path,
            config=settings_of(run_dir.config),
            settings=settings,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """Hugging Face's trackio, which keeps its records on this machine, in TRACKIO_DIR.

    To trackio a run is its name: that of the directory, and what tells the run from others of that name, so that a
    resumed one goes on and a new one does not.
    """

    def __init__(self, run_dir: RunDir) -> None:
        import trackio
        import trackio.utils

        self._trackio = trackio
        self._talkers, thread = (trackio, trackio.run, trackio.utils), threading.get_ident()

        def say(*words: Any, **kwargs: Any) -> None:  # what it prints in this thread would stand amid the panel
            if threading.get_ident() != thread:
                print(*words, **kwargs)

        for module in self._talkers:
            vars(module)["print"] = say
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name="-".join([run_dir.path.name, *filter(None, [(run_dir.identity() or "")[:8]])]),
            config=settings_of(run_dir.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self) -> None:
        self._trackio.finish()
        for module in self._talkers:
            vars(module).pop("print", None)


class _Kind(NamedTuple):
    open: Callable[[RunDir], Tracker]
    install: str


TRACKERS: dict[str, _Kind] = {
    "wandb": _Kind(Wandb, install("track")),
    "trackio": _Kind(Trackio, "pip install 'trackio>=0.43'"),
}


def settings_of(config: Config) -> dict[str, Any]:
    """Dotted name -> value, as JSON has it; where the run is written stays here."""
    told = {name: list(v) if isinstance(v, tuple) else v for name, v in flatten(config).items()}
    return {name: value for name, value in told.items() if name not in PLACE}


def check_tracker(name: str) -> None:
    """Raises ValueError, before anything starts, if the tracker of that name is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ValueError(f"track={name} needs the package {name}: {TRACKERS[name].install}")


class Tracking:
    """The way of a run's records to its tracker.

    Args:
        name: one of ``TRACKERS``, or "none", of which nothing comes.
        run_dir: the run.
        warn: told, once, that the tracker has failed. Called from ``record`` and ``close``, in the caller's thread.
    """

    def __init__(self, name: str, run_dir: RunDir, warn: Callable[[str], None]) -> None:
        self._name, self._run_dir, self._warn = name, run_dir, warn
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._trouble, self._has_warned = "", False
        self._thread: threading.Thread | None = None
        if name != "none":
            self._thread = threading.Thread(target=self._work, name=f"gala {name}", daemon=True)
            self._thread.start()

    def record(self, record: dict[str, Any]) -> None:
        """One record, as in metrics.jsonl; never waits. It must not be changed afterwards."""
        self._tell()
        if self._thread is not None and not self._trouble:
            self._queue.put(record)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """No more records come; waits for the tracker, but no longer than ``patience_s``. May be called twice."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(patience_s)
        if self._thread.is_alive() and not self._trouble:
            self._trouble = f"it has not taken all records {patience_s:.0f} s after the end"
        self._thread = None
        self._tell()

    def _tell(self) -> None:
        if self._trouble and not self._has_warned:
            self._has_warned = True
            self._warn(f"warning: track={self._name}: {self._trouble}; nothing more is sent, metrics.jsonl has all")

    def _work(self) -> None:
        try:
            tracker = TRACKERS[self._name].open(self._run_dir)
            while (record := self._queue.get()) is not None:
                values = {tag: x for tag, x in flat_numbers(record).items() if "/" in tag and not math.isnan(x)}
                tracker.log(values, int(record["global_step"]))
            tracker.finish()
        except BaseException as error:  # a tracker may do what it likes, sys.exit included
            text = " ".join(str(error).split())[:200]
            self._trouble = f"{type(error).__name__}: {text}" if text else type(error).__name__
