"""Collect T steps from a batch of simulators into preallocated buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.rl.normalise import ObsNormalizer


class Outputs(Protocol):
    """``params [..., P]`` of the action distribution, ``value [...]``, the next recurrent ``state [B, H]``."""

    @property
    def params(self) -> Tensor: ...
    @property
    def value(self) -> Tensor: ...
    @property
    def state(self) -> Tensor: ...


class Policy(Protocol):
    """What the loop needs of a network; ``gala.models.actor_critic.ActorCritic`` is one."""

    def __call__(self, obs: Tensor, state: Tensor, first: Tensor, with_value: bool = True) -> Outputs: ...
    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Outputs: ...
    def stack(self, steps: Sequence[Any]) -> Outputs: ...
    def act(self, params: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor: ...
    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> Tensor: ...
    def auxiliary_loss(self, obs: Tensor, action: Tensor, reward: Tensor, known: Tensor) -> Tensor | None: ...


@dataclass
class Rollout:
    """T steps of B rows. Reused: valid until the next ``collect``.

    obs [T, B, ...], first [T, B] (obs opens an episode), action [T, B, ...], reward [T, B] as learned from,
    terminated, truncated, valid [T, B] bool, v_final [T, B] (value of an episode's true last observation where it was
    truncated, else 0), state [B, H] before the first step, last_value [B]. acting: the outputs [T, B] of the passes
    that chose the actions, with their graph, or None if the graph was not kept.
    """

    obs: Tensor
    first: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    v_final: Tensor
    state: Tensor
    last_value: Tensor
    acting: Outputs | None = None


class Episodes(NamedTuple):
    """Whole episodes that ended during a rollout: undiscounted, unclipped returns and lengths in decisions."""

    returns: list[float]
    lengths: list[int]


class Collector:
    """Owns the simulators' side of a learner: the current observation, the recurrent state, the buffers.

    ``shape_reward(reward, done, valid) -> reward`` is what learning sees; episode returns stay the environment's own.
    ``keep_graph``: the acting passes can be differentiated, so that learning needs no pass of its own; costs the
    memory of their activations.
    """

    def __init__(
        self,
        env: Any,
        num_steps: int,
        *,
        device: torch.device,
        generator: torch.Generator,
        normalizer: ObsNormalizer | None,
        shape_reward: Callable[[NDArray, NDArray, NDArray], NDArray],
        keep_graph: bool = False,
    ) -> None:
        self.env, self.num_steps, self.device, self.generator = env, num_steps, device, generator
        self.normalizer, self.shape_reward, self.keep_graph = normalizer, shape_reward, keep_graph
        self.simulate_s = self.act_s = 0.0
        self._buffers: Rollout | None = None

    def reset(self, policy: Policy, seed: int) -> None:
        """Start all simulators anew."""
        obs = self._observe(self.env.reset(seed))
        n, t, on = self.env.num_envs, self.num_steps, self.device
        action = policy.act(
            policy(obs, policy.initial_state(n, on), torch.ones(n, dtype=torch.bool, device=on)).params, greedy=True
        )
        flags = [torch.zeros(t, n, dtype=torch.bool, device=on) for _ in range(4)]
        self._buffers = Rollout(
            obs=torch.empty((t, *obs.shape), dtype=obs.dtype, device=on),
            first=flags[0],
            action=torch.empty((t, *action.shape), dtype=action.dtype, device=on),
            reward=torch.zeros(t, n, device=on),
            terminated=flags[1],
            truncated=flags[2],
            valid=flags[3],
            v_final=torch.zeros(t, n, device=on),
            state=policy.initial_state(n, on),
            last_value=torch.zeros(n, device=on),
        )
        self._obs, self._state = obs, policy.initial_state(n, on)
        self._first = torch.ones(n, dtype=torch.bool, device=on)

    def _observe(self, obs: NDArray, learn: bool = True) -> Tensor:
        if obs.dtype.kind == "f":
            _check_finite("observation", obs)
        if self.normalizer is not None:
            if learn:
                self.normalizer.update(obs)
            obs = self.normalizer(obs)
        return torch.from_numpy(np.ascontiguousarray(obs)).to(self.device)

    @torch.no_grad()
    def collect(self, policy: Policy) -> tuple[Rollout, Episodes]:
        """Act for T steps with ``policy``; also times the simulators (``simulate_s``) and the network (``act_s``)."""
        assert self._buffers is not None, "call reset first"
        r = self._buffers
        r.state, episodes, acting = self._state, Episodes([], []), []
        for t in range(self.num_steps):
            started = time.perf_counter()
            r.obs[t], r.first[t] = self._obs, self._first
            with torch.set_grad_enabled(self.keep_graph):
                out = policy(self._obs, self._state, self._first, with_value=self.keep_graph)
            acting.append(out)
            action = policy.act(out.params, greedy=False, generator=self.generator)
            r.action[t] = action
            numpy_action = action.cpu().numpy()
            acted = time.perf_counter()
            step = self.env.step(numpy_action)
            self.simulate_s += time.perf_counter() - acted
            self.act_s += acted - started
            self._record(t, step, out.state, policy)
            if step.episode_over.any():
                episodes.returns.extend(step.episode_return[step.episode_over].tolist())
                episodes.lengths.extend(step.episode_length[step.episode_over].tolist())
        r.last_value = policy(self._obs, self._state, self._first).value
        with torch.set_grad_enabled(self.keep_graph):
            r.acting = policy.stack(acting) if self.keep_graph else None
        self._state = self._state.detach()
        return r, episodes

    def _record(self, t: int, step: Any, state: Tensor, policy: Policy) -> None:
        r = self._buffers
        assert r is not None
        done = step.terminated | step.truncated
        _check_finite("reward", step.reward)
        r.reward[t] = torch.from_numpy(self.shape_reward(step.reward, done, step.valid))
        r.terminated[t] = torch.from_numpy(step.terminated)
        r.truncated[t] = torch.from_numpy(step.truncated)
        r.valid[t] = torch.from_numpy(step.valid)
        r.v_final[t] = 0.0
        time_limit = np.flatnonzero(step.truncated & ~step.terminated)
        if len(time_limit):
            rows = torch.from_numpy(time_limit).to(self.device)
            ended_in = self._observe(step.final_obs[time_limit], learn=False)
            not_first = torch.zeros(len(time_limit), dtype=torch.bool, device=self.device)
            r.v_final[t, rows] = policy(ended_in, state[rows], not_first).value
        self._obs, self._state = self._observe(step.obs), state
        self._first = torch.from_numpy(step.first).to(self.device)


def _check_finite(what: str, values: NDArray) -> None:
    """Raises FloatingPointError here, where the simulator can still be named, rather than as a loss that is NaN."""
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise FloatingPointError(f"the environment returned a {what} that is not finite, in row {row}")
