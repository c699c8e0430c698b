"""PPO as one page of PyTorch in CleanRL's manner, on EnvPool, until killed or --budget is out. Run it with the Python
of its own venv.

Settings are those of CleanRL's ppo_atari_envpool, ppo_continuous_action and ppo; rollouts keep their batch (steps x
simulators). Pong: EnvPool's Pong-v5 (no sticky actions, skip 4, 84x84 grey, stack 4, a lost life ends the episode,
sign-clipped rewards). HalfCheetah: v5, normalised observations and scaled returns. Networks: Nature CNN with a shared
trunk, separate tanh MLPs of 64x64. EnvPool starts an episode one step after the last has ended; the rows of those steps
are learned from, as in CleanRL, but are no decisions and not counted. CleanRL has no settings for MinAtar: those of
Atari, with the network of its paper, on Gymnasium's SyncVectorEnv. With --budget, to the end of which the learning rate
falls to 0 as in CleanRL, returns are reported too.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import envpool
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from worker import MINATAR, Reporter, options, steps_per_env


class Setting(NamedTuple):
    env_id: str
    env: dict[str, Any]
    batch: int
    minibatches: int
    epochs: int
    lr: float
    clip: float
    entropy_coef: float


SETTINGS = {
    "pong": Setting("Pong-v5", {"episodic_life": True, "reward_clip": True}, 8 * 128, 4, 4, 2.5e-4, 0.1, 0.01),
    "halfcheetah": Setting("HalfCheetah-v5", {}, 2048, 32, 10, 3e-4, 0.2, 0.0),
    "cartpole": Setting("CartPole-v1", {}, 4 * 128, 4, 4, 2.5e-4, 0.2, 0.01),
    "acrobot": Setting("Acrobot-v1", {}, 4 * 128, 4, 4, 2.5e-4, 0.2, 0.01),
    **{task: Setting(task, {}, 8 * 128, 4, 4, 2.5e-4, 0.1, 0.01) for task in MINATAR},
}
GAMMA, GAE_LAMBDA, VALUE_COEF, MAX_GRAD_NORM = 0.99, 0.95, 0.5, 0.5


def layer(module: Any, gain: float = 2**0.5) -> Any:
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


def mlp(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    hidden = [layer(nn.Linear(inputs, 64)), nn.Tanh(), layer(nn.Linear(64, 64)), nn.Tanh()]
    return nn.Sequential(*hidden, layer(nn.Linear(64, outputs), gain))


class Agent(nn.Module):
    def __init__(self, obs_shape: tuple[int, ...], actions: int, discrete: bool) -> None:
        super().__init__()
        self.trunk: nn.Module = nn.Identity()
        if obs_shape[:2] == (10, 10):
            from minatar_task import FEATURES, Network

            self.trunk = Network(obs_shape[2])
            self.trunk.layers.apply(lambda each: layer(each) if hasattr(each, "weight") else None)
            self.actor, self.critic = layer(nn.Linear(FEATURES, actions), 0.01), layer(nn.Linear(FEATURES, 1), 1.0)
        elif len(obs_shape) == 3:
            convolutions = [
                *(layer(nn.Conv2d(obs_shape[0], 32, 8, 4)), nn.ReLU()),
                *(layer(nn.Conv2d(32, 64, 4, 2)), nn.ReLU()),
                *(layer(nn.Conv2d(64, 64, 3, 1)), nn.ReLU()),
            ]
            self.trunk = nn.Sequential(*convolutions, nn.Flatten(), layer(nn.Linear(64 * 7 * 7, 512)), nn.ReLU())
            self.actor, self.critic = layer(nn.Linear(512, actions), 0.01), layer(nn.Linear(512, 1), 1.0)
        else:
            self.actor, self.critic = mlp(obs_shape[0], actions, 0.01), mlp(obs_shape[0], 1, 1.0)
        self.log_std = None if discrete else nn.Parameter(torch.zeros(actions))

    def forward(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        """Policy and values [B] of observations [B, ...]."""
        features = self.trunk(obs / 255.0 if obs.dtype == torch.uint8 else obs)
        head, value = self.actor(features), self.critic(features).squeeze(-1)
        if self.log_std is None:
            return Categorical(logits=head), value
        return Independent(Normal(head, self.log_std.exp().expand_as(head)), 1), value


class Moments:
    """Running mean and variance of rows (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), 1e-4

    def update(self, rows: np.ndarray) -> None:
        delta, n = rows.mean(0) - self.mean, len(rows)
        total = self.count + n
        self.mean = self.mean + delta * n / total
        self.var = (self.var * self.count + rows.var(0) * n + delta**2 * self.count * n / total) / total
        self.count = total


