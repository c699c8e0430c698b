"""The noise of stochastic gradients: its scale from per-environment gradients, and the two temperatures of gossip.

The unit is an environment, not a transition: the steps of one rollout are correlated, so that E environments of T steps
are E independent draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gala.diagnostics.curvature import Loss, gradient
from gala.rl.a2c import Coefficients, rollout_loss
from gala.rl.rollout import Policy, Rollout


def per_environment_gradients(
    policy: Policy, rollout: Rollout, coefficients: Coefficients, entropy_coef: float, params: Sequence[Tensor]
) -> Tensor:
    """``[E, d]``: the gradient of A2C's loss from each environment's rows alone, in units of which their mean is the
    gradient of the whole rollout (an environment with fewer valid rows weighs less).

    Raises:
        ValueError: advantages are normalised over the rollout, so that environments are not independent.
    """
    if coefficients.normalize_advantages:
        raise ValueError("with a2c.normalize_advantages an environment's gradient depends on the others'; turn it off")
    envs = rollout.valid.shape[1]
    share = rollout.valid.sum(0) * envs / rollout.valid.sum()

    def loss(env: int) -> Loss:
        column = columns(rollout, slice(env, env + 1))
        return lambda: share[env] * rollout_loss(policy, column, coefficients, entropy_coef).loss.total

    return torch.stack([gradient(loss(env), params) for env in range(envs)])


def columns(rollout: Rollout, chosen: slice) -> Rollout:
    """The rollout of some of its simulators, without the passes that chose the actions."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        if field.name in ("state", "last_value"):
            values[field.name] = value[chosen]
        else:
            values[field.name] = None if field.name == "acting" else value[:, chosen]
    return Rollout(**values)


class Moments(NamedTuple):
    """Unbiased estimates: ``signal`` |G|^2, which may come out negative, and ``noise`` tr Sigma of one draw."""

    signal: float
    noise: float


def moments(gradients: Tensor) -> Moments:
    """From ``[E, d]`` gradients of E >= 2 independent draws (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1,
    with batches of 1 and of E)."""
    draws = len(gradients)
    if draws < 2:
        raise ValueError("the noise of gradients shows in two environments or more, not in one")
    return moments_of_batches(
        float(gradients.double().square().sum(1).mean()), 1, float(gradients.double().mean(0).square().sum()), draws
    )


def moments_of_batches(small_square: float, small: int, big_square: float, big: int) -> Moments:
    """From the squared norms of mean gradients of a small and of a big batch, whose sizes are given:

    |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b),    tr Sigma = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)
    """
    return Moments(
        (big * big_square - small * small_square) / (big - small), (small_square - big_square) / (1 / small - 1 / big)
    )


class NoiseScale:
    """The simple noise scale B = tr Sigma / |G|^2, online.

    Signal and noise are averaged first and divided then: each is unbiased, and their ratio in one batch is not. B is
    the number of environments at which noise and signal are equal; B / (environments in use) > 1 says that more of
    them would help, < 1 that they would not. Gradients must be of the same parameters: those of different gossip
    learners are not.

    Args:
        decay: of the running means; 1 - 1/n for the n-th batch if that is less, so that it begins as a plain mean.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay, self.batches = decay, 0
        self.signal = self.noise = 0.0

    def add(self, found: Moments) -> None:
        """One batch."""
        self.batches += 1
        kept = min(self.decay, 1 - 1 / self.batches)
        self.signal = kept * self.signal + (1 - kept) * found.signal
        self.noise = kept * self.noise + (1 - kept) * found.noise

    @property
    def value(self) -> float:
        """B in environments; infinite while the mean signal is not above 0."""
        return self.noise / self.signal if self.signal > 0 else float("inf")


def signal_to_noise(gradients: Tensor, sizes: Mapping[str, int]) -> dict[str, float]:
    """|G|^2 / (tr Sigma / E) of each layer: above 1 where the rollout's gradient points more to the signal than not.

    ``gradients [E, d]``; ``sizes``: layer -> number of its parameters, in their order.
    """
    parts = gradients.split(list(sizes.values()), 1)
    found = {name: moments(part) for name, part in zip(sizes, parts, strict=True)}
    return {name: m.signal * len(gradients) / m.noise if m.noise else float("inf") for name, m in found.items()}


def gradient_diversity(gradients: Tensor) -> float:
    """sum_e |g_e|^2 / |sum_e g_e|^2 of ``[E, d]`` (Yin et al. 2018, arXiv 1706.05699): 1/E for equal gradients, 1 for
    orthogonal ones. Times E it bounds the batch that still speeds SGD up in proportion."""
    return float(gradients.square().sum() / gradients.sum(0).square().sum())


class Temperatures(NamedTuple):
    """Stationary variances, per coordinate of curvature h, of gossiping SGD."""

    consensus: float
    """Variance of the learners' mean: that of one learner with the batch of all, whatever the topology."""
    deviation: float
    """Mean squared distance of a learner to the mean: set by the topology."""


