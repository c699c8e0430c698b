"""Settings -> optimiser, schedules, normalisers, slow momentum."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from gala_envs.parts import num_mask, without_mask
from numpy.typing import NDArray

from gala.build.envs import Spaces
from gala.config.derived import averages_parameters, gossips, total_envs
from gala.config.schema import Config
from gala.optim.eager import spare_compiler
from gala.optim.ekfac import EKFAC
from gala.optim.mean_adam import MeanAdam
from gala.optim.rmsprop_tf import RMSpropTF
from gala.optim.schedules import SCHEDULES, scaled_lr
from gala.optim.slowmo import SlowMo
from gala.optim.state import load_state_tensors, state_tensors
from gala.plugins import loading
from gala.rl.fisher import RolloutFisher
from gala.rl.normalise import Normalizers, ObsNormalizer, ReturnScaler
from gala.rl.rollout import Policy, Rollout


def _make_adam(params: list[torch.Tensor], config: Config) -> torch.optim.Optimizer:
    o = config.optim
    betas = (o.adam_beta1, o.adam_beta2)
    if averages_by_gossip(config) and scales_by_noise(config):
        return MeanAdam(params, o.lr, betas, o.eps, learners=config.learners)
    return torch.optim.Adam(params, o.lr, betas, o.eps)


OPTIMIZERS: dict[str, Callable[[list[torch.Tensor], Config], torch.optim.Optimizer]] = {
    "rmsprop_tf": lambda p, c: RMSpropTF(p, c.optim.lr, c.optim.rmsprop_alpha, c.optim.eps),
    "rmsprop": lambda p, c: torch.optim.RMSprop(p, c.optim.lr, c.optim.rmsprop_alpha, c.optim.eps),
    "ekfac": lambda p, c: torch.optim.SGD(p, c.optim.lr, momentum=c.ekfac.momentum, dampening=c.ekfac.momentum),
    "adam": _make_adam,
}


def make_optimizer(config: Config, flat: torch.Tensor, policy: torch.nn.Module) -> torch.optim.Optimizer:
    """The local optimiser: one of ``OPTIMIZERS``, of the vector ``flat``; or ``module:attribute``, called with the
    parameters of ``policy``, which are views of it, in their shapes, and ``lr=...``.

    Raises:
        ValueError: the user's own is no torch.optim.Optimizer, or cannot be made so.
    """
    spare_compiler()
    name = config.optim.name
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]([flat], config)
    make = loading.load(name, "optim.name")
    try:
        optimizer = make(list(policy.parameters()), lr=config.optim.lr)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optim.name={name} is called with (parameters, lr=...): {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optim.name={name} must make a torch.optim.Optimizer, not {type(optimizer).__name__}")
    return optimizer


def make_ekfac(config: Config, policy: torch.nn.Module) -> EKFAC | None:
    """What rewrites the gradients before the step, with optim.name=ekfac."""
    if config.optim.name != "ekfac":
        return None
    e = config.ekfac
    return EKFAC(
        policy,
        kind=e.kind,
        damping=e.damping,
        decay=e.decay,
        basis_every=e.basis_every,
        max_dim=e.max_dim,
        kl_limit=e.kl_limit,
        kl_lr=learning_rate(config)(0.0),
    )


def make_rollout_fisher(
    config: Config, ekfac: EKFAC | None, generator: torch.Generator
) -> Callable[[Policy, Rollout], None] | None:
    """What shows each rollout to ``ekfac``."""
    return RolloutFisher(ekfac, config.ekfac.fisher, config.ekfac.critic_sigma, generator) if ekfac else None


def check_optimizer(config: Config, policy: torch.nn.Module) -> None:
    """Try a step on ``policy``, which is spoilt by it. Raises ValueError if the user's own optimiser cannot step alone,
    or if its state is not what a checkpoint holds: tensors and numbers."""
    name = config.optim.name
    if name in OPTIMIZERS:
        return
    for p in policy.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer = make_optimizer(config, torch.zeros(0), policy)
    try:
        optimizer.step()
    except TypeError as error:
        raise ValueError(f"optim.name={name}: step() must need nothing else: {error}") from error
    except Exception as error:  # whatever the user's own code raises
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"optim.name={name}: its first step() raised {told}") from error
    try:
        load_state_tensors(make_optimizer(config, torch.zeros(0), policy), state_tensors(optimizer))
    except ValueError as error:
        raise ValueError(f"optim.name={name} cannot be saved in a checkpoint: {error}") from error


def learning_rate(config: Config) -> Callable[[float], float]:
    """progress in [0, 1] -> learning rate.

    Of a batch of noisy gradients, Adam and RMSprop take steps whose part along the signal grows with the root of the
    batch. A learner of n has the n-th part of it, so that its step advances 1 / sqrt(n) as far as one of the whole
    batch at the same rate; the mean of n of them has sqrt(n) times less noise. ``gossip.lr_scaling=sqrt`` evens out
    both, and ``gossip.lr_scaling=noise`` does so parameter by parameter: see ``MeanAdam``.
    """
    base = scaled_lr(config.optim.lr, config.optim.lr_scaling, total_envs(config), config.optim.lr_reference_envs)
    base *= gossip_lr_factor(config)
    schedule = SCHEDULES[config.optim.schedule]
    return lambda progress: base * schedule(progress)


def gossip_lr_factor(config: Config) -> float:
    """What learners that gossip multiply the learning rate by."""
    if not averages_by_gossip(config) or config.gossip.lr_scaling == "none" or scales_by_noise(config):
        return 1.0
    return config.learners**0.5


def scales_by_noise(config: Config) -> bool:
    """Whether the optimiser lengthens the steps of several learners itself."""
    return config.gossip.lr_scaling == "noise" and config.optim.name == "adam"


def averages_by_gossip(config: Config) -> bool:
    """Whether learners step alone and average afterwards; gossip.mixing=none exchanges nothing."""
    return gossips(config) and averages_parameters(config)


def entropy_coefficient(config: Config) -> Callable[[float], float]:
    """progress in [0, 1] -> entropy coefficient."""
    schedule = SCHEDULES[config.a2c.entropy_schedule]
    return lambda progress: config.a2c.entropy_coef * schedule(progress)


def make_normalizer(config: Config, spaces: Spaces) -> ObsNormalizer | None:
    """What standardises observations; None without ``normalize.obs``."""
    if not config.normalize.obs:
        return None
    return normalizer_of(spaces.obs, config.normalize.obs_clip)


def normalizer_of(space: gym.Space, clip: float) -> ObsNormalizer:
    """Without statistics so far; what is a mask of actions in ``space`` stays as it is."""
    assert isinstance(space, gym.spaces.Box)
    return ObsNormalizer(without_mask(space).shape, clip, num_mask(space))


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
