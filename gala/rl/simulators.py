"""What this package wants of simulators; ``gala_envs.contract`` says what they promise."""

from __future__ import annotations

from typing import Protocol

from numpy.typing import NDArray


class Stepped(Protocol):
    """What one step of B simulators led to: see ``gala_envs.contract.Step``."""

    @property
    def obs(self) -> NDArray: ...

    @property
    def reward(self) -> NDArray: ...

    @property
    def terminated(self) -> NDArray: ...

    @property
    def truncated(self) -> NDArray: ...

    @property
    def first(self) -> NDArray: ...

    @property
    def valid(self) -> NDArray: ...

    @property
    def final_obs(self) -> NDArray | None: ...

    @property
    def episode_over(self) -> NDArray: ...

    @property
    def episode_return(self) -> NDArray: ...

    @property
    def episode_length(self) -> NDArray: ...


class Playable(Protocol):
    """What a policy plays on: a ``gala_envs.contract.BatchedEnv``, or what records one."""

    num_envs: int

    def reset(self, seed: int | None = None) -> NDArray:
        """Start all rows anew. Returns obs [B, ...]."""
        ...

    def step(self, actions: NDArray) -> Stepped:
        """Advance every row by one decision."""
        ...


class Group(Protocol):
    """Some of a learner's simulators, which step while the network acts for others: see ``gala_envs.groups``."""

    @property
    def rows(self) -> slice:
        """Their place among all rows."""
        ...

    def reset(self, seed: int) -> NDArray: ...

    def send(self, actions: NDArray) -> None:
        """Begin a step."""
        ...

    def recv(self) -> Stepped:
        """The step that was begun; waits for it."""
        ...


class Whole:
    """All simulators as one group, which steps when it is asked for the result."""

    def __init__(self, env: Playable) -> None:
        self.env, self.rows = env, slice(0, env.num_envs)

    def reset(self, seed: int) -> NDArray:
        return self.env.reset(seed)

    def send(self, actions: NDArray) -> None:
        self._actions = actions

    def recv(self) -> Stepped:
        return self.env.step(self._actions)
