"""How a learner learns: the loss, the optimiser, what is normalised. See ``schema``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gala.config.bounds import AT_LEAST_ONE, BELOW_ONE, LEARNING_RATE, NOT_NEGATIVE, POSITIVE, UNIT, bounded


@dataclass(frozen=True)
class A2CConfig:
    """The loss and the rollout."""

    num_steps: int = bounded(5, AT_LEAST_ONE)
    """T, decisions per simulator in one rollout."""
    gamma: float = bounded(0.99, UNIT)
    """Discount of a reward per decision."""
    gae_lambda: float = bounded(1.0, UNIT)
    """1 gives n-step returns."""
    value_coef: float = bounded(0.5, NOT_NEGATIVE)
    """Weight of the value loss, the squared error, in the total loss."""
    entropy_coef: float = bounded(0.01, NOT_NEGATIVE)
    """Weight of the entropy bonus, per nat."""
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear decays the coefficient to 0 over the run."""
    max_grad_norm: float = bounded(0.5, NOT_NEGATIVE)
    """Gradients are scaled down to this Euclidean norm, over all parameters; 0 never clips."""
    normalize_advantages: bool = False
    """Advantages of a rollout get mean 0 and standard deviation 1."""
    l2: float = bounded(0.0, NOT_NEGATIVE)
    """Pulls all parameters to 0: this times the parameters is added to the gradient."""
    passes: Literal["auto", "1", "2"] = "auto"
    """1 differentiates the acting passes; 2 runs the network again, as published. Equal gradients; auto: the faster,
    and for dense layers on a CPU, or plain convolutions before them, a single pass whose gradient is written out by
    hand (``gala.rl.lean``)."""


@dataclass(frozen=True)
class OptimConfig:
    """The local optimiser; its state is never gossiped."""

    name: Literal["rmsprop_tf", "rmsprop", "adam", "ekfac"] | str = "rmsprop_tf"
    """rmsprop_tf keeps epsilon inside the root, as the published A2C results do. ekfac: gradients are multiplied with
    the inverse of a Fisher matrix first, see ekfac.*; with optim.lr=0.25 and a2c.max_grad_norm=0. Or module:attribute,
    as in torch.optim:AdamW: what makes an optimiser of (parameters, lr=...)."""
    lr: float = bounded(7e-4, LEARNING_RATE)
    """Learning rate; what it becomes with lr_scaling and schedule is in the metrics."""
    schedule: Literal["constant", "linear"] = "constant"
    """linear: falls to 0 at the end of the run, or at schedule_to."""
    lr_scaling: Literal["none", "sqrt"] = "none"
    """sqrt multiplies lr by sqrt(all simulators / lr_reference_envs)."""
    lr_reference_envs: int = bounded(16, AT_LEAST_ONE)
    """Simulators, over all learners, for which lr holds with lr_scaling=sqrt."""
    eps: float = bounded(1e-5, POSITIVE)
    """Added to the root of the second moment, or inside it (rmsprop_tf)."""
    rmsprop_alpha: float = bounded(0.99, BELOW_ONE)
    """What the running second moment of RMSprop keeps per update."""
    adam_beta1: float = bounded(0.9, BELOW_ONE)
    """What the running mean of Adam keeps per update."""
    adam_beta2: float = bounded(0.999, BELOW_ONE)
    """What the running second moment of Adam keeps per update."""


@dataclass(frozen=True)
class EkfacConfig:
    """The Fisher matrix of optim.name=ekfac, local to each learner; see ``gala.optim.ekfac.EKFAC``."""

    kind: Literal["ekfac", "kfac", "diagonal"] = "ekfac"
    """ekfac: second moments in the eigenbasis. kfac: products of eigenvalues. diagonal: no eigenbasis."""
    fisher: Literal["sampled", "empirical", "exact"] = "exact"
    """Over actions: drawn anew, those of the rollout, or the expectation (a backward pass for each action,
    or two for each number of one)."""
    critic_sigma: float = bounded(1.0, POSITIVE)
    """Returns count as N(V, critic_sigma^2); 1 / sqrt(2 a2c.value_coef) is the curvature of the value loss."""
    damping: float = bounded(0.01, POSITIVE)
    """Added to the Fisher matrix before it is inverted: the larger, the nearer to plain gradients."""
    decay: float = bounded(0.95, BELOW_ONE)
    """What the running means of second moments keep per update."""
    basis_every: int = bounded(20, AT_LEAST_ONE)
    """Updates between two renewals of the eigenbases."""
    max_dim: int = bounded(1024, AT_LEAST_ONE)
    """Layers with more inputs or outputs have a diagonal instead of an eigenbasis."""
    kl_limit: float = bounded(0.001, NOT_NEGATIVE)
    """Steps are shortened to this KL divergence, to second order (ACKTR's trust region), at the learning rate of the
    start; as that falls, so do they. 0 is no limit."""
    momentum: float = bounded(0.9, BELOW_ONE)
    """Steps are running means of natural gradients, which keep this share per update."""


@dataclass(frozen=True)
class NormalizeConfig:
    """Running statistics, checkpointed with the policy and frozen in evaluation."""

    obs: bool = False
    """Observations less their running mean, divided by their running standard deviation."""
    obs_clip: float = bounded(10.0, POSITIVE)
    """Normalised observations are cut at plus and minus this."""
    reward: Literal["auto", "none", "sign", "scale"] = "auto"
    """auto: sign for Atari, none for the rest. sign: -1, 0, 1. scale: divide by the running std of the discounted
    return."""
    reward_clip: float = bounded(10.0, POSITIVE)
    """Rewards of reward=scale are cut at plus and minus this."""
