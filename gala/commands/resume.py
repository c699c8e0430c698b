"""``gala resume RUN``: continue from a checkpoint, with the settings that the run was started with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from gala.commands.trusted import check_run, is_yes
from gala.config import derived
from gala.config.own_words import asks_for_help
from gala.config.parse import override, split_settings
from gala.config.resumable import MAY_CHANGE, PATIENCE, PLACE_AND_PACE, WATCHING
from gala.config.schema import Config
from gala.config.validate import validate
from gala.runs.run_dir import RunDir
from gala.training.advice import advice
from gala.training.new_run import check_diagnosis, say, starting
from gala.training.tracking import check_tracker

USAGE = f"""usage: gala resume RUN [checkpoint=NAME] [schedule=hold|stretch|restart]
                   [trust=true] [key=value ...]

Continue RUN from checkpoint NAME, by default from latest, or else from the
newest that is whole; a run without one starts anew. steps=N extends it; where
the learning rate or the entropy coefficient decays, schedule=hold keeps their
end values, schedule=stretch lets them decay over all N steps, and
schedule=restart over those added. Records in metrics.jsonl and checkpoints that
are newer than it are dropped: those steps are lived through again. A newer best
is kept as given-up-best, to be evaluated.

May be changed: {", ".join(PLACE_AND_PACE)},
{", ".join(PATIENCE[:2])},
{", ".join(PATIENCE[2:])},
{", ".join(WATCHING[:3])},
{", ".join(WATCHING[3:6])},
{", ".join(WATCHING[6:])}."""

_OWN = ("checkpoint", "schedule", "trust")
_SCHEDULES = ("hold", "stretch", "restart")


def main(argv: Sequence[str]) -> int:
    """``RUN``, ``checkpoint=NAME``, ``schedule=NAME`` and settings from ``MAY_CHANGE``. Returns the exit
    status of the training."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    run_dir = RunDir.open(argv[0])
    own, rest = _split(argv[1:])
    check_run(run_dir, is_yes(own.get("trust", "false")), "resume", argv)
    _check_address(run_dir, rest)
    run_dir.claim()  # before anything is chosen: who trains here until then writes checkpoints and settings
    from gala.build.envs import remembering_spaces
    from gala.training import supervisor

    with remembering_spaces():
        try:
            run_dir.config = RunDir.open(run_dir.path).config
            config, name = _prepare(run_dir, own, rest)
        except BaseException:
            run_dir.close()
            raise
        return supervisor.train(config, run_dir, resume_from=name)


def _prepare(run_dir: RunDir, own: Mapping[str, str], words: Sequence[str]) -> tuple[Config, str]:
    """(settings, name of the checkpoint to go on from, or nothing); the run directory stands there afterwards. Raises
    ValueError, before it is changed."""
    from gala.build.envs import probe_spaces
    from gala.build.policy import make_policy, pick_device

    config = override(run_dir.config, words, MAY_CHANGE)
    _check_address(run_dir, words)
    config = dataclasses.replace(config, run=str(run_dir.path))  # the directory may have been moved
    validate(config)
    check_tracker(config.track)
    if config.cluster.address in ("", "local"):  # elsewhere, learners' machines may have what this one has not
        pick_device(config, 0)
    if config.diagnose != run_dir.config.diagnose:
        check_diagnosis(config, make_policy(config, probe_spaces(config)))
    from gala.training import restoring, supervisor

    name, lines = restoring.choose(run_dir, config, own.get("checkpoint", ""))
    done_steps = run_dir.checkpoint_meta(name)["env_steps"] if name else 0
    if config.steps <= done_steps:
        raise ValueError(f"{run_dir.path} has done {done_steps} of {config.steps} env_steps; add steps=N to go on")
    config = _extended(run_dir.config, config, done_steps, own.get("schedule", ""))
    supervisor.connect_cluster(config)
    if name:
        lines += restoring.give_up_newer(run_dir, name)  # first: what is cut off after it, it makes good the next time
    parent = run_dir.checkpoint_meta(name).get("parent", {}) if name else {}
    wanted = parent.get("elasticity", {}).get("wanted", config.learners)  # by `gala scale`
    lines += _held_at_nothing(config, done_steps)
    for line in (*lines, *advice(config), starting(dataclasses.replace(config, learners=wanted))):
        say(line)
    run_dir.replace_config(config)
    run_dir.rewind(done_steps if name else -1)
    return config, name


def _check_address(run_dir: RunDir, words: Sequence[str]) -> None:
    """Raises ValueError if the run names a cluster and the command line does not: a directory from somebody else must
    not decide where this machine connects to."""
    address = run_dir.config.cluster.address
    if address in ("", "auto", "local") or any(key == "cluster.address" for key, _ in split_settings(words)):
        return
    raise ValueError(
        f"{run_dir.path} was trained on the Ray cluster {address}; say where it goes on: cluster.address={address}, or "
        "cluster.address= for this machine alone"
    )


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(what is this command's own, settings of the run). Raises ValueError in one line."""
    given = split_settings(words)
    own = {key: text for key, text in given if key in _OWN}
    return own, [f"{key}={text}" for key, text in given if key not in _OWN]


def _held_at_nothing(config: Config, done_steps: int) -> list[str]:
    """A line if the learning rate is 0 from here to the end."""
    from gala.build.learning import learning_rate

    now = learning_rate(config)(derived.scheduled(config, done_steps / config.steps))
    if max(now, learning_rate(config)(1.0)) > 0.0:
        return []
    return ["warning: the learning rate is 0 from here on, nothing is learned; schedule=restart raises it"]


def _extended(before: Config, config: Config, done_steps: int, choice: str) -> Config:
    """The settings with the user's choice of what becomes of schedules. Raises ValueError if there is one to make."""
    from gala.build.learning import entropy_coefficient, learning_rate

    if choice and choice not in _SCHEDULES:
        raise ValueError(f"schedule={choice}: wants hold, stretch or restart")
    decays = {"learning rate": learning_rate, "entropy coefficient": entropy_coefficient}
    decays = {name: of for name, of in decays.items() if of(config)(0.0) != of(config)(1.0)}
    if not decays or not done_steps or (config.steps == before.steps and not choice):
        return config
    ends = {
        "hold": dataclasses.replace(config, schedule_to=before.schedule_to or before.steps),
        "stretch": dataclasses.replace(config, schedule_from=0, schedule_to=0),
        "restart": dataclasses.replace(config, schedule_from=done_steps, schedule_to=0),
    }
    if choice:
        return ends[choice]
    name, of = next(iter(decays.items()))
    now = of(before)(derived.scheduled(before, min(1.0, done_steps / before.steps)))
    values = {key: of(new)(derived.scheduled(new, done_steps / new.steps)) for key, new in ends.items()}
    raise ValueError(
        f"the {name} has decayed to {now:.3g} at {done_steps:,} of {before.steps:,} env_steps; say how it goes on: "
        f"schedule=hold (towards {of(config)(1.0):.3g}), schedule=stretch (jumps to {values['stretch']:.3g}) or "
        f"schedule=restart (jumps to {values['restart']:.3g})"
    )
