"""A training run on disk, as an object."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gala.config.schema import Config
from gala.runs.run_dir import RunDir, flat_numbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gala.api.agent import Agent


@dataclass(frozen=True)
class Evaluation:
    """Whole episodes of one policy. Returns are undiscounted sums of the environment's own rewards; lengths count
    decisions."""

    return_mean: float
    return_std: float
    """With n - 1 in the denominator; 0 for one episode."""
    return_ci95: tuple[float, float]
    """95% confidence interval of the mean over episodes, by Student's t; NaN for one episode, which has none."""
    length_mean: float
    returns: tuple[float, ...]
    """One per episode."""
    episodes: int
    mode: str
    """greedy or sampled."""
    seed: int


class Run:
    """A directory that ``gala.train`` or ``gala train`` has written; it may still be training.

    Args:
        trust: ``load`` and ``evaluate`` import the modules that the run names, whoever has made it. Those that this
            user has trained with on this machine need no trust.

    Raises:
        ValueError: ``path`` is not a run directory.
    """

    def __init__(self, path: str | Path, *, trust: bool = False) -> None:
        self._dir, self._trust = RunDir.open(path), trust

    @property
    def path(self) -> Path:
        """The directory."""
        return self._dir.path

    @property
    def config(self) -> Config:
        """Every setting, as it was resolved."""
        return self._dir.config

    @property
    def summary(self) -> dict[str, Any]:
        """The closing figures: status (finished, stopped, interrupted, failed), stopped_by (of one that is stopped:
        "on_record has returned False", or "... has raised" what), env_steps, frames, updates, wall_s,
        env_steps_per_s, episodes, return_mean (of the last 100 episodes of training, as many of each learner; or
        None), learners, failures.

        Raises:
            ValueError: the run has not ended yet.
        """
        return self._dir.read_summary()

    @property
    def checkpoints(self) -> list[str]:
        """The names that ``load`` and ``evaluate`` take: latest, best, and milestones."""
        return self._dir.checkpoints.names()

    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """The metric records so far as columns: name -> ``[records]`` float64, NaN where a record has no such number.

        ``global_step`` counts env_steps over all learners; ``charts/...``, ``losses/...``, ``gossip/...`` and
        ``perf/...`` are over all learners, ``learner0/charts/...`` and so on of one. ``message_ages/...`` counts
        messages by their age in updates. What is not a number is left out.
        """
        import numpy as np

        rows = [flat_numbers(record) for record in self._dir.read_metrics()]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}

    def load(
        self, checkpoint: str = "latest", learner: int | Literal["consensus"] = "consensus", device: str = "cpu"
    ) -> Agent:
        """The policy of a checkpoint, with its observation normaliser, frozen.

        Args:
            checkpoint: one of ``checkpoints``.
            learner: a rank, or "consensus": the mean of all learners by their PushSum weights (learner 0 where nothing
                was averaged in training).
            device: cpu, cuda or cuda:N.

        Raises:
            ValueError: there is no such checkpoint or learner, it is damaged, it does not fit the environment, or the
                run names code that is not trusted.
        """
        from gala.api.agent import agent_of_run

        self._check_trusted()
        return agent_of_run(self._dir, checkpoint, learner, device)

    def evaluate(
        self,
        episodes: int = 30,
        *,
        mode: Literal["sampled", "greedy"] = "sampled",
        checkpoint: str = "latest",
        learner: int | Literal["consensus"] = "consensus",
        seed: int = 1000,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        video: str | Path = "",
    ) -> Evaluation:
        """Play exactly ``episodes`` whole episodes in the run's own environment, as ``gala eval`` does.

        Args:
            mode: sampled draws actions as in training, greedy takes the most probable ones.
            checkpoint, learner: see ``load``.
            seed: of simulators and of sampled actions; far from training seeds, so that episodes are new ones.
            video: an .mp4 of one episode is written there. What goes wrong while it is drawn is a warning.

        Raises:
            ValueError: a wrong argument, no such checkpoint or learner, or an environment that is missing here.
        """
        from gala.evaluation.evaluate import check_request, evaluate_run

        self._check_trusted()
        check_request(self._dir, checkpoint, learner, episodes, seed, str(video), mode)
        result = evaluate_run(
            self._dir,
            checkpoint=checkpoint,
            learner=learner,
            episodes=episodes,
            mode=mode,
            seed=seed,
            device=device,
            video=Path(video) if video else None,
        )
        if problem := result.pop("video_problem", ""):
            warnings.warn(problem, stacklevel=2)
        ends = (math.nan if end is None else end for end in result["return_ci95"])
        result |= {"return_ci95": tuple(ends), "returns": tuple(result["returns"])}
        return Evaluation(**result)

    def _check_trusted(self) -> None:
        from gala.build.trust import check_trusted, named_code

        remedy = f"gala.Run({str(self.path)!r}, trust=True)"
        check_trusted(named_code(self.config), self.path, trust=self._trust, remedy=remedy)

    def __repr__(self) -> str:
        c = self.config
        try:
            state = f"{self.summary['status']}, {self.summary['env_steps']:,} env_steps"
        except ValueError:
            state = "not ended"
        return f"<gala.Run {str(self.path)!r}: {c.env.id}, algo={c.algo}, learners={c.learners}, {state}>"
