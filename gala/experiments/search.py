"""A search for settings on disk, with Optuna: each trial is a training, and the journal goes on where it was cut off.

OUT/journal.log  OUT/runs/trial-N/
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gala.build.auto import fitted_config
from gala.config.extras import install
from gala.config.schema import Config, flatten
from gala.experiments.jobs import Job, TrainingJob, check_settings, run_all
from gala.files.whole import cut_torn_line
from gala.runs.run_dir import RunDir

JOURNAL = "journal.log"
REPORTS = 20
"""Intermediate returns in a trial, evenly spaced in env_steps, at which it may be pruned."""
_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_RANGE = re.compile(r"(log|uniform|choice)\((.*)\)")


@dataclass(frozen=True)
class Range:
    """What a setting is chosen from: numbers between two bounds, evenly or by their logarithm, or names."""

    kind: Literal["log", "uniform", "choice"]
    values: tuple[Any, ...]

    def suggest(self, trial: Any, key: str) -> str:
        """The text of the setting in ``trial``."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(key, list(self.values)))
        low, high = self.values
        if isinstance(low, int):
            return str(trial.suggest_int(key, low, high, log=self.kind == "log"))
        return repr(float(trial.suggest_float(key, low, high, log=self.kind == "log")))

    def __str__(self) -> str:
        return f"{self.kind}({','.join(map(str, self.values))})"


