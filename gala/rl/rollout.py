"""Collect T steps from a batch of simulators into preallocated buffers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.optim.update import NotFinite
from gala.rl.buffers import buffers_kept, running_statistics
from gala.rl.normalise import ObsNormalizer
from gala.rl.simulators import Group, Playable, Whole


class Outputs(Protocol):
    """``params [..., P]`` of the action distribution, ``value [...]``, the next recurrent ``state [B, H]``."""

    @property
    def params(self) -> Tensor: ...
    @property
    def value(self) -> Tensor: ...
    @property
    def state(self) -> Tensor: ...


class ActionDistribution(Protocol):
    """What the loss needs of a family of distributions; ``gala.models.distributions.Distribution`` is one."""

    @property
    def sample(self) -> Callable[[Tensor, torch.Generator | None], Tensor]: ...
    @property
    def log_prob(self) -> Callable[[Tensor, Tensor], Tensor]: ...
    @property
    def entropy(self) -> Callable[[Tensor], Tensor]: ...
    @property
    def fisher_root(self) -> Callable[[Tensor], Tensor]: ...


class Policy(Protocol):
    """What the loop needs of a network; ``gala.models.actor_critic.ActorCritic`` is one."""

    @property
    def distribution(self) -> ActionDistribution: ...

    def __call__(self, obs: Tensor, state: Tensor, first: Tensor, with_value: bool = True) -> Outputs: ...
    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Outputs: ...
    def stack(self, groups: Sequence[Sequence[Any]]) -> Outputs: ...
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
    rows: list[int]
    """The simulator that played each."""


class _Slot(NamedTuple):
    """The place in the buffers of one step of one group: views, made once, since indexing takes longer than copying."""

    obs: Tensor
    first: Tensor
    action: Tensor
    v_final: Tensor


@dataclass
class _Turn:
    """Where a group of simulators stands: what the policy reads next, and its outputs so far in this rollout."""

    group: Group
    obs: Tensor
    state: Tensor
    first: Tensor
    outputs: list[Outputs]
    slots: list[_Slot] = field(default_factory=list)


class Collector:
    """Owns the simulators' side of a learner: the current observation, the recurrent state, the buffers.

    ``env``: a batched environment, or one that has ``groups`` (``rows``, ``reset``, ``send``, ``recv`` each), of which
    one simulates while the network acts for another. ``shape_reward(reward, done, valid) -> reward`` is what learning
    sees; episode returns stay the environment's own. ``keep_graph``: the acting passes can be differentiated, so that
    learning needs no pass of its own; costs the memory of their activations. ``keep_values``: their values too.
    """

    def __init__(
        self,
        env: Playable,
        num_steps: int,
        *,
        device: torch.device,
        generator: torch.Generator,
        normalizer: ObsNormalizer | None,
        shape_reward: Callable[[NDArray, NDArray, NDArray], NDArray],
        keep_graph: bool = False,
        keep_values: bool = True,
    ) -> None:
        self.env, self.num_steps, self.device, self.generator = env, num_steps, device, generator
        self.normalizer, self.shape_reward = normalizer, shape_reward
        self.keep_graph, self._with_value = keep_graph, keep_graph and keep_values
        self.simulate_s = self.act_s = 0.0
        self.actions = self.clipped_actions = 0
        """Numbers of continuous actions chosen, and those of them that the simulators clip to their bounds."""
        space: Any = getattr(env, "action_space", None)
        self._bounds = (space.low, space.high) if hasattr(space, "low") else None
        self.on_step: Callable[[], None] = lambda: None
        self._groups: Sequence[Group] = getattr(env, "groups", None) or [Whole(env)]
        self._buffers: Rollout | None = None

    def reset(self, policy: Policy, seed: int) -> None:
        """Start all simulators anew."""
        seeds = [seed] if len(self._groups) == 1 else np.random.SeedSequence(seed).generate_state(len(self._groups))
        self._turns = []
        for group, its_seed in zip(self._groups, seeds, strict=True):
            obs = self._observe(group.reset(int(its_seed) % 2**30), group.rows.start)
            first = torch.ones(len(obs), dtype=torch.bool, device=self.device)
            self._turns.append(_Turn(group, obs, policy.initial_state(len(obs), self.device), first, []))
        self._make_buffers(policy)

    def standing(self) -> dict[str, Tensor]:
        """Between two rollouts: what the policy reads next, as it reads it, of all rows; ``obs``, ``state``,
        ``first``."""
        return {name: torch.cat([getattr(turn, name) for turn in self._turns]) for name in ("obs", "state", "first")}

    def go_on(self, policy: Policy, standing: Mapping[str, Tensor]) -> None:
        """Go on from where ``standing`` was read; the simulators must stand there too."""
        rows = [group.rows for group in self._groups]
        obs, state, first = (standing[name].to(self.device) for name in ("obs", "state", "first"))
        self._turns = [_Turn(g, obs[r], state[r], first[r], []) for g, r in zip(self._groups, rows, strict=True)]
        self._make_buffers(policy)

    def _make_buffers(self, policy: Policy) -> None:
        obs, state, first = self.standing().values()
        with buffers_kept(policy):  # a pass for the shapes alone
            action = policy.act(policy(obs, state, first).params, greedy=True)
        n, t, on = len(obs), self.num_steps, self.device
        self._reward = np.zeros((t, n), np.float32)
        self._terminated, self._truncated, self._valid = (np.zeros((t, n), bool) for _ in range(3))
        self._buffers = Rollout(
            obs=torch.empty((t, *obs.shape), dtype=obs.dtype, device=on),
            first=torch.zeros(t, n, dtype=torch.bool, device=on),
            action=torch.empty((t, *action.shape), dtype=action.dtype, device=on),
            reward=self._to_device(self._reward),  # on a CPU, the same memory
            terminated=self._to_device(self._terminated),
            truncated=self._to_device(self._truncated),
            valid=self._to_device(self._valid),
            v_final=torch.zeros(t, n, device=on),
            state=state,
            last_value=torch.zeros(n, device=on),
        )
        for turn in self._turns:
            steps = [[getattr(self._buffers, name)[i, turn.group.rows] for name in _Slot._fields] for i in range(t)]
            turn.slots = [_Slot(*step) for step in steps]

    def _observe(self, obs: NDArray, row: int | NDArray, learn: bool = True) -> Tensor:
        """As the policy reads it; ``row`` as in ``_check_finite``."""
        if obs.dtype.kind == "f":
            _check_finite("an observation", obs, row)
        if self.normalizer is not None:
            if learn:
                self.normalizer.update(obs)
            obs = self.normalizer(obs)
        return self._to_device(np.ascontiguousarray(obs))

    def _to_device(self, array: NDArray) -> Tensor:
        """Through page-locked memory to a GPU, which copies it while this process goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    @torch.no_grad()
    def collect(self, policy: Policy) -> tuple[Rollout, Episodes]:
        """Act for T steps with ``policy``; also times the simulators, as far as they are waited for (``simulate_s``),
        and the network (``act_s``)."""
        r = self._buffers
        assert r is not None, "call reset first"
        episodes = Episodes([], [], [])
        r.state = _join([turn.state for turn in self._turns])
        r.v_final.zero_()
        for turn in self._turns:
            turn.outputs = []
        for t in range(self.num_steps):
            for turn in self._turns:
                if t:
                    self._receive(t - 1, turn, episodes, policy)
                self._act(t, turn, policy)
        for turn in self._turns:
            self._receive(self.num_steps - 1, turn, episodes, policy)
        self._reward[:] = self.shape_reward(self._reward, self._terminated | self._truncated, self._valid)
        for name in ("reward", "terminated", "truncated", "valid") if self.device.type != "cpu" else ():
            getattr(r, name).copy_(torch.from_numpy(getattr(self, f"_{name}")))
        r.last_value = _join([policy(turn.obs, turn.state, turn.first).value for turn in self._turns])
        if self.keep_graph:
            with torch.enable_grad():
                r.acting = policy.stack([turn.outputs for turn in self._turns])
        for turn in self._turns:
            turn.state = turn.state.detach()
        if self._bounds is not None:  # of the whole rollout: once a step would cost the simulators' time
            actions = r.action.cpu().numpy()
            self.actions += actions.size
            self.clipped_actions += int(((actions < self._bounds[0]) | (actions > self._bounds[1])).sum())
        return r, episodes

    def _act(self, t: int, turn: _Turn, policy: Policy) -> None:
        slot, started = turn.slots[t], time.perf_counter()
        slot.obs.copy_(turn.obs)
        slot.first.copy_(turn.first)
        with torch.set_grad_enabled(self._with_value):
            out = policy(turn.obs, turn.state, turn.first, self._with_value)
        turn.outputs.append(out)
        turn.state = out.state
        action = policy.act(out.params, greedy=False, generator=self.generator)
        slot.action.copy_(action)
        turn.group.send(action.cpu().numpy())
        self.act_s += time.perf_counter() - started

    def _receive(self, t: int, turn: _Turn, episodes: Episodes, policy: Policy) -> None:
        rows, started = turn.group.rows, time.perf_counter()
        step = turn.group.recv()
        self.simulate_s += time.perf_counter() - started
        self.on_step()
        _check_finite("a reward", step.reward, rows.start)
        self._reward[t, rows], self._valid[t, rows] = step.reward, step.valid
        self._terminated[t, rows], self._truncated[t, rows] = step.terminated, step.truncated
        if step.final_obs is not None and (step.terminated | step.truncated).any():
            self._bootstrap(turn, turn.slots[t], step, policy)
            episodes.returns.extend(step.episode_return[step.episode_over].tolist())
            episodes.lengths.extend(step.episode_length[step.episode_over].tolist())
            episodes.rows.extend((rows.start + np.flatnonzero(step.episode_over)).tolist())
        turn.obs, turn.first = self._observe(step.obs, rows.start), self._to_device(step.first)

    def _bootstrap(self, turn: _Turn, slot: _Slot, step: Any, policy: Policy) -> None:
        """Values of the observations in which time limits have ended episodes."""
        time_limit = np.flatnonzero(step.truncated & ~step.terminated)
        if not len(time_limit):
            return
        which = torch.from_numpy(time_limit).to(self.device)
        ended_in = self._observe(step.final_obs[time_limit], turn.group.rows.start + time_limit, learn=False)
        with running_statistics(policy):
            outputs = policy(ended_in, turn.state[which], torch.zeros_like(which, dtype=torch.bool))
        slot.v_final[which] = outputs.value


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _check_finite(what: str, values: NDArray, row: int | NDArray) -> None:
    """Raises NotFinite here, where the simulator can still be named, rather than as a loss that is NaN.
    ``row``: the simulator of the first of ``values``, or of each."""
    if not np.isfinite(values).all():
        at = int(np.argwhere(~np.isfinite(values))[0][0])
        row = row[at] if isinstance(row, np.ndarray) else row + at
        raise NotFinite(f"the environment returned {what} that is not finite, in row {row}")
