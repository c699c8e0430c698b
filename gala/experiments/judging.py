"""The score of a trained run, found in a process of its own: ``python -m gala.experiments.judging`` (internal)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gala.build.envs import make_evaluation_env, random_actions
from gala.config.derived import averages_parameters
from gala.config.schema import Config
from gala.evaluation.evaluate import MAX_PARALLEL, evaluate_run
from gala.evaluation.play import LONGEST_EPISODE, quotas, refuse_endless
from gala.files.whole import write_atomically
from gala.runs.run_dir import RunDir

SEED = 1000
MODES: dict[str, tuple[str, ...]] = {"sampled": ("sampled",), "greedy": ("greedy",), "both": ("sampled", "greedy")}
_KEPT = ("return_mean", "return_std", "length_mean", "episodes", "seed")


class JudgingJob(NamedTuple):
    """Plays the latest policies of ``run`` and writes what they score to ``out``."""

    run: Path
    out: Path
    episodes: int
    mode: str

    @property
    def name(self) -> str:
        return f"judging {self.run.name}"

    @property
    def log(self) -> Path:
        return self.out.with_name(f"{self.out.stem}.log")

    @property
    def finished(self) -> bool:
        """Whether ``out`` holds what is asked for, of the checkpoint that is there now."""
        answered = self._answered()
        try:
            return bool(answered) and answered == self.request()
        except ValueError:  # the run is gone
            return False

    @property
    def is_of_another_run(self) -> bool:
        """Whether ``out`` is of another run than this, whatever was asked for and whichever checkpoint was there."""
        answered = self._answered()
        return bool(answered) and answered.get("run") != RunDir.open(self.run).identity()

    def _answered(self) -> dict[str, Any]:
        """The ``request`` that ``out`` is the answer to; nothing if there is none, as before a run is trained."""
        try:
            return dict(json.loads(self.out.read_text())["request"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def request(self) -> dict[str, Any]:
        """What decides the result. Raises ValueError if the run has no checkpoint."""
        run = RunDir.open(self.run)
        steps = run.checkpoint_meta("latest")["env_steps"]
        return {"run": run.identity(), "env_steps": steps, "episodes": self.episodes, "mode": self.mode}

    def argv(self) -> list[str]:
        return ["-m", "gala.experiments.judging", str(self.run), str(self.out), str(self.episodes), self.mode]

    def read(self) -> dict[str, Any]:
        """What ``judge`` has found."""
        return dict(json.loads(self.out.read_text()))


def judge(run_dir: RunDir, episodes: int, mode: str) -> dict[str, Any]:
    """Scores of the latest checkpoint by whole episodes, about ``episodes`` for each policy that is compared.

    ``policies``: mode -> {"consensus": figures} where the learners' parameters are averaged, and "learner0", ... where
    there are several learners or nothing is averaged. Together the learners play as many episodes as the consensus, so
    the score is as sure whichever it is taken from. ``score``: mode -> mean return of the consensus, or the mean over
    the learners where each is a policy of its own. ``random_return``: that of uniformly random actions.

    Episodes begin from seeds of each training's own: luck that all share would not show between trainings.
    """
    config = run_dir.config
    ranks = run_dir.checkpoint_meta("latest")["ranks"]
    averaged, share = averages_parameters(config), math.ceil(episodes / len(ranks))
    seed = SEED + 100_000 * (config.seed % 10_000)
    policies: dict[str, dict[str, Any]] = {}
    for one in MODES[mode]:
        policies[one] = {"consensus": _play(run_dir, "consensus", episodes, one, seed)} if averaged else {}
        for rank in ranks:
            policies[one][f"learner{rank}"] = _play(run_dir, rank, share, one, seed + 1000 * (1 + rank))
    scores = {
        one: by["consensus"]["return_mean"] if averaged else float(np.mean([p["return_mean"] for p in by.values()]))
        for one, by in policies.items()
    }
    return {"score": scores, "policies": policies, "random_return": random_return(config, episodes)}


def _play(run_dir: RunDir, learner: int | str, episodes: int, mode: Any, seed: int) -> dict[str, Any]:
    found = evaluate_run(run_dir, learner=learner, episodes=episodes, mode=mode, seed=seed)
    return {key: found[key] for key in _KEPT}


def random_return(config: Config, episodes: int, seed: int = SEED) -> float:
    """Mean return of uniformly random actions, of those that are allowed, over ``episodes`` whole episodes, a fixed
    number for each simulator. Raises ValueError if they do not end an episode."""
    env = make_evaluation_env(config, min(episodes, MAX_PARALLEL))
    try:
        env.action_space.seed(seed)
        obs = env.reset(seed)
        quota, begun = quotas(episodes, env.num_envs), np.zeros(env.num_envs, np.int64)
        longest, returns, decisions = max(LONGEST_EPISODE, config.env.max_episode_steps), list[float](), 0
        while quota.any():
            refuse_endless((decisions - begun)[quota > 0].max(), longest, len(returns), episodes)
            step = env.step(random_actions(env, obs))
            obs, decisions = step.obs, decisions + 1
            begun[step.episode_over] = decisions
            ended = np.flatnonzero(step.episode_over & (quota > 0))
            returns += [float(step.episode_return[row]) for row in ended]
            quota[ended] -= 1
    finally:
        env.close()
    return float(np.mean(returns))


def main(argv: Sequence[str]) -> None:
    """RUN OUT EPISODES MODE."""
    job = JudgingJob(Path(argv[0]), Path(argv[1]), int(argv[2]), argv[3])
    request = job.request()
    found = judge(RunDir.open(job.run), job.episodes, job.mode) | {"request": request}
    write_atomically(job.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