def parse_range(key: str, text: str) -> Range | None:
    """``log(1e-4,1e-2)``, ``uniform(1,8)`` or ``choice(adam,rmsprop)``; None for a plain value. A comma in
    brackets is of the value: ``choice((64,64),(256,256))``.

    Raises:
        ValueError: bounds that are none.
    """
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if not found:
        return None
    try:
        parts = tuple(filter(None, _split(found[2])))
    except ValueError:
        raise ValueError(f"{key}={text}: wants each bracket closed, as in choice((64,64),(256,256))") from None
    if found[1] == "choice":
        if len(set(parts)) < 2:
            raise ValueError(f"{key}={text}: wants two values or more, as in choice(adam,rmsprop)")
        return Range("choice", parts)
    default = flatten(Config()).get(key)
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError(f"{key}={text}: wants two numbers, as in {found[1]}(1e-4,1e-2)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or found[1] == "uniform")):
        raise ValueError(f"{key}={text}: wants a lower and a higher number{', above 0' if found[1] == 'log' else ''}")
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise ValueError(f"{key}={text}: {key} is no number; use choice(...)")
    kind: Literal["log", "uniform"] = "log" if found[1] == "log" else "uniform"
    if not isinstance(default, int):
        return Range(kind, (low, high))
    if not (low.is_integer() and high.is_integer()):
        raise ValueError(f"{key}={text}: {key} is a whole number, and so are its ends")
    return Range(kind, (int(low), int(high)))


def _split(text: str) -> list[str]:
    """``(64,64),32`` -> ``(64,64)`` and ``32``: at the commas outside brackets. Raises ValueError if these do not
    match."""
    parts, open_brackets = [""], ""
    for letter in text:
        if letter == "," and not open_brackets:
            parts.append("")
            continue
        parts[-1] += letter
        if letter in _CLOSED_BY:
            open_brackets += letter
        elif letter in _CLOSED_BY.values():
            if _CLOSED_BY.get(open_brackets[-1:]) != letter:
                raise ValueError(text)
            open_brackets = open_brackets[:-1]
    if open_brackets:
        raise ValueError(text)
    return parts


class Search(NamedTuple):
    """What is searched: settings that are fixed, and ranges."""

    out: Path
    words: tuple[str, ...]
    ranges: Mapping[str, Range]
    seed: int = 0

    def fingerprint(self) -> str:
        """What the journal keeps of it."""
        return json.dumps([list(self.words), {key: str(chosen) for key, chosen in self.ranges.items()}])

    def is_of(self, fingerprint: str) -> bool:
        """Whether that is of the same search, however it was written: 1e6 or 1M, and in whatever order."""
        if fingerprint == self.fingerprint():
            return True
        words, ranges = json.loads(fingerprint)
        try:
            same = {key: parse_range(key, text) for key, text in ranges.items()} == dict(self.ranges)
            return same and _settings(words) == _settings(self.words)
        except ValueError:  # an older version had other settings
            return False


def _settings(words: Sequence[str]) -> Config:
    """All of them, by whatever name of a preset."""
    return dataclasses.replace(fitted_config(words), preset="")


def check_optuna() -> None:
    """Raises ValueError if the extra is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise ValueError(f"gala sweep needs Optuna: {install('sweep')}")


def open_study(out: Path, search: Search | None = None) -> Any:
    """The study in ``out``, to look at; with ``search`` to go on with, a new one if there is none. Who goes on with it
    holds the lock of ``out``.

    Raises:
        ValueError: there is none, or it searches something else.
    """
    check_optuna()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if search is None and not (out / JOURNAL).is_file():
        raise ValueError(f"{out} holds no search: it has no {JOURNAL}")
    journal = (out / JOURNAL).resolve()  # Optuna's lock is a link to it: a relative one would lead nowhere
    if search is not None:
        Path(f"{journal}.lock").unlink(missing_ok=True)  # of one that was killed: nobody else writes here
        cut_torn_line(journal)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    if search is None:
        try:
            return optuna.load_study(study_name="gala", storage=storage)
        except KeyError:
            raise ValueError(f"{out} holds no search: its {JOURNAL} is empty") from None
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=REPORTS // 4)
    study = optuna.create_study(
        study_name="gala", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    if not search.is_of(study.user_attrs.get("search", search.fingerprint())):
        raise ValueError(f"{out} holds another search; choose another out=DIRECTORY")
    study.set_user_attr("search", search.fingerprint())
    # A sampler of the same seed would draw the same trials again after a search was cut off.
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + len(study.trials))
    return study


class Trials:
    """The trials of a study as trainings."""

    def __init__(
        self, search: Search, study: Any, wanted: int, say: Callable[[str], None], *, prunes: bool = True
    ) -> None:
        self.search, self.study, self.wanted, self.say, self.prunes = search, study, wanted, say, prunes
        self._trials: dict[str, Any] = {}
        self._reported: dict[str, int] = {}
        self._pruned: set[str] = set()

    def run(self, parallel: int, tick: Callable[[Sequence[Job]], None] = lambda running: None) -> None:
        """Until ``wanted`` trials have ended, those of earlier calls among them. A training that fails is a trial
        that failed."""

        def each_second(running: Sequence[Job]) -> list[Job]:
            tick(running)
            return [job for job in running if isinstance(job, TrainingJob) and self._is_hopeless(job)]

        run_all(
            *(self._jobs(), parallel, lambda job, seconds: self._end(job)),
            pinned=True,
            tick=each_second,
            failed=self._fail,
        )

    def _jobs(self) -> Iterator[list[TrainingJob]]:
        from optuna.trial import Trial, TrialState

        for cut_off in self.study.get_trials(states=(TrialState.RUNNING,)):
            if (job := self._job(Trial(self.study, cut_off._trial_id))).finished:
                self._end(job)  # it had ended, but nobody had told
            else:
                yield [job]
        while len(self.study.trials) < self.wanted:
            if (job := self._job(self.study.ask())).finished:
                self._end(job)  # its run was kept, and the journal not
            else:
                yield [job]

    def _job(self, trial: Any) -> TrainingJob:
        chosen = [f"{key}={chosen.suggest(trial, key)}" for key, chosen in self.search.ranges.items()]
        words = (*self.search.words, *chosen)
        trial.set_user_attr("command", shlex.join(["gala", "train", *words]))
        job = TrainingJob(self.search.out / "runs" / f"trial-{trial.number}", words)
        check_settings([job])  # a run of that number may be there whose journal is gone
        self._trials[job.name] = trial
        self._reported[job.name] = max(self.study.trials[trial.number].intermediate_values, default=0)
        return job

    def _is_hopeless(self, job: TrainingJob) -> bool:
        """Reports the return at every twentieth of the run, and asks the pruner then."""
        if job.name in self._pruned or not (job.run / "config.yaml").is_file():
            return False
        run, trial = RunDir.open(job.run), self._trials[job.name]
        for record in run.read_metrics():
            point = int(record["global_step"] * REPORTS / run.config.steps)
            told = record.get("charts/episodic_return")
            if told is None or point <= self._reported[job.name] or point >= REPORTS:
                continue
            self._reported[job.name] = point
            trial.report(told, point)
            if self.prunes and trial.should_prune():
                self._pruned.add(job.name)
                return True
        return False

    def _end(self, job: Job) -> None:
        from optuna.trial import TrialState

        assert isinstance(job, TrainingJob)
        records = RunDir.open(job.run).read_metrics()
        value = records[-1].get("charts/episodic_return") if records else None
        if job.name in self._pruned and not job.finished:
            self._tell(job, TrialState.PRUNED, None, f"pruned at {job.env_steps():,} env_steps")
        elif value is None:
            self._tell(job, TrialState.FAIL, None, "no episode ended")
        else:
            self._tell(job, TrialState.COMPLETE, value, f"return {value:.2f}")

    def _fail(self, job: Job, message: str) -> None:
        from optuna.trial import TrialState

        self._tell(job, TrialState.FAIL, None, f"failed, see {job.log}")

    def _tell(self, job: Job, state: Any, value: float | None, how: str) -> None:
        trial = self._trials[job.name]
        self.study.tell(trial, value, state=state)
        chosen = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        self.say(f"trial {trial.number}: {how}; {chosen}")


def best(study: Any, most: int = 5) -> list[Any]:
    """The trials that ended, from the best on."""
    from optuna.trial import TrialState

    return sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.value)[:most]


def command_of(study: Any, number: int) -> str:
    """The ``gala train`` that repeats a trial. Raises ValueError if there is no such trial."""
    for trial in study.trials:
        if trial.number == number and "command" in trial.user_attrs:
            return str(trial.user_attrs["command"])
    raise ValueError(f"replay={number}: there are trials 0 to {len(study.trials) - 1}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
