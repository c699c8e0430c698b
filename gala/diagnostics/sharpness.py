"""``gala diagnose RUN curvature=true``: how a checkpoint's loss bends, and how long its step is against that."""

from __future__ import annotations

import torch
from torch import Tensor

from gala.config.derived import gradient_memory
from gala.diagnostics import curvature, landscape
from gala.diagnostics.curvature import flat
from gala.diagnostics.finding import Curves, Finding
from gala.evaluation.frozen import Frozen
from gala.optim.lr_scaling import is_sgd, stable_product

TOP = 5
_LENGTHS = [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0]
_DRAWS, _LANCZOS_STEPS, _SEED = 16, 30, 0


def judge(frozen: Frozen) -> Finding:
    """Sharpness at the consensus and at each learner, on the first rollout; the loss along steps and between
    learners."""
    policy, params, rollout = frozen.policy, frozen.params, frozen.rollouts[0]
    losses = landscape.frozen_losses(policy, rollout, frozen.coefficients, frozen.entropy_coef)
    here = flat(params).detach()
    points = {"consensus": here, **(frozen.points if len(frozen.points) > 1 else {})}
    numbers: dict[str, dict[str, float]] = {}
    for name, point in points.items():
        with landscape.parameters_at(params, point):
            numbers[name] = {
                f"{part} loss": float(_top(curvature.hessian_product(loss, params), here, 1).values[0])
                for part, loss in losses.items()
            }
            fisher = landscape.policy_fisher(policy, rollout, params)
            numbers[name]["policy Fisher"] = float(_top(fisher, here, 1).values[0])
    product = curvature.hessian_product(losses["total"], params)
    top = _top(product, here, min(TOP, here.numel()))
    summary = {"top": top.values.tolist(), "lr": frozen.lr, "trace": _trace(product, here)}
    if frozen.scale is not None:
        bent = curvature.preconditioned(product, frozen.scale)
        summary["preconditioned"] = float(_top(bent, here, 1).values[0])
        summary["stable_product"] = stable_product(gradient_memory(frozen.config))
    density = curvature.spectral_density(product, here, _LANCZOS_STEPS, 4, torch.Generator().manual_seed(_SEED))
    gradient = curvature.gradient(losses["total"], params)
    summary["gradient_in_top"] = landscape.share_in(top.vectors, gradient) if gradient.any() else 0.0
    scans = _scans(frozen, losses["total"], gradient, top)
    between = _between(frozen, losses["total"], here, top.vectors)
    figures = [
        Curves("Loss along the step", "step lengths", "change of the loss", scans),
        Curves(
            "Spectrum of the Hessian",
            "eigenvalue",
            "share of all eigenvalues",
            {"total loss": (density.values.tolist(), density.weights.tolist())},
            "stems",
        ),
    ]
    header = ["largest eigenvalue", *next(iter(numbers.values()))]
    table = [header, *([name, *(f"{x:.4g}" for x in row.values())] for name, row in numbers.items())]
    return Finding("Sharpness", _sentences(summary, between), table, figures, {"points": numbers, **summary, **between})


def _top(product: curvature.Product, like: Tensor, count: int) -> curvature.Eigenpairs:
    """Zeros for a matrix of zeros, as a policy's is that always acts the same. Raises ValueError: none were found."""
    try:
        return curvature.top_eigenpairs(product, like, count, tolerance=1e-3)
    except RuntimeError as error:
        if not type(error).__name__.startswith("Arpack"):
            raise
        probe = torch.randn(like.shape, generator=torch.Generator().manual_seed(_SEED)).to(like)
        if not product(probe).any():
            return curvature.Eigenpairs(like.new_zeros(count), torch.eye(like.numel(), count).to(like))
        raise ValueError(f"no eigenvalues were found ({str(error).strip().splitlines()[0]})") from error


def _trace(product: curvature.Product, like: Tensor) -> dict[str, float]:
    mean, error = curvature.trace(product, like, _DRAWS, torch.Generator().manual_seed(_SEED))
    return {"mean": mean, "standard_error": error}


def _scans(
    frozen: Frozen, loss: curvature.Loss, gradient: Tensor, top: curvature.Eigenpairs
) -> dict[str, tuple[list[float], list[float]]]:
    """Along the gradient as the optimiser scales it, its part in the sharpest direction, and a random one as long."""
    known = frozen.scale is not None or is_sgd(frozen.config.optim.name)
    step = -frozen.lr * (gradient if frozen.scale is None else gradient / frozen.scale)
    sharpest = top.vectors[:, 0]
    random = torch.randn(step.shape, generator=torch.Generator().manual_seed(_SEED))
    directions = {
        "the step" if known else "a step of plain descent": step,
        "its part in the sharpest direction": (step @ sharpest) * sharpest,
        "a random direction as long": random * step.norm() / random.norm(),
    }
    return {
        name: (_LENGTHS, landscape.loss_along(loss, frozen.params, direction, _LENGTHS).tolist())
        for name, direction in directions.items()
    }


def _between(frozen: Frozen, loss: curvature.Loss, mean: Tensor, sharp: Tensor) -> dict[str, float]:
    """How learners lie to each other and to their mean; empty for one learner."""
    points = list(frozen.points.values())
    if len(points) < 2:
        return {}
    deviations = [point - mean for point in points]
    pairs = [(a, b) for i, a in enumerate(points) for b in points[i + 1 :]]
    return {
        "barrier_between_learners": max(landscape.barrier(loss, frozen.params, a, b) for a, b in pairs),
        "barrier_to_the_mean": max(landscape.barrier(loss, frozen.params, point, mean) for point in points),
        "distance_to_the_mean": float(torch.stack(deviations).norm(dim=1).mean()),
        "deviation_in_top": max((landscape.share_in(sharp, d) for d in deviations if d.any()), default=0.0),
        "deviation_in_top_if_random": sharp.shape[1] / mean.numel(),
    }


def _sentences(summary: dict, between: dict[str, float]) -> list[str]:
    top = summary["top"][0]
    lines = [
        f"The total loss bends most with {top:.4g}: a step of 1 that way changes its slope by so much. The policy's "
        "loss bends down as well as up, because actions that turned out worse than expected are pushed away; the "
        "policy's Fisher matrix, which says how fast the probabilities of actions change, cannot be negative.",
        f"{summary['gradient_in_top']:.0%} of the gradient's squared length lies in the {len(summary['top'])} sharpest "
        "directions.",
    ]
    if top > 0:
        lines.append(f"Plain gradient descent would diverge above a learning rate of {2 / top:.4g}.")
    if "preconditioned" in summary:
        bound = summary["stable_product"] / summary["preconditioned"] if summary["preconditioned"] > 0 else float("inf")
        lines.append(
            f"As this run's optimiser scales and averages gradients, the limit is {bound:.4g}; the learning rate was "
            f"{summary['lr']:.4g} (that of the start, if it has ended at 0)."
        )
    if between:
        lines.append(
            f"Between two learners the loss rises by at most {between['barrier_between_learners']:.4g} above the line "
            f"between theirs, and by {between['barrier_to_the_mean']:.4g} on the way to their mean: with 0, they lie "
            "in one basin."
        )
    lines.append("Sharpness depends on how the network is parametrised, and is no score of generalisation.")
    return lines
