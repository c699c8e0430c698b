"""Protocols D1 and D2, and the comparison of algorithms: train on several fresh sets of N MDPs, and judge each run."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gala_envs.contexts import ContextSet, Family, Scalar
from gala_envs.splits import split

from gala.build.auto import fitted_config
from gala.config.schema import Config
from gala.config.validate import validate
from gala.evaluation.load import checkpoint_hash
from gala.experiments.jobs import TrainingJob, check_settings, train_all
from gala.files.whole import write_atomically
from gala.overfit.header import header
from gala.overfit.judging import baselines, curves, env_options, judge, load_agent
from gala.overfit.leakage import check_training
from gala.overfit.options import SweepOptions
from gala.overfit.study import FEWEST_TEST, Study
from gala.processes.resources import available_cores
from gala.runs.run_dir import RunDir

Say = Callable[[str], None]
COMPARED_LEARNERS = 4
"""Learners of each algorithm but a2c in a comparison, unless another number is given."""


def slug(condition: str) -> str:
    """A condition as the beginning of a file's name."""
    return f"{condition.replace('=', '')}-" if condition else ""


@dataclass(frozen=True)
class Condition:
    """One curve of gap against N: what distinguishes it, in the words of a row, in training and in the train set."""

    name: str = ""
    words: tuple[str, ...] = ()
    train_params: tuple[tuple[str, Scalar], ...] = ()


class Cell(NamedTuple):
    """One training run of a sweep."""

    condition: Condition
    n: int
    run: int

    @property
    def name(self) -> str:
        return f"{slug(self.condition.name)}n{self.n}-run{self.run}"


def conditions(options: SweepOptions) -> list[Condition]:
    """What the options compare. Raises ValueError for an unknown algorithm, or for flips and algorithms at once."""
    if options.flip and options.algos:
        raise ValueError("give flip or algos, not both: each curve of a sweep differs in one thing")
    if options.flip:
        return [Condition(f"flip={p:g}", (), (("flip", p),) if p else ()) for p in options.flip]
    if unknown := set(options.algos) - {"a2c", "gala", "independent", "allreduce"}:
        raise ValueError(f"unknown algorithm {min(unknown)}; algos takes a2c, gala, independent and allreduce")
    chosen = []
    for algo in options.algos:
        learners = 1 if algo == "a2c" else options.learners or COMPARED_LEARNERS
        chosen.append(Condition(f"algo={algo}", (f"algo={algo}", f"learners={learners}")))
    return chosen or [Condition()]


def check(options: SweepOptions, family: Family) -> None:
    """Raises ValueError for what cannot give a verdict."""
    if options.runs < 3:
        raise ValueError(f"runs={options.runs}: an interval over training runs needs at least 3")
    if not options.n or min(options.n) < 1:
        raise ValueError("n wants numbers of training MDPs, at least 1 each")
    if options.learners < 0:
        raise ValueError(f"learners={options.learners} must be at least 1")
    if options.test < FEWEST_TEST:
        raise ValueError(
            f"test={options.test} must be at least {FEWEST_TEST}: of one MDP it is not known how others differ"
        )
    if options.flip and "flip" not in family.parameters:
        raise ValueError(f"{family.name} has no parameter flip; its rewards cannot be randomised")
    if any(not 0 <= p <= 1 for p in options.flip):
        raise ValueError("flip wants probabilities between 0 and 1")


Drawn = dict[str, tuple[ContextSet, list[ContextSet]]]
"""Name of a condition -> its test set, and one pool of training MDPs for each run."""


def draw_all(family: Family, options: SweepOptions, settings: Mapping[str, Scalar]) -> Drawn:
    """The sets of all conditions. Raises ValueError if the family has too few MDPs."""
    return {c.name: draw(family, options, c, settings) for c in conditions(options)}


def draw(
    family: Family, options: SweepOptions, condition: Condition, settings: Mapping[str, Scalar]
) -> tuple[ContextSet, list[ContextSet]]:
    """(test set, one pool of training MDPs per run): disjoint, the same for all conditions but for their parameters.

    The test set never has randomised rewards. A smaller training set of a run is the beginning of its pool.
    """
    wanted = {**settings, **dict(condition.train_params)}
    sizes = {"test": options.test, "train": options.runs * max(options.n)}
    try:
        sets = split(family, sizes, region=options.region, seed=options.sampler_seed, **wanted)  # type: ignore[arg-type]
    except ValueError as error:
        counted = f"test={options.test} and runs={options.runs} of n={max(options.n)}, none of which share a context"
        raise ValueError(f"{error} (drawing {counted})") from None
    plain = {name: settings.get(name, family.parameters[name].default) for name, _ in condition.train_params}
    test, pool, size = sets["test"].with_params(**plain), sets["train"], max(options.n)
    return test, [
        dataclasses.replace(pool, contexts=pool.contexts[r * size : (r + 1) * size]) for r in range(options.runs)
    ]


def training_words(options: SweepOptions, words: Sequence[str]) -> list[str]:
    """The settings that all trainings have in common, ``learners`` among them: a word of the sweep's own too."""
    return [*words, f"learners={options.learners}"] if options.learners and not options.algos else list(words)


def config_of(family: Family, words: Sequence[str]) -> Config:
    """The settings that all trainings of a sweep have in common, checked. Raises ValueError in one line."""
    config = fitted_config((*words, f"env.id={family.name}"))
    validate(config)
    return config


