"""Simulators in groups that take turns: one group steps while the network acts for another."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Any

from gala_envs.contract import Array, BatchedEnv, Step


class Group:
    """One group: ``send`` its actions, and ``recv`` later what they led to. ``rows``: its place among all rows."""

    SAVED = ("env",)

    def __init__(self, env: BatchedEnv, start: int) -> None:
        self.env, self.rows = env, slice(start, start + env.num_envs)
        self._thread = ThreadPoolExecutor(1, "simulate")
        self._step: Future[Step] | None = None

    def reset(self, seed: int | None) -> Array:
        """The first observations [rows, ...]; a step that is still under way is waited for, and forgotten."""
        if self._step is not None:
            self._step.exception()
            self._step = None
        return self.env.reset(seed)

    def send(self, actions: Array) -> None:
        """Begin a step, in a thread of the group's own."""
        assert self._step is None, "this group is stepping already"
        self._step = self._thread.submit(self.env.step, actions)

    def recv(self) -> Step:
        """The step that was begun; waits for it. Raises what ``BatchedEnv.step`` raises."""
        assert self._step is not None, "nothing was sent to this group"
        step, self._step = self._step, None
        return step.result()

    def close(self) -> None:
        self._thread.shutdown()
        self.env.close()


class GroupedEnv:
    """``groups`` of one task's simulators, stepped group by group; all else is read from the first of them."""

    SAVED = ("groups",)

    def __init__(self, envs: Sequence[BatchedEnv]) -> None:
        *starts, self.num_envs = accumulate((env.num_envs for env in envs), initial=0)
        self.groups = [Group(env, start) for env, start in zip(envs, starts, strict=True)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.groups[0].env, name)

    def close(self) -> None:
        for group in self.groups:
            group.close()
