"""``diagnose.curvature=K``, ``noise=K`` and ``dead_units=K``: what a learner measures while it trains."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gala.config.schema import Config
from gala.diagnostics import curvature, noise_scale
from gala.diagnostics.curvature import Product, flat
from gala.diagnostics.dead_units import dead_share
from gala.diagnostics.landscape import frozen_losses
from gala.evaluation.frozen import optimizer_scale
from gala.models.actor_critic import ActorCritic
from gala.rl.buffers import buffers_kept
from gala.rl.rollout import Rollout

_TRACE_DRAWS = 4
_MOST_RESTARTS = 20
"""Restarts of ARPACK, some ten products each: a spectrum which does not converge costs a bounded time."""
_DECAY = 0.95
"""What the running means of signal and noise keep from one measurement to the next."""


class DuringTraining:
    """Looks at every K-th rollout before the gradient is taken, and leaves the training as it is: it writes to no
    parameter and no ``.grad``, leaves buffers as they were, and draws from no random stream of the learner.

    Call it with each rollout. The eigenvalues and the trace are those of the Hessian of the total loss on this rollout,
    advantages and value targets held fixed. Lanczos begins with the sum of the eigenvectors that it has found last,
    which saves products where the loss has changed little.

    Args:
        config: the run's.
        optimizer_state: () -> name -> tensor, of the learner's optimiser.
        alive: called after every product, so that nobody takes a learner that measures for one that is stuck.
    """

    def __init__(
        self, config: Config, optimizer_state: Callable[[], dict[str, Tensor]], alive: Callable[[], None]
    ) -> None:
        self.config, self.optimizer_state, self.alive = config, optimizer_state, alive
        self.updates = 0
        self.seconds = 0.0
        self.noise = noise_scale.NoiseScale(_DECAY)
        self._starts: dict[str, Tensor] = {}
        self._tags: dict[str, float] = {}

    def __call__(self, policy: ActorCritic, rollout: Rollout, entropy_coef: float) -> None:
        """Measure, if this update's turn has come. Results that are not finite are left out."""
        d, update = self.config.diagnose, self.updates
        self.updates += 1
        wanted = [every and update % every == 0 for every in (d.curvature, d.noise, d.dead_units)]
        if not any(wanted):
            return
        started = time.perf_counter()
        devices = [rollout.obs.device] if rollout.obs.is_cuda else []
        with (
            buffers_kept(policy),
            torch.random.fork_rng(devices),
        ):  # dropout and augmentation draw from the streams that learning draws from
            if wanted[0]:
                self._measure_curvature(policy, rollout, entropy_coef)
            if wanted[1]:
                self._measure_noise(policy, rollout, entropy_coef)
            if wanted[2] and (share := dead_share(policy, rollout)) is not None:
                self._tags["diagnose/dead_units"] = share
        self.seconds += time.perf_counter() - started

    def tags(self, interval_s: float) -> dict[str, float]:
        """The last measurements, and the share of the last ``interval_s`` that measuring took."""
        share, self.seconds = self.seconds / max(interval_s, 1e-9), 0.0
        return {**self._tags, "perf/diagnose_share": share}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the running means, and the number of rollouts seen."""
        n = self.noise
        return {"state": torch.tensor([self.updates, n.batches, n.signal, n.noise], dtype=torch.float64)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        updates, batches, self.noise.signal, self.noise.noise = tensors["state"].tolist()
        self.updates, self.noise.batches = int(updates), int(batches)

    def _measure_curvature(self, policy: ActorCritic, rollout: Rollout, entropy_coef: float) -> None:
        params = list(policy.parameters())
        loss = frozen_losses(policy, rollout, self.config.a2c, entropy_coef)["total"]
        product = self._watched(curvature.hessian_product(loss, params))
        here = flat(params).detach()
        found = self._eigenvalues("eigenvalue", product, here, self.config.diagnose.eigenvalues)
        generator = torch.Generator().manual_seed(self.updates)
        found["hessian_trace"] = curvature.trace(product, here, _TRACE_DRAWS, generator)[0]
        scale = optimizer_scale(self.config.optim, self.config.learners, self.optimizer_state(), policy)
        if scale is not None:
            bent = curvature.preconditioned(product, scale)
            found |= self._eigenvalues("preconditioned_eigenvalue", bent, here, 1)
        self._tags |= {f"diagnose/{name}": value for name, value in found.items() if math.isfinite(value)}

    def _eigenvalues(self, name: str, product: Product, here: Tensor, count: int) -> dict[str, float]:
        try:
            top = curvature.top_eigenpairs(
                product,
                here,
                min(count, here.numel()),
                self._starts.get(name),
                tolerance=1e-2,
                most_restarts=_MOST_RESTARTS,
            )
        except RuntimeError:  # ARPACK's, of a matrix that is zero or not finite, or a search that has not converged
            self._starts.pop(name, None)
            return {}
        self._starts[name] = top.vectors.sum(1)
        return {f"{name}{i + 1}": value for i, value in enumerate(top.values.tolist())}

    def _measure_noise(self, policy: ActorCritic, rollout: Rollout, entropy_coef: float) -> None:
        coefficients = dataclasses.replace(self.config.a2c, normalize_advantages=False)
        gradients = noise_scale.per_environment_gradients(
            policy, rollout, coefficients, entropy_coef, list(policy.parameters())
        )
        self.alive()
        if not torch.isfinite(gradients).all():
            return
        self.noise.add(noise_scale.moments(gradients))
        self._tags |= {"diagnose/gradient_signal": self.noise.signal, "diagnose/gradient_noise": self.noise.noise}
        self._tags.pop("diagnose/noise_scale", None)
        if math.isfinite(self.noise.value):
            self._tags["diagnose/noise_scale"] = self.noise.value

    def _watched(self, product: Product) -> Product:
        def watched(v: Tensor) -> Tensor:
            result = product(v)
            self.alive()
            return result

        return watched
