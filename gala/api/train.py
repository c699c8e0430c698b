"""``gala train``, called from Python."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gala.api.run import Run
from gala.plugins import loading, naming

if TYPE_CHECKING:
    import numpy as np

    from gala.config.schema import Config
    from gala.training.callbacks import Callbacks


def train(
    preset: str = "",
    *,
    on_record: Callable[[dict[str, Any]], object] | None = None,
    on_checkpoint: Callable[[Path], object] | None = None,
    **settings: Any,
) -> Run:
    """Train as ``gala train`` does, and return the run when it has ended.

        gala.train("classic/cartpole", learners=4, optim={"lr": 1e-3}, run="runs/mine")
        gala.train("classic/cartpole", learners=4, **{"optim.lr": 1e-3}, run="runs/mine")

    Works in a script, under ``if __name__ == "__main__"`` or not, in a notebook, in ``python -c`` and on stdin: learner
    processes do not run the main script again. Only if something that they need is defined there (see
    ``gala.register``) do they run it, up to this call.

    Ctrl-C works as on the command line: the first ends the run in order, with a checkpoint and a summary, and then
    raises KeyboardInterrupt here; a second one kills. In another thread than the main one Ctrl-C is not seen.

    Args:
        preset: a name that ``gala presets`` lists, or the path of a .yaml file; empty: the defaults.
        on_record: called with each metric record, as in metrics.jsonl (tags and numbers; ``learner<i>`` holds those of
            one learner), about every ``log.interval_s`` seconds.
        on_checkpoint: called with the path of each checkpoint that is complete, whose last part is its name for
            ``Run.load``: latest, best, or step and a number.
        settings: every setting of ``gala train --help``, by its name, groups as nested dicts or with dots in the key.
            For ``model.encoder``, ``env.id``, ``gossip.topology`` and ``optim.name`` an object of your own will do.

    The callbacks are called in this thread beside the training, which never waits for them: records that come meanwhile
    are kept, and told in order. Once the run is closed they have ten more seconds, after a signal one; then a line
    counts what was not told, and one that still runs is interrupted, if this is the main thread. One that returns False
    is not called again, and ends the run in order. One that raises does so too, and the exception is raised here.

    Raises:
        ValueError: a setting is wrong, in the words of the command line, before anything starts; or this process may
            not start others.
        RunFailed: the training has failed; the text is what the command prints.
        KeyboardInterrupt, SystemExit: Ctrl-C, or SIGTERM, SIGHUP, SIGQUIT or SIGUSR1 (code 128 + number) has ended the
            run, in order; ``gala.Run(path)`` opens what there is of it.
    """
    loading.stop_if_imported()
    _check_callbacks(on_record=on_record, on_checkpoint=on_checkpoint)
    _refuse_to_start_here()
    words = words_of({"preset": preset, **settings} if preset else settings)
    from gala.training.callbacks import Callbacks
    from gala.training.new_run import prepare

    return _train(prepare(words), words, Callbacks(on_record, on_checkpoint))


def _train(config: Config, words: Sequence[str], callbacks: Callbacks) -> Run:
    from gala.processes.output import forgiving_output
    from gala.training import supervisor
    from gala.training.advice import advice
    from gala.training.new_run import open_new, say
    from gala.training.telemetry import closing_lines, saved_steps

    for line in advice(config):
        say(line)
    supervisor.connect_cluster(config)
    run_dir = open_new(config, words)
    with forgiving_output():
        summary = supervisor.run_training(run_dir.config, run_dir, callbacks=callbacks)
        print(
            "\n".join(closing_lines(summary, str(run_dir.path), saved_steps(run_dir), run_dir.config.log.tensorboard))
        )
    _raise_signal(summary["signal"])
    return Run(run_dir.path, trust=True)  # all that it names has just been imported


def _check_callbacks(**callbacks: Any) -> None:
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise ValueError(f"{name}={callback!r} must be a function")


def _raise_signal(name: str | None) -> None:
    """What a program without a handler for the signal would have met."""
    if name == "SIGINT":
        raise KeyboardInterrupt
    if name:
        raise SystemExit(128 + signal.Signals[name])


def words_of(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``{"optim": {"lr": 1e-3}, "seed": 3}`` -> ["optim.lr=0.001", "seed=3"], as typed on the command line."""
    words: list[str] = []
    for key, value in settings.items():
        if not isinstance(key, str):
            raise ValueError(f"{prefix}{key!r} is not the name of a setting: names are texts")
        if isinstance(value, Mapping):
            words += words_of(value, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={_text(prefix + key, value)}")
    return words


def _text(key: str, value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return ",".join(_text(key, item) for item in value)
    if hasattr(value, "item"):  # a number of NumPy or torch
        value = _as_number(value)
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if key in naming.SETTINGS.values():
        return naming.path_of(value)
    raise ValueError(f"{key}={value!r}: a setting is a number, a text, true or false, or a list of these")


def _as_number(value: np.generic) -> Any:
    return value.item()


def _refuse_to_start_here() -> None:
    """Raises ValueError where multiprocessing would fail, or start processes without end."""
    process = multiprocessing.current_process()
    if not hasattr(os, "setpgid"):
        raise ValueError("gala needs Linux or macOS: learners lead process groups, which this system does not have")
    if process.daemon:
        raise ValueError("gala.train starts processes, which a daemonic process may not; call it from another process")
    if getattr(process, "_inheriting", False):
        raise ValueError(
            "gala.train was called while multiprocessing imports the main script for a child of yours; put what must "
            "run once under: if __name__ == '__main__':"
        )