class Simulators:
    """A batch of EnvPool, or of Gymnasium for MinAtar; with ``normalize`` observations are normalised and rewards
    scaled, both clipped to 10."""

    def __init__(self, setting: Setting, num_envs: int, threads: int, seed: int, normalize: bool) -> None:
        if setting.env_id in MINATAR:
            from minatar_task import Games

            self.pool: Any = Games(setting.env_id, num_envs, seed)
        else:
            words = {"num_envs": num_envs, "num_threads": threads, "seed": seed} | setting.env
            self.pool = envpool.make_gymnasium(setting.env_id, **words)
        self.normalize = normalize
        self.obs_shape = self.pool.observation_space.shape
        self._obs, self._returns = Moments(self.obs_shape), Moments(())
        self._return, self._episode = np.zeros(num_envs), np.zeros(num_envs)
        self.ended: deque[float] = deque(maxlen=100)
        """Returns of the last episodes, where rewards are not clipped."""

    def reset(self) -> Tensor:
        return self._observe(self.pool.reset()[0])

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, rewards and dones as floats, of all simulators."""
        acts = action.numpy()
        if acts.ndim > 1:
            acts = np.clip(acts, -1.0, 1.0).astype(np.float64)
        obs, reward, terminated, truncated, _ = self.pool.step(acts)
        done = terminated | truncated
        self._episode += reward
        self.ended.extend(self._episode[done])
        self._episode[done] = 0.0
        if self.normalize:
            self._return = self._return * GAMMA + reward
            self._returns.update(self._return)
            reward = np.clip(reward / np.sqrt(self._returns.var + 1e-8), -10, 10)
            self._return[done] = 0.0
        return self._observe(obs), torch.as_tensor(reward).float(), torch.as_tensor(done).float()

    def _observe(self, obs: np.ndarray) -> Tensor:
        if self.normalize:
            self._obs.update(obs)
            obs = np.clip((obs - self._obs.mean) / np.sqrt(self._obs.var + 1e-8), -10, 10).astype(np.float32)
        return torch.as_tensor(obs)


def advantages(rewards: Tensor, values: Tensor, dones: Tensor, last_value: Tensor, last_done: Tensor) -> Tensor:
    """Generalised advantage estimates [T, B]; ``dones[t]`` says that row t begins an episode."""
    found, running = torch.zeros_like(rewards), torch.zeros_like(last_value)
    for t in reversed(range(len(rewards))):
        end = t == len(rewards) - 1
        goes_on = 1.0 - (last_done if end else dones[t + 1])
        delta = rewards[t] + GAMMA * (last_value if end else values[t + 1]) * goes_on - values[t]
        running = delta + GAMMA * GAE_LAMBDA * goes_on * running
        found[t] = running
    return found


def learn(agent: Agent, optimizer: torch.optim.Optimizer, setting: Setting, batch: tuple[Tensor, ...]) -> None:
    """Epochs of minibatches over ``batch``: obs, actions, log-probabilities, values, advantages, each [T * B, ...]."""
    obs, actions, log_probs, values, gains = batch
    for _ in range(setting.epochs):
        for rows in torch.randperm(len(obs)).chunk(setting.minibatches):
            policy, value = agent(obs[rows])
            ratio = (policy.log_prob(actions[rows]) - log_probs[rows]).exp()
            gain, old = gains[rows], values[rows]
            target = gain + old
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            bounded = ratio.clamp(1 - setting.clip, 1 + setting.clip)
            policy_loss = -torch.min(gain * ratio, gain * bounded).mean()
            near = old + (value - old).clamp(-setting.clip, setting.clip)
            value_loss = 0.5 * torch.max((value - target) ** 2, (near - target) ** 2).mean()
            loss = policy_loss + VALUE_COEF * value_loss - setting.entropy_coef * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRAD_NORM)
            optimizer.step()


def main() -> None:
    settings = options()
    torch.set_num_threads(settings.cores)
    torch.manual_seed(settings.seed)
    setting, num_envs = SETTINGS[settings.task], settings.num_envs
    simulators = Simulators(setting, num_envs, settings.cores, settings.seed, settings.task == "halfcheetah")
    space = simulators.pool.action_space
    discrete = hasattr(space, "n")
    agent = Agent(simulators.obs_shape, int(space.n) if discrete else space.shape[0], discrete)
    optimizer = torch.optim.Adam(agent.parameters(), setting.lr, eps=1e-5)
    report, env_steps, budget = Reporter(), 0, settings.budget
    obs, done = simulators.reset(), torch.zeros(num_envs)
    while not budget or env_steps < budget:
        rows = []
        for _ in range(steps_per_env(setting.batch, num_envs)):
            with torch.no_grad():
                policy, value = agent(obs)
                action = policy.sample()
                log_prob = policy.log_prob(action)
            next_obs, reward, next_done = simulators.step(action)
            rows.append((obs, action, log_prob, value, reward, done))
            obs, done = next_obs, next_done
        with torch.no_grad():
            last_value = agent(obs)[1]
        seen, actions, log_probs, values, rewards, dones = map(torch.stack, zip(*rows, strict=True))
        optimizer.param_groups[0]["lr"] = setting.lr * (1 - env_steps / budget if budget else 1)
        gains = advantages(rewards, values, dones, last_value, done)
        learn(agent, optimizer, setting, tuple(x.flatten(0, 1) for x in (seen, actions, log_probs, values, gains)))
        env_steps += int((1 - dones).sum())
        report(env_steps, mean_return=float(np.mean(simulators.ended)) if simulators.ended else math.nan)


if __name__ == "__main__":
    main()
