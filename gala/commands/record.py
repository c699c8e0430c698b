"""``gala record RUN``: a trained policy's episodes as frames, actions and rewards on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gala.commands.trusted import check_run
from gala.config.bounds import AT_LEAST_ONE, NOT_NEGATIVE, Bound, bounded, check_bounds
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_options
from gala.runs.run_dir import RunDir

USAGE = """usage: gala record RUN [episodes=200] [out=rollouts] [mode=sampled|greedy]
                   [checkpoint=latest|best|NAME] [learner=consensus|K]
                   [seed=2000] [size=42] [device=auto|cpu|cuda]
                   [env.contexts=FILE] [env.sticky_actions=P]
                   [env.max_episode_steps=N] [trust=true]

Plays whole episodes and writes frames, actions, rewards, starts and context ids
into out, in compressed chunks with hashes; its README.md says how to read them.
size: pictures of 256 values (Atari) are averaged down to so many pixels a side;
0 leaves them as they are. The same command goes on with what was interrupted,
or with more episodes."""


@dataclass(frozen=True)
class EnvOptions:
    """What of the environment may be another than in training."""

    contexts: str = ""
    """Families: the file of other MDPs, a test set say; empty keeps the run's own."""
    sticky_actions: float = bounded(-1.0, Bound(lambda v: v == -1 or 0 <= v <= 1, "0 to 1, or -1 for the run's own"))
    max_episode_steps: int = bounded(0, NOT_NEGATIVE)
    """Agent decisions; 0 keeps the run's own limit."""


@dataclass(frozen=True)
class RecordOptions:
    """What ``gala record`` accepts."""

    episodes: int = bounded(200, AT_LEAST_ONE)
    out: str = bounded("rollouts", Bound(bool, "a directory"))
    mode: Literal["sampled", "greedy"] = "sampled"
    checkpoint: str = "latest"
    learner: str = "consensus"
    seed: int = bounded(2000, NOT_NEGATIVE)
    """Far from the seeds of training and of `gala eval`."""
    size: int = bounded(42, Bound(lambda v: v == 0 or v >= 8, "0 or at least 8"))
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust: bool = False
    """Import the code that the run names, whoever has made it."""
    env: EnvOptions = field(default_factory=EnvOptions)


def main(argv: Sequence[str]) -> int:
    """``RUN`` and the settings of ``RecordOptions``. Returns 0, or 128 + the number of the signal that ended it."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0
    options = parse_options(RecordOptions, argv[1:])
    check_bounds(options)
    run_dir = RunDir.open(argv[0])
    check_run(run_dir, options.trust, "record", argv)
    from gala.evaluation.evaluate import check_request, named_learner
    from gala.evaluation.record import Recording

    learner = named_learner(options.learner)
    check_request(run_dir, options.checkpoint, learner, options.episodes, options.seed)
    names = ("episodes", "checkpoint", "mode", "seed", "size", "device")
    asked = Recording(learner=learner, **{name: getattr(options, name) for name in names})
    env = {k: v for k, v in dataclasses.asdict(options.env).items() if v not in ("", -1.0) and (k, v) != _NO_LIMIT}
    changed = dataclasses.replace(run_dir.config, env=dataclasses.replace(run_dir.config.env, **env))
    return _record(RunDir(run_dir.path, changed), Path(options.out), asked)


_NO_LIMIT = ("max_episode_steps", 0)


class _Stopped(Exception):
    """The user has asked for an end."""


def _record(run_dir: RunDir, out: Path, asked: object) -> int:
    from gala.evaluation.record import Recording, record_run
    from gala.runs.lock import lock
    from gala.runs.rollout_writer import refuse_foreign
    from gala.runs.writable import make_folder
    from gala.training.signals import EndRequest

    assert isinstance(asked, Recording)
    request, done = EndRequest(), 0

    def look(episodes: int, decisions: int) -> None:
        if request.signal is not None:
            raise _Stopped

    new = not out.exists()
    refuse_foreign(out)  # before a lock is put into it
    make_folder(out)
    try:
        with lock(out), request.listen():
            for done in record_run(run_dir, out, asked, look):
                print(f"{out}: {done} of {asked.episodes} episodes", flush=True)
                look(0, 0)
    except _Stopped:
        print(f"stopped after {done} of {asked.episodes} episodes; the same command goes on", flush=True)
    finally:
        if new and not (out / "rollouts.json").exists():
            _remove_empty(out)
    return 0 if request.signal is None else 128 + request.signal


def _remove_empty(out: Path) -> None:
    """What a refused recording would leave behind: a folder with a lock in it."""
    (out / ".lock").unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()
