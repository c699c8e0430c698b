"""A search for settings on disk, with Optuna: each trial is a training, and the journal goes on where it was cut off.

OUT/journal.log  OUT/runs/trial-N/
"""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gala.build.auto import fitted_config
from gala.config.extras import install
from gala.experiments.jobs import Job, TrainingJob, check_settings, run_all, why
from gala.experiments.ranges import Range, parse_range
from gala.experiments.rows import differing, settings_of
from gala.files.whole import cut_torn_line
from gala.runs.run_dir import RunDir

JOURNAL = "journal.log"
REPORTS = 20
"""Intermediate returns in a trial, evenly spaced in env_steps, at which it may be pruned."""
FEWEST_FAILED = 3
"""Trials that fail, and none that does not, after which a search ends: the next would most likely fail, too."""


class Search(NamedTuple):
    """What is searched: settings that are fixed, and ranges."""

    out: Path
    words: tuple[str, ...]
    ranges: Mapping[str, Range]
    seed: int = 0

    def fingerprint(self) -> str:
        """The words, as the journal keeps them."""
        return json.dumps([list(self.words), {key: str(chosen) for key, chosen in self.ranges.items()}])

    def settings(self) -> dict[str, Any]:
        """All that a trial is trained with and that is not searched: a preset may change between two starts."""
        first = [f"{key}={chosen.values[0]}" for key, chosen in self.ranges.items()]
        config = fitted_config([*self.words, *first])
        found = settings_of(config) | {"seed": config.seed}
        return {key: value for key, value in found.items() if key not in self.ranges}

    def other_than(self, known: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
        """How the search whose ``user_attrs`` these are differs from this one, whose ``settings`` are ``mine``, in
        words; empty if it does not, however it was written: 1e6 or 1M, and in whatever order. Nothing is known of a
        new one."""
        if "search" not in known:
            return ""
        words, ranges = json.loads(known["search"])
        try:
            theirs = {key: parse_range(key, text) for key, text in ranges.items()}
            for key in {*theirs, *self.ranges}:
                if theirs.get(key) != self.ranges.get(key):
                    return f" of {key} in {theirs.get(key, 'no range')}, not {self.ranges.get(key, 'any')}"
            found = known.get("settings") or self._replace(words=tuple(words)).settings()
        except ValueError:  # an older version had other settings
            return ", of settings that this version does not know"
        odds = differing(found, mine)
        return f" with {odds[0]}={found.get(odds[0])}, not {mine.get(odds[0])}" if odds else ""


def check_optuna() -> None:
    """Raises ValueError if the extra is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise ValueError(f"gala sweep needs Optuna: {install('sweep')}")


def open_study(out: Path, search: Search | None = None) -> Any:
    """The study in ``out``, to look at; with ``search`` to go on with, a new one if there is none. Who goes on with it
    holds the lock of ``out``.

    Raises:
        ValueError: there is none, or it searches something else, or its journal is damaged.
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
    check_journal(journal)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(f"{journal} is damaged ({told}); mend it, or choose another out=DIRECTORY") from None
    if search is None:
        try:
            return optuna.load_study(study_name="gala", storage=storage)
        except KeyError:
            raise ValueError(f"{out} holds no search: its {JOURNAL} is empty") from None
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=REPORTS // 4)
    study = optuna.create_study(
        study_name="gala", storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
    )
    settings = search.settings()
    if other := search.other_than(study.user_attrs, settings):
        raise ValueError(f"{out} holds another search{other}; choose another out=DIRECTORY")
    study.set_user_attr("search", search.fingerprint())
    study.set_user_attr("settings", settings)
    # A sampler of the same seed would draw the same trials again after a search was cut off.
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + len(study.trials))
    return study


def check_journal(path: Path) -> None:
    """Raises ValueError, in one line, if a line of the journal is none of Optuna's. A last one may be cut short."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            known = "op_code" in json.loads(line)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise ValueError(
                f"{path}, line {number}, is no line of a search's journal; mend it, or choose another out="
            )


class Trials:
    """The trials of a study as trainings."""

    def __init__(
        self, search: Search, study: Any, wanted: int, say: Callable[[str], None], *, prunes: bool = True
    ) -> None:
        self.search, self.study, self.wanted, self.say, self.prunes = search, study, wanted, say, prunes
        self._trials: dict[str, Any] = {}
        self._reported: dict[str, int] = {}
        self._pruned: set[str] = set()
        self._replaced = len(self._failed_trials())
        self.failures: dict[str, list[int]] = {}
        """Reason -> numbers of the trials that have failed since this was made."""

    def run(self, parallel: int, tick: Callable[[Sequence[Job]], None] = lambda running: None) -> None:
        """Until ``wanted`` trials have ended, those of earlier calls among them, but not those that failed then: each
        has another in its place. A training that fails is a trial that failed.

        Raises:
            RuntimeError: the first ones have all failed; it says why.
        """

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
        while len(self.study.trials) - self._replaced < self.wanted:
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

        reason = why(message)
        self._tell(job, TrialState.FAIL, None, f"failed: {reason}; see {job.log}")
        self.failures.setdefault(reason, []).append(self._trials[job.name].number)
        failed = self._failed_trials()
        if len(failed) - self._replaced >= FEWEST_FAILED and len(failed) == len(self._ended_trials()):
            raise RuntimeError(f"all {len(failed)} trials have failed; the search ends")

    def _failed_trials(self) -> list[Any]:
        from optuna.trial import TrialState

        return list(self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))

    def _ended_trials(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]

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
