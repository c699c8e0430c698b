"""Stable-Baselines3's A2C or PPO with the settings of its zoo, until killed or --budget is out. Run it with the Python
of its own venv.

Pong: AtariWrapper (30 no-ops, skip 4, 84x84 grey, a lost life ends the episode, sign-clipped rewards), no sticky
actions, VecFrameStack of 4. HalfCheetah: v5, VecNormalize. Networks: Nature CNN, MLP 64x64. Rollouts of PPO keep the
zoo's batch (steps x simulators); A2C keeps its 5 steps. The zoo has no settings for MinAtar: those of Atari, with the
network of its paper. With --budget, which the zoo's linear schedules follow, returns are reported too. Variants: dummy
(all simulators in this process), subproc (a process per simulator).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize
from worker import MINATAR, Reporter, options, steps_per_env

# rl-baselines3-zoo, hyperparams/a2c.yml and ppo.yml. MuJoCo has no settings for A2C there: the library's defaults, with
# its normalisation. The zoo's 256x256 for PPO on HalfCheetah is left for the 64x64 of all systems.
A2C_SETTINGS: dict[str, dict[str, Any]] = {
    "pong": {
        "ent_coef": 0.01,
        "vf_coef": 0.25,
        "policy_kwargs": {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}},
    },
    "halfcheetah": {},
    "hopper": {},
    "inverted_double_pendulum": {},
    "cartpole": {"ent_coef": 0.0},
    "acrobot": {"ent_coef": 0.0},
}
PPO_BATCH = {"pong": 8 * 128, "halfcheetah": 512, "cartpole": 8 * 32, "acrobot": 16 * 256} | dict.fromkeys(
    MINATAR, 8 * 128
)
PPO_SETTINGS: dict[str, dict[str, Any]] = {
    "pong": {"n_epochs": 4, "batch_size": 256, "learning_rate": 2.5e-4, "clip_range": 0.1, "ent_coef": 0.01},
    "halfcheetah": {
        "n_epochs": 20,
        "batch_size": 64,
        "gamma": 0.98,
        "gae_lambda": 0.92,
        "learning_rate": 2.0633e-05,
        "clip_range": 0.1,
        "ent_coef": 0.000401762,
        "vf_coef": 0.58096,
        "max_grad_norm": 0.8,
        "policy_kwargs": {
            "log_std_init": -2,
            "ortho_init": False,
            "activation_fn": torch.nn.ReLU,
            "net_arch": [64, 64],
        },
    },
    "cartpole": {
        "n_epochs": 20,
        "batch_size": 256,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "ent_coef": 0.0,
    },
    "acrobot": {"n_epochs": 4, "gae_lambda": 0.94, "ent_coef": 0.0},
}
PPO_SETTINGS |= dict.fromkeys(MINATAR, PPO_SETTINGS["pong"])
PPO_LINEAR = dict.fromkeys(("pong", "cartpole", *MINATAR), ("learning_rate", "clip_range"))
"""What falls to 0 until the budget is out."""


def make_pong() -> gymnasium.Env:
    import ale_py

    gymnasium.register_envs(ale_py)
    return AtariWrapper(gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0))


def make_minatar(task: str) -> gymnasium.Env:
    from minatar_task import make

    return make(task)


def policy_words(task: str) -> dict[str, Any]:
    """The network of MinAtar's paper, for its games, between observations and heads."""
    if task not in MINATAR:
        return {}
    from minatar_task import FEATURES, Network

    class Features(BaseFeaturesExtractor):
        def __init__(self, space: gymnasium.spaces.Box) -> None:
            super().__init__(space, FEATURES)
            self.network = Network(space.shape[2])

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.network(obs)

    return {"policy_kwargs": {"features_extractor_class": Features, "net_arch": []}}


MAKE: dict[str, Callable[[], gymnasium.Env]] = {
    "pong": make_pong,
    "halfcheetah": partial(gymnasium.make, "HalfCheetah-v5"),
    "cartpole": partial(gymnasium.make, "CartPole-v1"),
    "acrobot": partial(gymnasium.make, "Acrobot-v1"),
    "hopper": partial(gymnasium.make, "Hopper-v5"),
    "inverted_double_pendulum": partial(gymnasium.make, "InvertedDoublePendulum-v5"),
    **{task: partial(make_minatar, task) for task in MINATAR},
}
WRAP: dict[str, Callable[[VecEnv], VecEnv]] = {
    "pong": partial(VecFrameStack, n_stack=4),
    "halfcheetah": VecNormalize,
    "cartpole": lambda env: env,
    "acrobot": VecNormalize,
    "hopper": VecNormalize,
    "inverted_double_pendulum": VecNormalize,
    **{task: lambda env: env for task in MINATAR},
}
VARIANTS: dict[str, Callable[[list[Callable[[], gymnasium.Env]]], VecEnv]] = {
    "dummy": DummyVecEnv,
    # fork and not the library's forkserver: its processes would each import torch, gigabytes with many simulators
    "subproc": partial(SubprocVecEnv, start_method="fork"),
}


class ReportLearned(BaseCallback):
    """A rollout starts when all before it has been learned from."""

    def __init__(self) -> None:
        super().__init__()
        self._report = Reporter()

    def _on_rollout_start(self) -> None:
        known = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._report(self.num_timesteps, mean_return=sum(known) / len(known) if known else math.nan)

    def _on_step(self) -> bool:
        return True


def linear(begin: float) -> Callable[[float], float]:
    return lambda left: begin * left


def main() -> None:
    settings = options("--algo")
    env = VARIANTS[settings.variant or "dummy"]([MAKE[settings.task]] * settings.num_envs)
    env = WRAP[settings.task](VecMonitor(env) if settings.budget else env)
    torch.set_num_threads(settings.cores)
    policy = "CnnPolicy" if settings.task == "pong" else "MlpPolicy"
    if settings.algo == "a2c":
        model = A2C(policy, env, seed=settings.seed, device="cpu", **A2C_SETTINGS[settings.task])
    else:
        n_steps = steps_per_env(PPO_BATCH[settings.task], settings.num_envs)
        words = PPO_SETTINGS[settings.task] | policy_words(settings.task)
        if settings.budget:
            words |= {name: linear(words[name]) for name in PPO_LINEAR.get(settings.task, ())}
        model = PPO(policy, env, n_steps=n_steps, seed=settings.seed, device="cpu", **words)
    model.learn(settings.budget or 10**15, callback=ReportLearned())


if __name__ == "__main__":
    main()