def _keep(contexts: ContextSet, path: Path) -> None:
    """Writes a set once. Raises ValueError if another set is there: runs on it do not belong to this study."""
    if not path.is_file():
        contexts.write(path)
    elif ContextSet.read(path).sha256 != contexts.sha256:
        raise ValueError(f"{path} holds another set than this command draws now; choose another out=DIRECTORY")


class Sweep:
    """A sweep that can be cut off at any time and goes on where it was."""

    def __init__(self, study: Study, family: Family, options: SweepOptions, drawn: Drawn, words: Sequence[str]) -> None:
        self.study, self.family, self.options, self.words = study, family, options, tuple(words)
        self.judging, self.conditions, self.drawn = options.judge, conditions(options), drawn
        self.limit = config_of(family, words).env.max_episode_steps

    def cells(self) -> list[Cell]:
        """Run by run, so that a budget leaves whole runs."""
        o = self.options
        return [Cell(c, n, run) for run in range(o.runs) for c in self.conditions for n in sorted(set(o.n))]

    def train_set(self, cell: Cell) -> ContextSet:
        return self.drawn[cell.condition.name][1][cell.run].take(cell.n)

    def job(self, cell: Cell) -> TrainingJob:
        """Writes the training set of a cell."""
        path = self.study.path / "sets" / f"{cell.name}.json"
        _keep(self.train_set(cell), path)
        words = (*self.words, *cell.condition.words, f"env.id={self.family.name}", f"env.contexts={path}")
        return TrainingJob(self.study.path / "runs" / cell.name, (*words, f"seed={cell.run + 1}"))

    def run(self, say: Say) -> None:
        """Trains and judges all cells, within the budget if there is one."""
        for name, (test, _) in self.drawn.items():
            _keep(test, self.study.path / "sets" / f"{slug(name)}test.json")
        cells, cores = self.cells(), self.options.jobs or available_cores()
        begun = [cell for cell in cells if (self.study.path / "runs" / cell.name / "config.yaml").is_file()]
        check_settings([self.job(cell) for cell in begun])
        seconds = budget_s(self.judging.budget)
        if seconds:
            cells = self._afford(cells, seconds, cores, say)
        train_all([self.job(cell) for cell in cells], cores, say)
        for condition in self.conditions:
            self._baselines(condition)
        for cell in cells:
            self._judge(cell)
            say(f"judged {cell.name}")

    def _afford(self, cells: list[Cell], seconds: float, cores: int, say: Say) -> list[Cell]:
        """As many whole runs as the budget lets us train, at least 3, after the first training was timed; a sweep that
        was cut off keeps what it had found then."""
        started, timing = time.monotonic(), self.study.path / ".first_training_s"
        one_s = train_all([self.job(cells[0])], 1, say)
        if one_s:
            write_atomically(timing, str(one_s).encode())
        elif timing.is_file():
            one_s, started = float(timing.read_text()), started - float(timing.read_text())
        per_run = len(cells) // self.options.runs
        left_s = seconds - (time.monotonic() - started)
        runs = min(self.options.runs, max(3, int(0.8 * left_s * cores / ((one_s or 1.0) * per_run))))
        if runs < self.options.runs:
            self.study.note(f"budget {self.judging.budget}: {runs} training runs of each kind, not {self.options.runs}")
        return [cell for cell in cells if cell.run < runs]

    def _baselines(self, condition: Condition) -> None:
        part = f"baselines {condition.name}".strip()
        if part not in self.study.done():
            test, pools = self.drawn[condition.name]
            head = {"run": -1, "n_train": None, "condition": condition.name}
            self.study.append(part, baselines([test, *pools], self.judging, head, self.limit))

    def _judge(self, cell: Cell) -> None:
        if cell.name in self.study.done():
            return
        train, test = self.train_set(cell), self.drawn[cell.condition.name][0]
        run = RunDir.open(self.study.path / "runs" / cell.name)
        check_training(run, self.judging.checkpoint, {"train": train, "test": test})
        head = {"run": cell.run, "n_train": cell.n, "condition": cell.condition.name}
        agent = load_agent(run, train, self.judging)
        agent_head = head | {"policy": "agent"}
        rows = judge(agent, [train, test], self.judging, agent_head, run.config.a2c.gamma, **env_options(run.config))
        self.study.meta["checkpoints"][cell.name] = checkpoint_hash(run, self.judging.checkpoint)
        self.study.append(cell.name, rows, curves(run, [train, test], self.judging, head))


def open_study(
    options: SweepOptions, command: str, settings: Mapping[str, Scalar], drawn: Drawn, config: Config
) -> Study:
    """The new or unfinished study of these options; ``config``: of its trainings."""
    protocol = "flip" if options.flip else "compare" if options.algos else "sweep"
    test, pools = next(iter(drawn.values()))
    sets = {"train": pools[0], "test": test}
    more = {"design": "a fresh training set for each run; one test set for all", "settings": dict(settings)}
    meta = header(protocol, command, sets, options.judge, [config], normaliser="frozen", **more)
    return Study.create(Path(options.out), meta, resumes=True)


def budget_s(text: str) -> float:
    """90, 90s, 5m or 1h in seconds; 0 for none. Raises ValueError otherwise."""
    if not text:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise ValueError(f"budget={text} wants a time such as 90s, 5m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
