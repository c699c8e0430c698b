"""A trained policy that acts: NumPy in, NumPy out, its observation normaliser inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gala_envs.masks import num_choices
from gala_envs.parts import join_mask, without_mask
from gala_envs.spaces import action_adapter, clip_actions, each_row, observation_adapter, stack_observations
from numpy.typing import ArrayLike, NDArray

from gala.config.schema import ModelConfig
from gala.evaluation import hub, weights
from gala.evaluation.evaluate import check_request
from gala.evaluation.export import trained
from gala.models.actor_critic import ActorCritic
from gala.models.distributions import masked
from gala.rl.normalise import ObsNormalizer
from gala.runs.run_dir import RunDir


class Agent:
    """A frozen policy for one observation space and one action space.

    Made by ``gala.Run.load`` and ``gala.load``. ``obs_space`` and ``action_space`` are what the learners saw of one
    simulator: images are uint8 ``[C, H, W]``, other observations float32, a discrete observation is one-hot, and
    discrete actions count from 0 (``gala_envs.spaces`` has the functions that make them so of any simulator's).
    """

    def __init__(self, policy: ActorCritic, normalizer: ObsNormalizer | None, content: weights.Description) -> None:
        self._policy, self._normalizer, self._content = policy.eval(), normalizer, content
        self.obs_space: gym.spaces.Box = without_mask(content.obs_space)
        self.action_space: gym.Space = content.action_space
        self._device = next(policy.parameters()).device
        self._generator = torch.Generator(self._device).manual_seed(0)

    @property
    def recurrent(self) -> bool:
        """Whether ``act`` takes and returns a state."""
        return self._policy.gru_size > 0

    @property
    def model(self) -> ModelConfig:
        """The settings of the network."""
        return self._content.model

    @property
    def about(self) -> Mapping[str, str]:
        """What `gala export` has written beside the weights, as texts: model_card.md, config.yaml, evaluations.json and
        versions.json; empty of what ``save`` wrote."""
        return self._content.about

    def seed(self, seed: int) -> None:
        """Start the random numbers of ``act(greedy=False)`` anew."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def act(
        self,
        obs: ArrayLike,
        state: NDArray | None = None,
        first: ArrayLike | None = None,
        greedy: bool = True,
        *,
        action_mask: ArrayLike | None = None,
    ) -> Any:
        """What to do.

        Args:
            obs: one observation, of the shape of ``obs_space``, or a batch ``[B, ...]``. uint8 (or bool) for images,
                any real numbers for others.
            state: recurrent agents only: what the last call returned, ``[H]`` or ``[B, H]``; None before the first.
            first: recurrent agents only: whether ``obs`` opens an episode, bool, one or ``[B]``; the state of such rows
                is reset before they are read. None: nowhere (without a state all rows begin one anyway).
            greedy: the most probable action; else one drawn from the policy (see ``seed``).
            action_mask: discrete actions only: 1 or True for each that is allowed, ``[n]`` or ``[B, n]``; of
                MultiDiscrete those of all parts, one after the other. Agents that were trained with masks want one.

        Returns:
            The action: an int64 (Discrete), int64 ``[k]`` (MultiDiscrete) or float ``[d]`` within the bounds (Box); of
            a batch ``[B]``, ``[B, k]`` or ``[B, d]``. Of a recurrent agent the pair (action, state).

        Raises:
            ValueError: in one line: a wrong shape or dtype, numbers that are not finite, a state for an agent without,
                a mask that allows nothing, or none for an agent that was trained with masks.
        """
        array = np.asarray(obs)
        one = array.shape == self.obs_space.shape
        batch = self._checked(array[None] if one else array, array.shape)
        mask = self._mask(action_mask, len(batch), one)
        if self._policy.num_mask and mask is not None:
            batch = join_mask(batch, mask)
        inputs = batch if self._normalizer is None else self._normalizer(batch)
        rows, device = len(batch), self._device
        out = self._policy(
            torch.from_numpy(np.ascontiguousarray(inputs)).to(device),
            self._state(state, rows, one),
            self._first(first, rows, one),
            with_value=False,
        )
        params = out.params if mask is None else masked(out.params, torch.from_numpy(mask).to(device))
        chosen = self._policy.act(params, greedy=greedy, generator=self._generator).cpu().numpy()
        action, after = clip_actions(chosen, self.action_space), out.state.cpu().numpy()
        if one:
            action, after = action[0], after[0]
        return (action, after) if self.recurrent else action

    def acting_in(self, env: gym.Env) -> Callable[..., Any]:
        """``act`` for an environment with other spaces than the agent's: of parts, discrete, or boxes of any shape.

            act = agent.acting_in(env)
            obs, reward, terminated, truncated, info = env.step(act(obs))

        The function takes one observation as ``env`` returns it, and the other arguments of ``act``; its action is one
        that ``env`` takes. Of images in ``[H, W, C]`` it makes the agent's ``[C, H, W]``.

        Raises:
            ValueError: ``env`` has other spaces than the agent was trained for.
        """
        name = self._content.env
        obs_space, convert = observation_adapter(env.observation_space, name)
        action_space, to_env = action_adapter(env.action_space, name)
        if obs_space.shape != self.obs_space.shape or action_space != self.action_space:
            raise ValueError(
                f"{env.observation_space} and {env.action_space} become {obs_space} and {action_space}; this agent "
                f"wants {self.obs_space} and {self.action_space}"
            )

        def act(obs: Any, *args: Any, **kwargs: Any) -> Any:
            done = self.act(convert(stack_observations(env.observation_space, [obs]))[0], *args, **kwargs)
            action, *state = done if self.recurrent else (done,)
            (taken,) = each_row(env.action_space, to_env(np.asarray(action)[None]))
            return (taken, *state) if self.recurrent else taken

        return act

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the weights, the normaliser and what describes them to one safetensors file, for ``gala.load``.

        The file is complete or not there. It holds no optimiser and no pickle.

        Raises:
            ValueError: ``path`` exists and ``overwrite`` is False, or its directory does not.
        """
        weights.write(Path(path), self._policy, self._normalizer, self._content, overwrite)

    def __repr__(self) -> str:
        kind = f"{self.model.encoder}, GRU of {self.model.gru_size}" if self.recurrent else self.model.encoder
        return f"<gala.Agent for {self._content.env}: {kind}; {self.obs_space} -> {self.action_space}>"

    def _checked(self, batch: NDArray, given: tuple[int, ...]) -> NDArray:
        space, shape = self.obs_space, self.obs_space.shape
        if batch.shape[1:] != shape or batch.ndim != len(shape) + 1:
            many = f"({', '.join(['B', *map(str, shape)])})"
            raise ValueError(
                f"obs has shape {given}; this agent wants {shape}, or a batch {many}; agent.acting_in(env) takes what "
                "an environment returns"
            )
        if len(batch) == 0:
            raise ValueError("obs is an empty batch; give at least one row")
        kinds = "bui" if space.dtype == np.uint8 else "buif"
        exact = space.dtype == np.uint8 and batch.dtype not in (np.uint8, np.bool_)
        if batch.dtype.kind not in kinds or exact:
            raise ValueError(f"obs is {batch.dtype}; this agent wants {space.dtype}")
        with np.errstate(over="ignore"):
            converted = batch.astype(space.dtype, copy=False)
        if converted.dtype.kind == "f" and not np.isfinite(converted).all():
            row = int(np.argwhere(~np.isfinite(converted))[0][0])
            why = "" if np.isfinite(batch[row]).all() else "not finite"
            raise ValueError(f"row {row} of obs is {why or f'beyond the largest {space.dtype}'}")
        return converted

    def _mask(self, mask: ArrayLike | None, rows: int, one: bool) -> NDArray | None:
        """bool ``[rows, n]``, or None."""
        sizes = num_choices(self.action_space)
        if mask is None:
            if self._policy.num_mask:
                raise ValueError(
                    'this agent was trained with masks of actions: give action_mask=info["action_mask"], or one that '
                    "allows all"
                )
            return None
        given, wanted = np.asarray(mask), (sum(sizes),) if one else (rows, sum(sizes))
        if not sizes or given.shape != wanted or given.dtype.kind not in "bui" or not np.isin(given, (0, 1)).all():
            why = (
                f"wants 0 or 1 of shape {wanted}"
                if sizes
                else f"masks are for discrete actions, not {self.action_space}"
            )
            raise ValueError(f"action_mask is {given.dtype} of shape {given.shape}; {why}")
        allowed = given.reshape(rows, -1) == 1
        for part in np.split(allowed, np.cumsum(sizes)[:-1], 1):
            if not part.any(1).all():
                raise ValueError(f"action_mask allows nothing in row {int(np.argmin(part.any(1)))}; allow an action")
        return allowed

    def _state(self, state: NDArray | None, rows: int, one: bool) -> torch.Tensor:
        size = self._policy.gru_size
        if state is None:
            return self._policy.initial_state(rows, self._device)
        given = np.asarray(state, np.float32)
        wanted = (size,) if one else (rows, size)
        if given.shape != wanted:
            kind = "" if size else "; this agent keeps no state, leave it out"
            raise ValueError(f"state has shape {given.shape}, not {wanted}{kind}")
        return torch.from_numpy(given.reshape(rows, size)).to(self._device)

    def _first(self, first: ArrayLike | None, rows: int, one: bool) -> torch.Tensor:
        given = np.zeros(rows, bool) if first is None else np.asarray(first)
        if given.dtype != np.bool_ or given.shape not in ((rows,), () if one else (rows,)):
            raise ValueError(f"first is {given.dtype} of shape {given.shape}; wants bool, one for each of {rows} rows")
        return torch.from_numpy(given.reshape(rows)).to(self._device)


def load(path: str | Path, device: str = "cpu", *, revision: str | None = None, trust: bool = False) -> Agent:
    """The agent that ``Agent.save`` or `gala export` wrote to ``path``; ``device``: cpu, cuda or cuda:N.

    ``path`` may be ``"hf://USER/NAME"``: what `gala export RUN push=USER/NAME` has pushed to the Hugging Face Hub, of
    ``main`` or of the branch, tag or commit ``revision`` (extra ``hub``). One safetensors file is fetched into the
    Hub's cache and read; with HF_HUB_OFFLINE=1 the cached one.

    An encoder of your own is imported by the ``module:attribute`` that the file names. If this user has not trained
    with it on this machine, that needs ``trust=True``.

    Raises:
        ValueError: it is no such file, or it is damaged, or its encoder cannot be imported here, or is not trusted; of
            the Hub also: no such repository or revision, no network, or the extra is not installed.
    """
    if hub.is_on_hub(path):
        file, asked = hub.pull(str(path), revision), repr(path) + (f", revision={revision!r}" if revision else "")
        policy, normalizer, content = weights.read(file, trust, asked)
    elif revision is not None:
        raise ValueError(f"revision={revision} is for hf://USER/NAME; {path} is a file")
    else:
        policy, normalizer, content = weights.read(Path(path), trust)
    return Agent(policy.to(_device(device)), normalizer, content)


def agent_of_run(run_dir: RunDir, checkpoint: str, learner: int | str, device: str) -> Agent:
    """See ``gala.Run.load``."""
    check_request(run_dir, checkpoint, learner)
    policy, normalizer, content = trained(run_dir, checkpoint, learner)
    return Agent(policy.to(_device(device)), normalizer, content)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={name}: wants cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}, but PyTorch sees {torch.cuda.device_count()} CUDA GPUs here; use cpu")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.empty(1, device=device).cpu()
        except (RuntimeError, NotImplementedError, ImportError):
            raise ValueError(f"device={name}: PyTorch cannot compute on it here; use cpu, cuda or cuda:N") from None
    return device