def gossip_temperatures(mixing: Tensor, lr: float, noise: float, curvature: float) -> Temperatures:
    """The two temperatures of x <- W (x - lr g), with g the gradient of a quadratic of that ``curvature`` h and with
    noise of variance sigma^2 / S = ``noise`` in each of L learners.

    With mu_k the eigenvalues of W (doubly stochastic and normal, as all circulant and symmetric ones are; mu_0 = 1),

        v_k = |mu_k|^2 lr^2 noise / (1 - |mu_k|^2 (1 - lr h)^2)
        consensus = v_0 / L,    deviation = sum_{k>0} v_k / L

    so that the consensus feels lr / (L S), as does SGD with a batch of L S (arXiv 1711.04623); the deviation does not.

    Args:
        mixing: W ``[L, L]``.

    Raises:
        ValueError: W is not doubly stochastic or not normal, or the step diverges.
    """
    if not abs(1 - lr * curvature) < 1:
        raise ValueError(f"lr={lr} times curvature={curvature} must lie between 0 and 2, or the learners diverge")
    squares = _eigenvalues(mixing).abs().square()
    variances = squares * lr**2 * noise / (1 - squares * (1 - lr * curvature) ** 2)
    return Temperatures(float(variances[0]) / len(squares), float(variances[1:].sum()) / len(squares))


def deviation_temperature(mixing: Tensor, lr: float, noise: float, momentum: float = 0.0, every: int = 1) -> float:
    """``gossip_temperatures``'s deviation without curvature, right after an exchange, of learners that exchange once in
    ``every`` updates and step by lr m, m being a running mean of gradients that keeps ``momentum`` b per update:

        v_k = |mu_k|^2 s (B + 2 Re(mu_k C / (1 - mu_k b^every))) / (1 - |mu_k|^2),    s = lr^2 noise (1 - b) / (1 + b)

    where s B is the variance of the ``every`` steps between two exchanges together, and s C b^(every (n - 1)) their
    covariance with those n exchanges later: 1 and b where every update is followed by one.

    ``noise`` may be that of all coordinates together; then so is the result, a squared distance.
    """
    mu, b = _eigenvalues(mixing), momentum
    together = every + 2 * sum((every - lag) * b**lag for lag in range(1, every))
    across = b * ((1 - b**every) / (1 - b)) ** 2
    squares = mu[1:].abs().square()
    steps = lr**2 * noise * (1 - b) / (1 + b) * (together + 2 * (mu[1:] * across / (1 - mu[1:] * b**every)).real)
    return float((squares * steps / (1 - squares)).sum()) / len(mu)


def _eigenvalues(mixing: Tensor) -> Tensor:
    """Complex ``[L]``, the largest, 1, first. Raises ValueError unless the matrix is doubly stochastic and normal."""
    w = mixing.double()
    ones = torch.ones(len(w), dtype=w.dtype)
    if not (torch.allclose(w @ ones, ones) and torch.allclose(w.T @ ones, ones) and torch.allclose(w @ w.T, w.T @ w)):
        raise ValueError(
            "the closed form holds for doubly stochastic, normal mixing matrices only (ring, complete, ...)"
        )
    mu = torch.linalg.eigvals(w)
    return mu[mu.abs().argsort(descending=True)]
