"""``gala eval RUN``: an exact number of whole episodes with a trained policy."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gala.commands.trusted import check_run
from gala.config.bounds import NOT_NEGATIVE, bounded, check_bounds
from gala.config.derived import whose
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.runs.evaluations import append_evaluation
from gala.runs.run_dir import RunDir, curves_command

USAGE = """usage: gala eval RUN [episodes=30] [mode=sampled|greedy|both]
                 [checkpoint=latest|best|NAME] [learner=consensus|K]
                 [seed=1000] [device=auto|cpu|cuda] [env.max_episode_steps=N]
                 [trust=true] [--video FILE.mp4] [--json]

Plays exactly `episodes` whole episodes and reports their mean return with its
95% confidence interval. learner=consensus averages all learners' parameters.
env.max_episode_steps cuts an episode off after N decisions; one that has not
ended after 200,000 is an error. --json prints one JSON object (mode=both: one
per mode, nested). What it finds is also kept in RUN/evaluations.jsonl, for
`gala report` and `gala export`."""

EXIT_NO_VIDEO = 1


@dataclass(frozen=True)
class EnvOptions:
    """What of the environment may be another than in training."""

    max_episode_steps: int = bounded(0, NOT_NEGATIVE)
    """Agent decisions; 0 keeps the run's own limit."""


@dataclass(frozen=True)
class Options:
    """What ``gala eval`` accepts."""

    episodes: int = 30
    mode: Literal["sampled", "greedy", "both"] = "sampled"
    checkpoint: str = "latest"
    learner: str = "consensus"
    seed: int = 1000
    """Far from training seeds: evaluation episodes should be new ones."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    video: str = ""
    trust: bool = False
    """Import the code that the run names, whoever has made it."""
    env: EnvOptions = field(default_factory=EnvOptions)


def main(argv: Sequence[str]) -> int:
    """``RUN`` and the settings of ``Options``. Returns 0; 1 if the episodes were played, but not filmed."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options = parse_options(Options, [word for word in argv[1:] if word != "--json"])
    check_bounds(options)
    run_dir = RunDir.open(argv[0])
    check_run(run_dir, options.trust, "eval", argv)
    from gala.evaluation.evaluate import check_request, evaluate_run, named_learner, with_episode_limit

    learner = named_learner(options.learner)
    check_request(run_dir, options.checkpoint, learner, options.episodes, options.seed, options.video)

    run_dir, problems = with_episode_limit(run_dir, options.env.max_episode_steps), []
    results: dict[str, dict[str, Any]] = {}
    for mode in ("greedy", "sampled") if options.mode == "both" else (options.mode,):
        with contextlib.redirect_stdout(sys.stderr):  # what an environment prints is no part of the answer
            result = evaluate_run(
                run_dir,
                checkpoint=options.checkpoint,
                learner=learner,
                episodes=options.episodes,
                mode=mode,
                seed=options.seed,
                device=options.device,
                video=Path(options.video) if options.video and not results else None,
            )
        problems.append(result.pop("video_problem", ""))
        results[mode] = result
    trouble = _keep(run_dir, options, results)
    if "--json" in argv:
        of = {"checkpoint": options.checkpoint, "env_steps": _env_steps(run_dir, options)}
        told = {mode: of | result for mode, result in results.items()}
        print(json.dumps(told if options.mode == "both" else told[options.mode]))
    else:
        print("\n".join(describe(result) for result in results.values()))
        print(_played(run_dir, options))
        print(f"run     {run_dir.path}")
        print(f"curves  {curves_command(str(run_dir.path), run_dir.config.log.tensorboard)}")
    if trouble:
        print(f"warning: {trouble}", file=sys.stderr)
    if any(problems):
        print(f"gala: error: {''.join(problems)}", file=sys.stderr)
    return EXIT_NO_VIDEO if any(problems) else 0


def _env_steps(run_dir: RunDir, options: Options) -> int | None:
    """What the checkpoint was trained for; None of one that does not say."""
    steps: int | None = run_dir.checkpoint_meta(options.checkpoint).get("env_steps")
    return steps


def _played(run_dir: RunDir, options: Options) -> str:
    steps = _env_steps(run_dir, options)
    age, nothing = "" if steps is None else f" of {steps:,} env_steps", ": nothing was learned yet" * (steps == 0)
    return f"checkpoint {options.checkpoint}{age}, learner {whose(run_dir.config, options.learner)}{nothing}"


def _keep(run_dir: RunDir, options: Options, results: Mapping[str, dict[str, Any]]) -> str:
    """Write down what was found, and of what; says in words why it could not be, or nothing."""
    from gala.evaluation.load import checkpoint_hash

    told = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": options.checkpoint,
        "checkpoint_hash": checkpoint_hash(run_dir, options.checkpoint),
        "env_steps": _env_steps(run_dir, options),
        "learner": options.learner,
        "played": whose(run_dir.config, options.learner),
        "max_episode_steps": run_dir.config.env.max_episode_steps,
    }
    first, trouble = True, ""
    for result in results.values():
        video = str(Path(options.video).resolve()) if options.video and first else ""
        trouble = append_evaluation(run_dir.path, told | result | ({"video": video} if video else {})) or trouble
        first = False
    return trouble


def describe(result: dict[str, Any]) -> str:
    """One line of figures for a reader."""
    low, high = result["return_ci95"]
    spread = f" (95% CI {low:.1f} to {high:.1f}, std {result['return_std']:.1f})" if low is not None else ""
    episodes = f"{result['episodes']} episode{'s' if result['episodes'] > 1 else ''}"
    return (
        f"{result['mode']:<8} return {result['return_mean']:.1f}{spread} "
        f"over {episodes} of {result['length_mean']:.0f} steps, seed {result['seed']}"
    )
