"""The highest rate of A2C that this machine could reach: its simulators, forward and backward passes, each alone at its
best.

One env_step needs one decision of a simulator, one forward and one backward pass of one observation, whatever the
algorithm. Whole-machine rates of each part, at the best of a few batch sizes and splits into threads and processes, add
up as times do: 1 / (1 / simulate + 1 / forward + 1 / backward). Two parts that use different units of a core at the
same time could beat this; moving data, gossip and the optimiser are on top.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing as mp
from gala_envs.parts import num_mask

from gala.build.envs import make_env, probe_spaces, random_actions
from gala.build.policy import make_policy, pick_device
from gala.config.schema import Config
from gala.processes.resources import available_cores, keep_freed_memory

PARTS = ("simulate", "forward", "backward")
BATCHES = {"simulate": (16, 64), "network": (16, 64, 320)}
"""Simulators gain little from larger batches, and some take long to build."""
TRIAL_S, PATIENCE_S = 1.0, 120.0
_MAKE_S = 0.05  # a first turn, so that all processes then work at the same time


class Setting(NamedTuple):
    """So many processes at a time, each with so many threads and a batch of so many rows."""

    processes: int
    threads: int
    batch: int


@dataclass(frozen=True)
class Ceiling:
    """What a round found. ``core_s``: seconds of one core per env_step of each part, all cores being busy."""

    core_s: dict[str, float]
    cores: int

    @property
    def env_steps_per_s(self) -> float:
        return self.cores / sum(self.core_s.values())


class Roofline:
    """Processes that wait for a part to measure; they use no core while they wait."""

    def __init__(self, config: Config) -> None:
        self.cores = available_cores()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        context = mp.get_context("spawn")
        self._workers, self._pipes = [], []
        for _ in range(self.cores):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(theirs, config), daemon=True)
            worker.start()
            theirs.close()
            self._workers.append(worker)
            self._pipes.append(ours)
        for pipe in self._pipes:
            _answer(pipe)
        tried = {kind: self._try(kind) for kind in _MAKERS}
        self.best = {part: _best(tried[_KIND[part]], part) for part in PARTS}
        self.measure(_MAKE_S)

    def measure(self, seconds: float) -> Ceiling:
        """Each part in turn, ``seconds`` in all."""
        each = {part: self._core_s(_KIND[part], self.best[part], seconds / len(PARTS)) for part in PARTS}
        return Ceiling({part: each[part][part] for part in PARTS}, self.cores)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.join()

    def _try(self, kind: str) -> dict[Setting, dict[str, float]]:
        tried = {}
        for setting in settings(self.cores, BATCHES[kind]):
            self._core_s(kind, setting, _MAKE_S)
            tried[setting] = self._core_s(kind, setting, TRIAL_S)
        return tried

    def _core_s(self, kind: str, setting: Setting, seconds: float) -> dict[str, float]:
        """Seconds of a core per row and part, of all processes that worked at the same time."""
        pipes = self._pipes[: setting.processes]
        for pipe in pipes:
            pipe.send((kind, setting, seconds))
        answers = [_answer(pipe) for pipe in pipes]
        rows = sum(answer.pop("rows") for answer in answers)
        return {part: setting.threads * sum(a[part] for a in answers) / rows for part in answers[0]}


def settings(cores: int, batches: Iterable[int]) -> list[Setting]:
    """One process with all cores, one process per core, and what lies between on larger machines."""
    splits = sorted({1, cores, *(n for n in (2, 4, 8, 16) if cores % n == 0 and n < cores)})
    return [Setting(n, cores // n, batch) for n, batch in itertools.product(splits, batches)]


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE_S):
        raise TimeoutError(f"a process of the roofline gave no answer in {PATIENCE_S:g} s")
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("a process of the roofline was killed; is there enough memory?") from None
    if isinstance(answer, str):
        raise RuntimeError(f"a process of the roofline failed\n{answer}")
    return answer


def _serve(pipe: Connection, config: Config) -> None:
    """Life of a worker: simulators and networks are kept from call to call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes; the owner decides
    made: dict[Any, Any] = {}
    keep_freed_memory()
    try:
        pipe.send({})
        while True:
            kind, setting, seconds = pipe.recv()
            key = (kind, setting)
            if key not in made:
                made[key] = _MAKERS[kind](config, setting)
            pipe.send(made[key].work(seconds))
    except EOFError:
        pass
    except Exception:
        with contextlib.suppress(OSError):
            pipe.send(traceback.format_exc())


class _Simulators:
    """Random actions, chosen before the clock runs unless masks decide which."""

    def __init__(self, config: Config, setting: Setting) -> None:
        config = replace(config, env=replace(config.env, threads=setting.threads, watchdog_s=1e6))
        self._env, self._rows = make_env(config, setting.batch), setting.batch
        space = self._env.action_space
        space.seed(0)
        obs = self._env.reset(0)
        self._masked = bool(num_mask(self._env.obs_space))
        self._plan = itertools.cycle([random_actions(self._env, obs) for _ in range(1 if self._masked else 64)])

    def work(self, seconds: float) -> dict[str, float]:
        for _ in range(3):
            self._step()
        rows, started = 0, time.perf_counter()
        while (now := time.perf_counter()) < started + seconds:
            self._step()
            rows += self._rows
        return {"simulate": now - started, "rows": rows}

    def _step(self) -> None:
        obs = self._env.step(next(self._plan)).obs
        if self._masked:
            self._plan = itertools.cycle([random_actions(self._env, obs)])


class _Network:
    """Forward and backward passes of the policy over observations of a random play."""

    def __init__(self, config: Config, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        self._threads, spaces = setting.threads, probe_spaces(config)
        self._device = pick_device(config, 0)
        self._policy = make_policy(config, spaces).to(self._device)
        spaces.obs.seed(0)
        obs = np.stack([spaces.obs.sample() for _ in range(setting.batch)])
        if obs.dtype.kind == "f":
            obs = np.nan_to_num(np.clip(obs, -1, 1)).astype(np.float32)
        self._obs, self._rows = torch.from_numpy(obs).to(self._device), setting.batch

    def work(self, seconds: float) -> dict[str, float]:
        torch.set_num_threads(self._threads)
        state = self._policy.initial_state(self._rows, self._device)
        first = torch.zeros(self._rows, dtype=torch.bool, device=self._device)
        forward = backward = rows = 0.0
        for warm in (True, False):
            forward = backward = rows = 0.0
            end = time.perf_counter() + (0.1 * seconds if warm else seconds)
            while (started := time.perf_counter()) < end:
                out = self._policy(self._obs, state, first)
                loss = out.params.square().sum() + out.value.square().sum()
                self._wait()
                middle = time.perf_counter()
                loss.backward()
                self._wait()
                done = time.perf_counter()
                forward, backward, rows = forward + middle - started, backward + done - middle, rows + self._rows
        return {"forward": forward, "backward": backward, "rows": rows}

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


_MAKERS: dict[str, Any] = {"simulate": _Simulators, "network": _Network}
_KIND = {"simulate": "simulate", "forward": "network", "backward": "network"}


def _best(tried: dict[Setting, dict[str, float]], part: str) -> Setting:
    return min(tried, key=lambda setting: tried[setting][part])


def average(ceilings: Iterable[Ceiling]) -> Ceiling:
    """Medians of each part over rounds."""
    measured = list(ceilings)
    parts = {part: float(np.median([c.core_s[part] for c in measured])) for part in PARTS}
    return Ceiling(parts, measured[0].cores)
