"""Settings -> optimiser, schedules, normalisers, slow momentum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from gala.build.envs import Spaces
from gala.config.derived import (
    total_envs,
)
from gala.config.schema import Config
from gala.optim.rmsprop_tf import RMSpropTF
from gala.optim.schedules import SCHEDULES, scaled_lr
from gala.optim.slowmo import SlowMo
from gala.rl.normalise import Normalizers, ObsNormalizer, ReturnScaler

OPTIMIZERS: dict[str, Callable[[list[torch.Tensor], Config], torch.optim.Optimizer]] = {
    "rmsprop_tf": lambda p, c: RMSpropTF(p, c.optim.lr, c.optim.rmsprop_alpha, c.optim.eps),
    "rmsprop": lambda p, c: torch.optim.RMSprop(p, c.optim.lr, c.optim.rmsprop_alpha, c.optim.eps),
    "adam": lambda p, c: torch.optim.Adam(p, c.optim.lr, (c.optim.adam_beta1, c.optim.adam_beta2), c.optim.eps),
}


def make_optimizer(config: Config, flat: torch.Tensor) -> torch.optim.Optimizer:
    return OPTIMIZERS[config.optim.name]([flat], config)


def learning_rate(config: Config) -> Callable[[float], float]:
    """progress in [0, 1] -> learning rate."""
    base = scaled_lr(config.optim.lr, config.optim.lr_scaling, total_envs(config), config.optim.lr_reference_envs)
    schedule = SCHEDULES[config.optim.schedule]
    return lambda progress: base * schedule(progress)


def entropy_coefficient(config: Config) -> Callable[[float], float]:
    """progress in [0, 1] -> entropy coefficient."""
    schedule = SCHEDULES[config.a2c.entropy_schedule]
    return lambda progress: config.a2c.entropy_coef * schedule(progress)


def make_normalizer(config: Config, spaces: Spaces) -> ObsNormalizer | None:
    if not config.normalize.obs:
        return None
    assert spaces.obs.shape is not None
    return ObsNormalizer(spaces.obs.shape, config.normalize.obs_clip)


RewardShaper = Callable[[NDArray, NDArray, NDArray], NDArray]


def make_reward_shaper(config: Config) -> tuple[RewardShaper, ReturnScaler | None]:
    """(reward, done, valid) -> reward as learned from, and the scaler behind it if it has a state."""
    if config.normalize.reward == "scale":
        scaler = ReturnScaler(config.envs_per_learner, config.a2c.gamma, config.normalize.reward_clip)
        return scaler, scaler
    if config.normalize.reward == "sign":
        return lambda reward, done, valid: np.sign(reward), None
    return lambda reward, done, valid: reward, None


def num_moments(config: Config, spaces: Spaces) -> int:
    """Length of the normaliser statistics that a learner publishes."""
    _, scaler = make_reward_shaper(config)
    return Normalizers(make_normalizer(config, spaces), scaler).size


def make_slowmo(config: Config, optimizer: torch.optim.Optimizer) -> SlowMo | None:
    """Slow momentum of one learner alone: the gossip averages, so SlowMo itself does not, and nobody waits."""
    s = config.slowmo
    return SlowMo(optimizer, every=s.every, lr=s.lr, momentum=s.momentum) if s.every else None
