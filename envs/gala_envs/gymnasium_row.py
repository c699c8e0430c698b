"""One row of a batch of Gymnasium's, in the process that owns the batch or in one of its own."""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from gala_envs.contract import EnvError
from gala_envs.masks import num_choices, read_mask
from gala_envs.spaces import action_adapter
from gala_envs.trial import fault_of_step, told

_IN_MEMORY = hasattr(os, "memfd_create")


class Row:
    """One simulator. Its failures name the row and keep the original traceback as text, across processes too.

    The original exception must not cross: one that does not pickle leaves Gymnasium waiting for it for ever.
    """

    def __init__(self, env: gym.Env, row: int, name: str, masked: bool) -> None:
        """``masked``: observations become {"obs": ..., "mask": of the actions that it allows}."""
        self._env, self.name = env, f"{name}, row {row}"
        self.last: Any = None
        """What ``step`` has returned."""
        self._choices = num_choices(action_adapter(env.action_space, name)[0]) if masked else ()
        if self._choices:
            mask = gym.spaces.MultiBinary(sum(self._choices))
            self.observation_space = gym.spaces.Dict({"obs": env.observation_space, "mask": mask})

    @property
    def simulator(self) -> gym.Env:
        return self._env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, **kwargs: Any) -> Any:
        result = self._call(self._env.reset, **kwargs)
        return result if not self._choices else (self._with_mask(*result), result[1])

    def step(self, action: Any) -> Any:
        self.last = self._call(self._env.step, action)
        try:
            obs, reward, terminated, truncated, info = self.last
            over = bool(terminated or truncated)
        except (TypeError, ValueError):
            raise EnvError(f"{self.name}: {fault_of_step(self.last, self._env.observation_space)}") from None
        if over:
            # The reset that follows in the same call may write into the array that this observation lies in.
            obs = copy.deepcopy(obs)
        if self._choices:
            obs = self._with_mask(obs, info, over)
        return obs, reward, terminated, truncated, info

    def _with_mask(self, obs: Any, info: dict[str, Any], over: bool = False) -> dict[str, Any]:
        try:
            return {"obs": obs, "mask": read_mask(self._env, info, self._choices, over).astype(np.int8)}
        except ValueError as error:
            raise EnvError(f"{self.name}: {error}") from None

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except (Exception, SystemExit) as error:
            what = f"{method.__name__}()"
            own = error.__traceback__.tb_next if error.__traceback__ else None  # past this frame of ours
            lines = "".join(traceback.format_exception(error.with_traceback(own) if own else error)).rstrip()
            text = f"{self.name}: {what} raised {told(error, what)}\n{lines}"
        raise EnvError(text)


class CrashFile(NamedTuple):
    """How a row's own process finds the file of its ``LastWords``: a fork has it open already, and others may see it as
    a path, unless the system forbids that (a process that changed its user hides its descriptors)."""

    descriptor: int
    identity: tuple[int, int]
    """Device and inode: in a process that is no fork the descriptor's number means another file, or none."""
    path: str

    def open(self) -> Any:
        with contextlib.suppress(OSError):
            its = os.fstat(self.descriptor)
            if (its.st_dev, its.st_ino) == self.identity:
                return self.descriptor
        return open(self.path, "wb", buffering=0)


class LastWords:
    """What a row's own process tells when it crashes in C code, told here and not on standard error: there, the words
    of two that crash at once are mixed letter by letter."""

    def __init__(self) -> None:
        """Without room for temporary files they are told on standard error after all, and so are those of processes
        that are no forks where the system does not show descriptors as files (macOS)."""
        self._file, self.told_to = None, None
        with contextlib.suppress(OSError):
            # Open as long as the process that writes to it; memory where there is such, for a disk may be full.
            self._file = os.fdopen(os.memfd_create("crash"), "rb") if _IN_MEMORY else tempfile.TemporaryFile()  # noqa: SIM115
            number = self._file.fileno()
            its = os.fstat(number)
            self.told_to = CrashFile(number, (its.st_dev, its.st_ino), f"/proc/{os.getpid()}/fd/{number}")

    def read(self) -> str:
        """Empty if it did not crash, or told it elsewhere."""
        if self._file is None:
            return ""
        self._file.seek(0)
        return self._file.read().decode(errors="replace").strip()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def row_builder(
    row: int,
    name: str,
    build: Callable[[], gym.Env],
    max_episode_steps: int,
    masked: bool,
    crash_file: CrashFile | None = None,
) -> Callable[[], Any]:
    """Makes ``Row`` number ``row`` of the environment that ``build`` makes, in this process or in one of its own, which
    tells of crashes to ``crash_file``: ``LastWords``."""
    owner = os.getpid()

    def make() -> Any:
        if os.getpid() != owner:
            # Ctrl-C reaches the whole process group, and a fork inherits its owner's handlers; the owner decides.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _tell_of_crashes(crash_file)
        env = build()
        if max_episode_steps:
            env = gym.wrappers.TimeLimit(_without_time_limit(env), max_episode_steps)
        return Row(env, row, name, masked)

    return make


def _tell_of_crashes(to: CrashFile | None) -> None:
    """A crash in C code then tells where Python stood."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # standard error may be no file
        try:
            file = to.open() if to else sys.stderr
        except OSError:
            file = sys.stderr
        faulthandler.enable(file)


def _without_time_limit(env: gym.Env) -> gym.Env:
    return env.env if isinstance(env, gym.wrappers.TimeLimit) else env
