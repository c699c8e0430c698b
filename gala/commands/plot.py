"""``gala plot``: a figure of one run's records, or curves of several runs in one picture."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gala.config.derived import gradient_memory
from gala.config.own_words import asks_for_help, divided, take_paths
from gala.config.parse import parse_options
from gala.config.preset_files import nearest
from gala.config.schema import Config
from gala.optim.lr_scaling import is_sgd, stable_product
from gala.reports import figures, training_diagnosis
from gala.runs.distinct import check_distinct
from gala.runs.run_dir import RunDir

FIGURES: dict[str, tuple[Callable[[Sequence[figures.Record], str, Path], None], str]] = {
    "returns": (figures.returns, "learning curve: return of the last 100 episodes over env_steps"),
    "epsilon-ball": (figures.epsilon_ball, "learners' distance and its bound (gossip.certify=true)"),
    "sharpness": (
        training_diagnosis.sharpness,
        "largest curvature, and its limit (diagnose.curvature=K)",
    ),
    "noise-scale": (training_diagnosis.noise, "simulators at which gradients are half noise (diagnose.noise=K)"),
}
CURVES = {
    "return": ("charts/episodic_return", "return, last 100 episodes"),
    "length": ("charts/episodic_length", "steps of an episode, last 100"),
    "consensus": ("gossip/consensus_distance", "rms distance of the learners to their mean"),
    "entropy": ("losses/entropy", "entropy of the policy"),
    "value-loss": ("losses/value_loss", "loss of the value function"),
    "rate": ("charts/SPS", "env_steps per second"),
    "sharpness": ("diagnose/eigenvalue1", "largest eigenvalue of the total loss's Hessian"),
    "trace": ("diagnose/hessian_trace", "trace of the total loss's Hessian"),
    "noise-scale": ("diagnose/noise_scale", "noise scale in simulators"),
}
"""Name -> (tag of metrics.jsonl, label); tags themselves are taken too."""
AXES = {"steps": ("global_step", "env_steps over all learners"), "time": ("perf/wall_s", "seconds of training")}

_ROWS = "\n".join(f"  {name:<14}{text}" for name, (_, text) in FIGURES.items())
USAGE = f"""usage: gala plot RUN FIGURE [out=FILE.png|FILE.svg] [overwrite=true]
       gala plot RUN ... [x=steps|time] [y=return] [smooth=1] [out=curves.png]

Draw a figure of the records of RUN, to RUN/FIGURE.png if nothing else is said:

{_ROWS}

Or draw the curves of any number of runs in one picture. Runs that differ only
in their seeds are one colour, with their mean and its 95 % bootstrap band.

  x           steps: env_steps over all learners; time: seconds of training
  y           {", ".join(list(CURVES)[:6])},
              {", ".join(list(CURVES)[6:])},
              or a tag of metrics.jsonl such as losses/policy_loss
  smooth      each point is the mean of so many records up to it"""


@dataclass(frozen=True)
class Options:
    """What ``gala plot RUN FIGURE`` accepts."""

    out: str = ""
    overwrite: bool = False


@dataclass(frozen=True)
class CurveOptions:
    """What ``gala plot RUN ...`` accepts."""

    x: Literal["steps", "time"] = "steps"
    y: str = "return"
    smooth: int = 1
    out: str = "curves.png"
    overwrite: bool = False


def main(argv: Sequence[str]) -> int:
    """Runs, perhaps a figure's name, and the settings of ``Options`` or ``CurveOptions``. Returns 0."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    plain, settings = take_paths(argv)
    name = plain[-1] if len(plain) > 1 else ""
    if len(plain) == 2 and (name in FIGURES or not Path(name).exists()):
        return _figure(RunDir.open(plain[0]), name, settings)
    return _curves([RunDir.open(path) for path in plain], parse_options(CurveOptions, settings))


def _figure(run_dir: RunDir, name: str, settings: Sequence[str]) -> int:
    if name not in FIGURES:
        if "/" in name:
            raise ValueError(f"{name} is not there: name another run, or a figure: {', '.join(FIGURES)}")
        raise ValueError(f"figure {name!r}: wants one of {', '.join(FIGURES)}{nearest(name, FIGURES)}")
    of_figures, others = divided(settings, Options)
    if of_curves := divided(others, CurveOptions)[0]:
        raise ValueError(f"{of_curves[0]} is for curves, not for a figure: leave out {name!r}")
    options = parse_options(Options, [*of_figures, *others])
    path = Path(options.out) if options.out else run_dir.path / f"{name}.png"
    figures.check_output(path, options.overwrite)
    draw = FIGURES[name][0]
    if name == "sharpness":
        draw = functools.partial(training_diagnosis.sharpness, limit=_limit(run_dir.config))
    draw(_records(run_dir), str(run_dir.path), path)
    print(path)
    return 0


def _limit(config: Config) -> float | None:
    """Up to which product of learning rate and curvature steps are stable; None where it is not known."""
    known = config.optim.name in ("adam", "rmsprop", "rmsprop_tf") or is_sgd(config.optim.name)
    return stable_product(gradient_memory(config)) if known else None


def _records(run_dir: RunDir) -> list[figures.Record]:
    records = run_dir.read_metrics()
    if not records:
        raise ValueError(f"{run_dir.path} has no records yet; let it train for longer")
    return records


def _curves(runs: Sequence[RunDir], options: CurveOptions) -> int:
    from gala.reports.comparison_figures import draw_curves

    if not runs:
        raise ValueError("name a run: gala plot RUN ...; `gala plot --help` says more")
    tag, label = CURVES.get(options.y, (options.y, options.y))
    if options.y not in CURVES and "/" not in options.y:
        raise ValueError(f"y={options.y}: wants one of {', '.join(CURVES)}, or a tag{nearest(options.y, CURVES)}")
    if options.smooth < 1:
        raise ValueError(f"smooth={options.smooth} must be at least 1, a number of records")
    path = Path(options.out)
    figures.check_output(path, options.overwrite)
    check_distinct(runs)
    x_tag, x_label = AXES[options.x]
    groups: dict[str, list[dict[str, list[float]]]] = {}
    for run, group in zip(runs, _groups(runs), strict=True):
        told = [r for r in _records(run) if r.get(tag) is not None and r.get(x_tag) is not None]
        if not told:
            raise ValueError(f"{run.path} has no {tag} in its records")
        curve = {"x": [r[x_tag] for r in told], "y": running_mean([r[tag] for r in told], options.smooth)}
        groups.setdefault(group, []).append(curve)
    figure, axes = figures.figure_with_axes()
    draw_curves(axes, groups, "x", "y")
    title = ", ".join(dict.fromkeys(run.config.env.id for run in runs))
    axes.set(xlabel=x_label, ylabel=label, title=title)
    figures.save(figure, path)
    print(path)
    return 0


def _groups(runs: Sequence[RunDir]) -> list[str]:
    """The group of each run: the settings in which it differs from others, or its name if it is alone."""
    from gala.experiments.rows import known_beforehand, name_groups

    if len(runs) == 1:
        return [runs[0].path.name]
    return [str(row["group"]) for row in name_groups(list(map(known_beforehand, runs)))]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and the ``width - 1`` before it, of fewer at the start."""
    return [math.fsum(part) / len(part) for part in (values[max(0, i - width + 1) : i + 1] for i in range(len(values)))]
