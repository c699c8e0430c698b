"""The run directory: configuration, versions, metrics, checkpoints, summary. Never overwritten silently.

    config.yaml command.txt versions.json metrics.jsonl summary.json
    events.out.tfevents.*  learner0/ .. learnerN/     TensorBoard: all learners together, and one by one
    checkpoints/latest -> .store/000007               every name is a link to one complete checkpoint

See ``gala.runs.checkpoints`` for the checkpoint format.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gala import __version__
from gala.config.parse import dump_config, load_config
from gala.config.schema import Config
from gala.files.plain_yaml import parse_json, read_json
from gala.files.whole import write_atomically
from gala.runs import thinning
from gala.runs.checkpoints import Checkpoints
from gala.runs.command_file import COMMAND, read_command
from gala.runs.lock import lock
from gala.runs.metrics_file import MetricsFile
from gala.runs.removal import check_removable, is_begun, is_empty, remove_run

if TYPE_CHECKING:
    from torch import Tensor

    from gala.runs.checkpoints import Tensors

PACKAGES: tuple[str, ...] = ("gala-rl", "torch", "numpy", "gymnasium", "ale-py", "mujoco", "minatar", "envpool", "ray")
PACKAGES += ("safetensors", "scikit-learn")
SCHEMA = 1
"""Which files a run directory has, and what they mean. It grows when an older gala could not read a newer run any more.
It is in versions.json, and 1 where that says nothing. Checkpoints have one of their own."""


class RunDir:
    """One training run on disk. Only the process that logs opens event files; any process may read or write a part."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._writers: dict[str, Any] = {}
        self._purge_step: int | None = None
        self._lock: IO[str] | None = None
        self._metrics = MetricsFile(path / "metrics.jsonl", config.log.max_records)
        self._without_events = 0  # records since the last that TensorBoard got

    @classmethod
    def create(cls, config: Config, argv: Sequence[str], overwrite: bool) -> RunDir:
        """Make ``config.run``. Raises ValueError if it holds anything and ``overwrite`` is False, or is no run."""
        path = Path(config.run)
        cls.check_new(path, overwrite)
        run = cls(path, replace(config, overwrite=False))  # who trains by its config.yaml does not mean to delete it
        try:
            path.mkdir(parents=True, exist_ok=True)
            run.claim()
            if cls.check_new(path, overwrite):  # again, since another may have trained here until it was claimed
                remove_run(path)
            write_atomically(path / COMMAND, f"{shlex.join(['gala', 'train', *argv])}\n".encode())
            write_atomically(
                path / "versions.json", _json({**versions(), "run": secrets.token_hex(8), "schema": SCHEMA})
            )
            write_atomically(
                path / "config.yaml", dump_config(run.config).encode()
            )  # last: its presence makes this a run
        except OSError as error:
            run.close()
            raise ValueError(f"cannot make the run directory {path}: {error.strerror}; give another run=") from None
        except ValueError:
            run.close()
            raise
        return run

    @staticmethod
    def check_new(path: Path, overwrite: bool) -> bool:
        """Whether there is something at ``path``. Raises ValueError if it is in the way: see ``create``."""
        exists = path.exists() and (not path.is_dir() or not is_empty(path))
        if exists and not overwrite and (path / "config.yaml").is_file():
            resume = f"gala resume {shlex.quote(str(path))}"
            raise ValueError(f"{path} already exists; continue it with `{resume}` or add overwrite=true")
        if exists:
            check_removable(path)
        return exists

    @classmethod
    def open(cls, path: str | Path) -> RunDir:
        """An existing run, without side effects. Raises ValueError if there is none, or if a newer gala has made it."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            again = f"; its training was cut off at the start, begin it again: {read_command(path)}" * is_begun(path)
            raise ValueError(f"{path} is not a run directory: it has no config.yaml{again}")
        if (schema := _recorded(path, "schema")) not in (None, *range(1, SCHEMA + 1)):
            made_by = _recorded(path, "gala-rl") or "a newer version"
            raise ValueError(
                f"{path} has schema {schema}, of gala {made_by}; this is gala {__version__}, which reads schemas up to "
                f"{SCHEMA}: use that version"
            )
        return cls(path, load_config(path / "config.yaml"))

    def claim(self) -> None:
        """Keep other processes from training here, until ``close``. Raises ValueError if one does, or if nothing can be
        written here."""
        if self._lock is None:
            self._lock = lock(self.path)

    def identity(self) -> str | None:
        """What tells this run from all others, also when it has been copied; None of one that is older than that."""
        identity = _recorded(self.path, "run")
        return identity if isinstance(identity, str) else None

    def replace_config(self, config: Config) -> None:
        """Record settings that a resumed run has changed."""
        self.config, self._metrics.most = config, config.log.max_records
        write_atomically(self.path / "config.yaml", dump_config(config).encode())

    def append_metrics(self, record: dict[str, Any]) -> str:
        """One line of metrics.jsonl, and TensorBoard scalars at x = ``global_step``; says in words what could not be
        written, or nothing. Such lines are kept and written with the next; TensorBoard's points are left out.

        Keys are tags; ``learner<i>`` holds a nested record of one learner, ``message_ages`` a histogram by labelled
        bins (0, 1, 2-3, 4-7, ...). A number that is not finite becomes null.
        """
        try:
            self._metrics.append(_finite(record))
            if self.config.log.tensorboard and self._is_due(record):
                self._write_events(record)
        except OSError as error:
            return f"{self.path} cannot be written to: {error.strerror}"
        return ""

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records so far; of a long run the older ones more sparsely, see ``log.max_records``."""
        return self._metrics.read()

    def rewind(self, global_step: int) -> None:
        """Drop what was logged after ``global_step``: a resumed run will live through those steps again. The summary
        goes too, since the run has not ended; and at -1, where it starts anew, the logs of its learners.

        TensorBoard is told to hide its own points past that step.
        """
        (self.path / "summary.json").unlink(missing_ok=True)
        if global_step < 0:
            shutil.rmtree(self.path / "gossip", ignore_errors=True)
        kept = [record for record in self.read_metrics() if record["global_step"] <= global_step]
        self._metrics.replace(kept)
        self._purge_step = global_step + 1

    def ask_for_learners(self, wanted: int) -> Path:
        """Leave a request for the training process; returns the file, which is gone once it was taken."""
        path = self.path / "wanted_learners"
        write_atomically(path, str(wanted).encode())
        return path

    def take_wanted_learners(self) -> int:
        """The number of learners that was asked for since the last call; 0 if none was, -1 if it was no number."""
        path = self.path / "wanted_learners"
        try:
            text = path.read_bytes()
            path.unlink()
        except OSError:  # there is none, or it was withdrawn meanwhile; a training does not end by it
            return 0
        return int(text) if text.isdigit() and len(text) < 10 else -1

    def write_part(self, staging: str, part: str, tensors: Tensors, meta: dict[str, Any]) -> None:
        """See ``Checkpoints.write_part``."""
        self.checkpoints.write_part(staging, part, tensors, meta)

    def commit_checkpoint(self, staging: str, names: Sequence[str], meta: dict[str, Any]) -> None:
        """See ``Checkpoints.commit``."""
        self.checkpoints.commit(staging, names, _finite(meta))

    def load_part(self, name: str, part: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """See ``Checkpoints.load_part``."""
        return self.checkpoints.load_part(name, part)

    def checkpoint_meta(self, name: str) -> dict[str, Any]:
        """See ``Checkpoints.meta``."""
        return self.checkpoints.meta(name)

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.path / "summary.json", _json(_finite(summary)))

    def read_summary(self) -> dict[str, Any]:
        """The closing figures. Raises ValueError if there are none yet."""
        path = self.path / "summary.json"
        if not path.is_file():
            raise ValueError(f"{self.path} has no summary: it is still training, or was killed")
        summary = read_json(path)
        if not isinstance(summary, dict):
            raise ValueError(f"{path} is not a run's summary")
        return summary

    def close(self) -> None:
        """Close the event files, and let others train here. May be called twice."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _is_due(self, record: dict[str, Any]) -> bool:
        """Whether TensorBoard, whose files cannot be thinned out, gets this record."""
        log = self.config.log
        self._without_events += 1
        if self._without_events < thinning.stride(record.get("perf/wall_s", 0.0), log.interval_s, log.max_records):
            return False
        self._without_events = 0
        return True

    def _write_events(self, record: dict[str, Any]) -> None:
        step = int(record["global_step"])
        for name, values in {"": record, **{k: v for k, v in record.items() if isinstance(v, dict)}}.items():
            if name == "message_ages":
                limits = [float(label.split("-")[-1]) for label in values]  # TensorBoard knows bins by their upper ends
                if limits:
                    self._writer("").histogram("gossip/message_age", limits, list(values.values()), step)
            else:
                tags = {tag: v for tag, v in values.items() if isinstance(v, int | float) and "/" in tag}
                self._writer(name).scalars(tags, step)

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            from gala.runs.events import LAYOUT, EventFile  # half a second of imports, in the logging process only

            self._writers[name] = EventFile(self.path / name, self._purge_step)
            if not name:
                self._writers[name].layout(LAYOUT)
        return self._writers[name]


def _recorded(path: Path, key: str) -> Any:
    """What versions.json of a run says; None if it says nothing."""
    try:
        return parse_json((path / "versions.json").read_bytes()).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def flat_numbers(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """``{"a": 1, "learner0": {"b": null}}`` -> ``{"a": 1, "learner0/b": NaN}``; what is not a number is left out."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{name}/")
        elif value is None or isinstance(value, int | float):
            flat[prefix + name] = float("nan") if value is None else value
    return flat


def curves_command(run: str, tensorboard: bool) -> str:
    """What to type to see the curves of the run directory ``run``, which has files for TensorBoard or none."""
    return f"tensorboard --logdir {shlex.quote(run)}" if tensorboard else f"gala plot {shlex.quote(run)} returns"


def versions() -> dict[str, str | None]:
    """Python, operating system, the packages that decide a result, and the git commit of a checkout."""
    known: dict[str, str | None] = {"python": platform.python_version(), "system": platform.system()}
    for package in PACKAGES:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            known[package] = None
    return known | {"git": _git_hash()}


def _git_hash() -> str | None:
    here = Path(__file__).parents[1]
    if not (here.parent / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", str(here)]  # a look must not write into the user's clone
    git += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2) + os.linesep).encode()
