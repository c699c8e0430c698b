"""What the subcommands of ``gala overfit`` accept, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class JudgeOptions:
    """How agents are judged."""

    episodes: int = 1
    """On each context; small sets are played more often."""
    act: Literal["sampled", "greedy"] = "sampled"
    """sampled: as in training. greedy: the most probable action."""
    delta: float = 0.05
    """A normalised gap within +-delta counts as none."""
    seed: int = 1000
    """Seed of the noise of the episodes: the same for all that is compared."""
    reference: str = "auto"
    """What the adjusted gap is taken against: optimal, random, module:function or a run (one trained on many MDPs);
    auto: optimal where known, else what `gala overfit train on=many` has trained for the sets, else random."""
    solved: float | None = None
    """The return that counts as all of the task, where neither an optimum nor Gymnasium's reward_threshold is known."""
    checkpoint: str = "latest"
    trust: bool = False
    """Import the code that the runs name, whoever has made them."""
    budget: str = ""
    """Such as 90s, 5m or 1h: fewer runs or contexts, so that it fits; the report says so."""


@dataclass(frozen=True)
class SplitOptions:
    """How many contexts each set gets."""

    train: int = 10
    val: int = 0
    test: int = 200
    extrap: int = 0
    """Contexts from the family's region E, outside the training distribution."""
    region: str = ""
    """Where train, val and test come from; empty is the family's usual region."""
    seed: int = 0
    out: str = "sets"
    """Directory of the sets."""


@dataclass(frozen=True)
class AuditOptions:
    """What counts as the same MDP, beside what is the same to the last bit."""

    tolerance: float = 0.0
    """Above 0: training MDPs and others that fixed actions lead through alike, within so many standard deviations."""
    symmetries: bool = False
    """Mirror images and rotations too (mazes)."""


@dataclass(frozen=True)
class ScoreOptions:
    """Scores in a table: columns run, context, set, return; policy, success; others are conditions."""

    delta: float = 0.05
    """A normalised gap within +-delta counts as none."""
    solved: float | None = None
    """The return that counts as all of the task; without it, or rows of a reference, gaps are in units of return."""
    random: float | None = None
    """The random policy's return, where the table has no rows of it."""
    out: str = ""


@dataclass(frozen=True)
class TaskOptions:
    """Tasks in a table: columns set, context, and what describes a task."""

    same: str = ""
    """module:function of a row (a dict), equal for the same task; without it, the texts are compared."""


@dataclass(frozen=True)
class TrainOptions:
    """Several training runs on one training set."""

    sets: str = "sets"
    """Directory that `gala overfit split` wrote."""
    on: Literal["train", "test", "many"] = "train"
    """test: oracles, for `gala overfit eval RUN ... oracle=`, which are trained on the test set. many: a reference, of
    one run, which is trained on many other MDPs of the same kind, and is what gaps of these sets are taken against."""
    many: int = 1000
    """MDPs of on=many; none of them is in the sets."""
    runs: int = 5
    jobs: int = 0
    """Trainings at a time; 0: as many as there are cores."""
    out: str = ""


@dataclass(frozen=True)
class EvalOptions:
    """A verdict on trained runs, or on a policy in Python."""

    sets: str = "sets"
    policy: str = ""
    """Instead of runs: module:act, module:make?seed={run}, sb3:FILE.zip, cleanrl:FILE, torch:module:Net?file=FILE.pt,
    or several of them by commas."""
    played: str = ""
    """Logs of gala_envs.as_gymnasium, by commas, of the policies' training: refused if a test MDP is among them."""
    repeats: int = 5
    """Runs that {run} counts, from 0; without {run}, times that the one policy is judged, each with other noise."""
    oracle: str = ""
    """Runs that were trained on the test MDPs, by commas: does knowing them gain anything, as a test set must show?"""
    out: str = ""
    judge: JudgeOptions = field(default_factory=JudgeOptions)


@dataclass(frozen=True)
class SweepOptions:
    """Training sets of several sizes, several fresh ones of each."""

    n: tuple[int, ...] = (1, 10, 100)
    """Training MDPs."""
    runs: int = 5
    test: int = 200
    flip: tuple[float, ...] = ()
    """Probabilities with which training rewards change sign (families with a parameter of that name)."""
    algos: tuple[str, ...] = ()
    """Compare these, at equal env_steps: a2c, gala, independent, allreduce."""
    learners: int = 0
    """Learners of every training; with `algos`, of each algorithm but a2c, where 0 stands for 4."""
    jobs: int = 0
    """Trainings at a time; 0: as many as there are cores."""
    region: str = ""
    sampler_seed: int = 0
    out: str = ""
    judge: JudgeOptions = field(default_factory=JudgeOptions)


@dataclass(frozen=True)
class StressOptions:
    """Robustness of trained runs, given with their sets or as a sweep: the same MDPs under changes."""

    sets: str = "sets"
    n: int = 0
    """The runs of a sweep with so many training MDPs; 0: the most there are."""
    condition: str = ""
    """The runs of a sweep of several algorithms or flips of which to take: algo=gala, flip=0.1."""
    init_mult: tuple[float, ...] = ()
    """Initial states so many times as far from rest (families with a parameter of that name)."""
    obs_sigma: tuple[float, ...] = ()
    """Noise on observations, in standard deviations of each number under the random policy on the train set."""
    sticky: tuple[float, ...] = ()
    """Probability that the previous action is repeated."""
    random_start: bool = False
    """Starts that are drawn anew in each episode (families with a parameter of that name)."""
    easier: bool = False
    """Easier variants too, one at a time: nothing bad in a maze, no clutter, starts nearer to rest, no delay, ..."""
    out: str = ""
    judge: JudgeOptions = field(default_factory=JudgeOptions)


@dataclass(frozen=True)
class ReportOptions:
    """A study's report again."""

    surprise: str = ""
    """A run of `gala video train` on rollouts of the policy on the train set: is it surprised by the test set?"""
    sets: str = "sets"
    """With surprise: the directory of the study's sets."""
    trust: bool = False
    """Import the code that the policy's run names, whoever has made it."""


def check_delta(delta: float) -> None:
    """Raises ValueError unless ``delta`` is a share of the task."""
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta:g} must be above 0 and below 1: it is a share of the task")
