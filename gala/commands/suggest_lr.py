"""``gala suggest-lr``: the learning rate when learners or simulators change, with the rule and its evidence."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gala.commands.trusted import check_run
from gala.config.derived import averaged_envs, gradient_memory
from gala.config.own_words import asks_for_help, divided, take_paths
from gala.config.parse import override, parse_options
from gala.config.schema import Config
from gala.config.validate import validate
from gala.runs.run_dir import RunDir

if TYPE_CHECKING:
    from gala.diagnostics.lr_evidence import Evidence
    from gala.optim.lr_scaling import Suggestion

USAGE = """usage: gala suggest-lr preset=NAME learners=N [envs=E] [measure_steps=30000]
                       [SETTING=VALUE ...] [--json]
       gala suggest-lr RUN learners=N [envs=E] [checkpoint=latest] [--json]

Recommends the learning rate for N learners of E simulators each, from one that
is known to work: that of the preset, or of RUN, with its own learners. Prints
the rule (proportional to the simulators for SGD and ekfac, to their square root
for rmsprop and adam), what caps it (the noise scale and the curvature, measured
in a training of measure_steps that is thrown away, or of a checkpoint of RUN),
and the words to type. SETTING=VALUE is part of what is known to work.

More: sims=32 batches=16 seed=1000, what the noise scale is measured with:
rollouts, each of so many simulators. A longer measure_steps, or a RUN that has
learned, shows the noise of a better policy, which is higher."""
_WIDTH = 80


@dataclass(frozen=True)
class Options:
    """What ``gala suggest-lr`` accepts beside the settings of a training."""

    learners: int = 0
    envs: int = 0
    envs_per_learner: int = 0
    measure_steps: int = 30_000
    checkpoint: str = "latest"
    sims: int = 32
    batches: int = 16
    seed: int = 1000
    trust: bool = False


def main(argv: Sequence[str]) -> int:
    """RUN or preset=NAME, ``Options``, settings, ``--json``. Returns 0, 1 if the short training failed, or 128 + n if
    signal n has ended it."""
    words = [word for word in argv if word != "--json"]
    if not words or asks_for_help(words):
        print(USAGE)
        return 0
    paths, settings = take_paths(words)
    if len(paths) > 1:
        raise ValueError(f"{paths[1]}: one RUN at a time")
    path = paths[0] if paths else ""
    own, rest = divided(settings, Options)
    options = parse_options(Options, own)
    _check(options)
    if path and rest:
        raise ValueError(f"{rest[0]}: RUN has its settings; only learners=N and envs=E can change")
    for word in own:
        key = word.partition("=")[0]
        if key in (("measure_steps",) if path else ("checkpoint", "trust")):
            raise ValueError(f"{word}: {'RUN has been trained' if path else 'there is no RUN'}; leave it out")
    run_dir = RunDir.open(path) if path else None
    from gala.build.auto import fitted_config
    from gala.processes.ending import Ended, ending_signals

    known = run_dir.config if run_dir else fitted_config(rest)
    validate(known)
    wanted = _wanted(known, options)
    if run_dir is not None:
        check_run(run_dir, options.trust, "suggest-lr", argv)
        run_dir.checkpoint_meta(options.checkpoint)
    try:
        with ending_signals():  # so that the short training is put away
            evidence = _measure(known, run_dir, rest, options)
    except Ended as end:
        return 128 + end.number
    except RuntimeError as failure:
        print(f"gala suggest-lr: the short training failed: {failure}", file=sys.stderr)
        return 1
    found = _suggest(known, wanted, evidence)
    typed = _words(path, rest, known, wanted, found.lr)
    if "--json" in argv:
        print(json.dumps(_record(known, wanted, evidence, found, typed)))
    else:
        print(
            "\n".join(_lines(known, wanted, evidence, found, typed, 0 if run_dir else _measured_steps(known, options)))
        )
    return 0


def _check(options: Options) -> None:
    for name in ("learners", "envs", "envs_per_learner", "seed"):
        if getattr(options, name) < 0:
            raise ValueError(f"{name}={getattr(options, name)} must be 0 (as it is) or more")
    for name, least in (("measure_steps", 1), ("sims", 2), ("batches", 2)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}")
    if options.envs and options.envs_per_learner:
        raise ValueError("envs and envs_per_learner are the same here; give one")
    if not (options.learners or options.envs or options.envs_per_learner):
        raise ValueError("say what changes: learners=N, envs=E (simulators of each learner), or both")


def _wanted(known: Config, options: Options) -> Config:
    """The settings that a learning rate is wanted for. Raises ValueError if they cannot be trained."""
    envs = options.envs or options.envs_per_learner or known.envs_per_learner
    wanted = dataclasses.replace(known, learners=options.learners or known.learners, envs_per_learner=envs)
    per_update = wanted.learners * wanted.envs_per_learner * wanted.a2c.num_steps
    validate(dataclasses.replace(wanted, steps=max(wanted.steps, per_update)))
    if wanted == known:
        raise ValueError(f"learners={known.learners} envs={known.envs_per_learner} is what there is; name others")
    if not known.optim.lr:
        raise ValueError("optim.lr=0 learns nothing: there is no learning rate to go by")
    return wanted


def _measure(known: Config, run_dir: RunDir | None, words: Sequence[str], options: Options) -> Evidence:
    from gala.diagnostics.lr_evidence import measure
    from gala.evaluation.frozen import load_frozen

    def of(run: RunDir, checkpoint: str) -> Evidence:
        frozen = load_frozen(run, checkpoint, envs=options.sims, batches=options.batches, seed=options.seed)
        return measure(frozen)

    if run_dir is not None:
        return of(run_dir, options.checkpoint)
    from gala.experiments.jobs import TrainingJob, train_all
    from gala.training.new_run import check

    check(known)
    steps = _measured_steps(known, options)
    print(f"training for {steps:,} env_steps, to measure ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="gala-suggest-lr-") as folder:
        # Schedules go as in the whole training, of which this is the beginning.
        horizon = f"schedule_to={known.schedule_to or known.steps}"
        job = TrainingJob(Path(folder) / "run", (*words, f"steps={steps}", horizon))
        train_all([job], 1, lambda text: None)
        return of(RunDir.open(job.run), "latest")


def _measured_steps(known: Config, options: Options) -> int:
    """env_steps of the short training: at least one update of every learner."""
    per_update = known.learners * known.envs_per_learner * known.a2c.num_steps
    return max(per_update, min(options.measure_steps, known.steps))


def _suggest(known: Config, wanted: Config, evidence: Evidence) -> Suggestion:
    from gala.build.learning import learning_rate
    from gala.optim.lr_scaling import rule_of, stable_product, suggest

    return suggest(
        learning_rate(known)(0.0) * _gossip_growth(known, wanted),
        averaged_envs(known),
        averaged_envs(wanted),
        rule_of(known.optim.name),
        evidence.noise_scale,
        evidence.sharpness,
        stable_product(gradient_memory(known)),
    )


def _gossip_growth(known: Config, wanted: Config) -> float:
    """What the wanted learners multiply the rate by beyond the rule of simulators: see ``gossip.lr_scaling``."""
    from gala.build.learning import gossip_lr_factor

    return gossip_lr_factor(wanted) / gossip_lr_factor(known)


def _words(path: str, words: Sequence[str], known: Config, wanted: Config, lr: float) -> str:
    """The command to type. Raises ValueError for none."""
    from gala.build.learning import scales_by_noise

    target = [f"learners={wanted.learners}", f"envs_per_learner={wanted.envs_per_learner}", f"optim.lr={lr:.3g}"]
    gossip = "none" if scales_by_noise(known) else known.gossip.lr_scaling  # that one adapts to any number of learners
    scaled = {"optim.lr_scaling": known.optim.lr_scaling, "gossip.lr_scaling": gossip}
    target += [f"{key}=none" for key, scaling in scaled.items() if scaling != "none"]
    if path:
        words = [f"preset={Path(path) / 'config.yaml'}"]
        target.append("run=runs/NAME")
    override(known, target)  # they are settings that there are
    return shlex.join(["gala", "train", *words, *target])


def _record(known: Config, wanted: Config, evidence: Evidence, found: Suggestion, typed: str) -> dict[str, Any]:
    from gala.build.learning import learning_rate
    from gala.optim.lr_scaling import rule_of

    numbers = {
        "lr": found.lr,
        "known_lr": learning_rate(known)(0.0),
        "gossip_growth": _gossip_growth(known, wanted),
        "known_envs": averaged_envs(known),
        "envs": averaged_envs(wanted),
        "rule": rule_of(known.optim.name),
        "by_rule": found.by_rule,
        "noise_cap": found.noise_cap,
        "curvature_cap": found.curvature_cap,
        "decided_by": found.decided_by,
        **{f"noise_{name}" if name in ("low", "high") else name: x for name, x in evidence._asdict().items()},
        "command": typed,
    }
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in numbers.items()}


def _lines(
    known: Config, wanted: Config, evidence: Evidence, found: Suggestion, typed: str, measured_steps: int
) -> list[str]:
    """What a person reads, each line of at most 80 columns but the command."""
    import textwrap

    r = _record(known, wanted, evidence, found, typed)
    gossip = "" if r["gossip_growth"] == 1 else f" x {r['gossip_growth']:.3g}"
    power = "in proportion" if r["rule"] == "linear" else "by the square root"
    rows = {
        "known": f"{r['known_lr']:.3g} with {known.optim.name} at {_shape(known)}",
        "wanted": f"for {_shape(wanted)}",
        "rule": f"{power}, as for {known.optim.name}: {r['known_lr']:.3g} x "
        f"({r['envs']}/{r['known_envs']}){'' if r['rule'] == 'linear' else '^0.5'}{gossip} = {found.by_rule:.3g}",
        "noise": _noise_text(evidence, found),
        "curvature": _curvature_text(known, evidence, found),
        "suggested": f"optim.lr={found.lr:.3g}, decided by the {found.decided_by}"
        + ("" if found.decided_by == "rule" else f" (less than the rule's {found.by_rule:.3g})"),
    }
    if measured_steps:
        rows["measured"] = (
            f"after {measured_steps:,} env_steps; noise grows as a policy learns, and a cap by "
            "noise with it: name a RUN that has learned to see that"
        )
    if known.optim.name == "ekfac" and known.ekfac.kl_limit:
        rows["note"] = f"ekfac.kl_limit={known.ekfac.kl_limit:g} shortens steps whatever the rate; it may decide"
    if gossip:
        rows["gossip"] = f"the{gossip} is gossip.lr_scaling's: the root of how many learners gossip"
    if averaged_envs(wanted) < wanted.learners * wanted.envs_per_learner:
        rows["counted"] = f"algo={wanted.algo}: learners do not average, so that each counts its own simulators only"
    wrapped = [
        textwrap.wrap(text, _WIDTH, initial_indent=f"{name:<11}", subsequent_indent=" " * 11)
        for name, text in rows.items()
    ]
    return [*(line for lines in wrapped for line in lines), "", typed]


def _shape(config: Config) -> str:
    learners = "1 learner" if config.learners == 1 else f"{config.learners} learners"
    return f"{learners} of {config.envs_per_learner} simulators"


def _noise_text(evidence: Evidence, found: Suggestion) -> str:
    if not math.isfinite(evidence.noise_scale):
        return "no signal shows above the noise of the gradient: the noise scale is too large to cap"
    spread = f"{evidence.low:.3g} to {evidence.high:.3g}" if math.isfinite(evidence.high) else f"{evidence.low:.3g} up"
    return (
        f"noise and signal of the gradient are equal with {evidence.noise_scale:.3g} simulators ({spread}); more of "
        f"them are worth a rate of at most {found.noise_cap:.3g}"
    )


def _curvature_text(known: Config, evidence: Evidence, found: Suggestion) -> str:
    if known.optim.name == "ekfac":
        return "not asked: ekfac's steps are of the natural gradient"
    if math.isnan(evidence.sharpness):
        return f"not known: how {known.optim.name} scales gradients is its own"
    if evidence.sharpness <= 0:
        return "no upward curvature was found: no cap"
    from gala.optim.lr_scaling import stable_product

    limit = stable_product(gradient_memory(known))
    text = f"largest eigenvalue {evidence.sharpness:.3g} as {known.optim.name} scales gradients: {limit:.3g} / this is "
    text += f"{limit / evidence.sharpness:.3g}"
    if math.isfinite(found.curvature_cap):
        return f"{text}, at which a step along it overshoots"
    return f"{text}; the known rate trains beyond it, so that it is no cap"
