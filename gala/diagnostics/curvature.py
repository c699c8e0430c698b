"""Second derivatives of a loss at fixed parameters, without the matrix: products, sharpest directions, trace, density.

For any scalar ``loss()`` of ``params``; a classifier's is ``lambda: F.cross_entropy(model(x), y)``, an actor-critic's
are in ``gala.diagnostics.landscape``. A product is of the parameters at which it was made: make it anew after they
were written to (autograd raises an error if they were). Sharpness does not survive a change of parametrisation (two
ReLU layers scaled by c and 1/c are the same function with another largest eigenvalue), and is no score of
generalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.config.extras import install

Loss = Callable[[], Tensor]
Product = Callable[[Tensor], Tensor]
"""v [d] -> M v [d] for a symmetric matrix M."""


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector ``[d]`` of all their numbers."""
    return torch.cat([x.reshape(-1) for x in tensors])


def gradient(loss: Loss, params: Sequence[Tensor]) -> Tensor:
    """``[d]``; ``.grad`` stays as it is."""
    return flat(torch.autograd.grad(loss(), params, allow_unused=True, materialize_grads=True)).detach()


def hessian_product(loss: Loss, params: Sequence[Tensor]) -> Product:
    """v -> H v by differentiating <grad, v> (Pearlmutter 1994). Indefinite in general; for a policy gradient by nature:
    samples of negative advantage bend it down, so that ``fisher_product`` is the cleaner measure of sharpness there."""
    grads = flat(torch.autograd.grad(loss(), params, create_graph=True, allow_unused=True, materialize_grads=True))
    return lambda v: _pull(grads, params, v)


def gauss_newton_product(outputs: Tensor, bend: Callable[[Tensor], Tensor], params: Sequence[Tensor]) -> Product:
    """v -> J^T B J v, J being the Jacobian of ``outputs`` (any shape, with their graph) and B the matrix that ``bend``
    multiplies with: ``bend_of_loss`` makes it the generalised Gauss-Newton matrix, ``bend_of_fisher`` the Fisher's."""
    dual = torch.zeros_like(outputs, requires_grad=True)
    pulled = flat(
        torch.autograd.grad(outputs, params, dual, create_graph=True, allow_unused=True, materialize_grads=True)
    )

    def product(v: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(pulled, dual, v, retain_graph=True)
        return _pull(outputs, params, bend(pushed))

    return product


def bend_of_loss(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Callable[[Tensor], Tensor]:
    """u -> H u with H the Hessian of ``loss`` in the ``outputs``."""
    at = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at), at, create_graph=True)
    return lambda u: _pull(slope, [at], u).view_as(u)


def bend_of_fisher(root: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """u -> weight * S S^T u, with ``root`` S ``[..., P, K]`` of each row and its ``weight [...]`` in the mean."""
    return lambda u: weight.unsqueeze(-1) * (root @ (root.mT @ u.unsqueeze(-1))).squeeze(-1)


def preconditioned(product: Product, scale: Tensor) -> Product:
    """P^-1/2 M P^-1/2 for the diagonal P = ``scale [d]`` that an optimiser divides its step by: for RMSprop, sqrt(v) +
    eps. Its largest eigenvalue, and not that of M, is what 2 / lr bounds; where gradients are averaged too, as by Adam,
    ``gala.optim.lr_scaling.stable_product`` / lr."""
    root = scale.sqrt()
    return lambda v: product(v / root) / root


def _pull(outputs: Tensor, params: Sequence[Tensor], v: Tensor) -> Tensor:
    if not outputs.requires_grad:  # the gradient of a linear loss is a constant
        return torch.zeros(sum(p.numel() for p in params), dtype=v.dtype, device=v.device)
    return flat(
        torch.autograd.grad(outputs, params, v, retain_graph=True, allow_unused=True, materialize_grads=True)
    ).detach()


class Eigenpairs(NamedTuple):
    """The algebraically largest eigenvalues ``[k]``, descending, and their unit vectors ``[d, k]``."""

    values: Tensor
    vectors: Tensor


def top_eigenpairs(
    product: Product,
    like: Tensor,
    count: int,
    start: Tensor | None = None,
    tolerance: float = 1e-4,
    most_restarts: int | None = None,
) -> Eigenpairs:
    """By implicitly restarted Lanczos (ARPACK); about 20 to 60 products.

    The largest by value: those of largest magnitude would mix in directions of strong negative curvature.

    Args:
        like: a vector ``[d]`` of the dtype and on the device of the parameters.
        start: a vector ``[d]`` to begin with: the sum of the eigenvectors of a moment ago saves products.
        tolerance: relative, of the eigenvalues.
        most_restarts: of Lanczos; ARPACK's own limit grows with d.

    Raises:
        ValueError: more are wanted than there are, or SciPy is missing.
        RuntimeError: no convergence within that, or products that are all zero or not finite.
    """
    size = like.numel()
    if not 1 <= count <= size:
        raise ValueError(f"{size} parameters have 1 to {size} eigenvalues, not {count}")
    if size <= max(32, count + 1):  # ARPACK finds at most size - 1 of them
        columns = [product(e) for e in torch.eye(size, dtype=like.dtype, device=like.device)]
        values, vectors = torch.linalg.eigh(torch.stack(columns, 1))
        return Eigenpairs(values.flip(0)[:count], vectors.flip(1)[:, :count])
    try:
        from scipy.sparse.linalg import LinearOperator, eigsh
    except ImportError as error:
        raise ValueError(f"eigenvalues need SciPy: {install('diagnose')}") from error

    def matvec(v: NDArray) -> NDArray:
        return product(torch.from_numpy(v.ravel()).to(like)).double().cpu().numpy()

    # From a good start a small Krylov space will do; ARPACK's own, of 20 at least, is filled before it looks.
    space = None if start is None else min(size, 2 * count + 6)
    if start is None:
        start = torch.randn(size, generator=torch.Generator().manual_seed(0))
    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    v0 = start.double().cpu().numpy()
    values, vectors = eigsh(operator, k=count, which="LA", v0=v0, tol=tolerance, maxiter=most_restarts, ncv=space)
    order = np.argsort(values)[::-1].copy()
    return Eigenpairs(torch.from_numpy(values[order]).to(like), torch.from_numpy(vectors[:, order]).to(like))


def trace(product: Product, like: Tensor, draws: int, generator: torch.Generator) -> tuple[float, float]:
    """(estimate, its standard error), from ``draws`` >= 2 random signs z: E[z^T M z] = tr M (Hutchinson 1990)."""
    found = torch.stack([(z * product(z)).sum() for z in (_signs(like, generator) for _ in range(draws))]).double()
    return found.mean().item(), (found.std() / draws**0.5).item()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (like.numel(),), generator=generator).to(like) * 2 - 1


class Density(NamedTuple):
    """A spectrum as points: eigenvalues ``[n]`` and the share of all eigenvalues that each stands for ``[n]``."""

    values: Tensor
    weights: Tensor


def spectral_density(product: Product, like: Tensor, steps: int, draws: int, generator: torch.Generator) -> Density:
    """Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017): from each of ``draws`` random signs ``steps`` steps
    of Lanczos, reorthogonalised in full. Moments of the spectrum up to order 2 steps - 1 are those of the draws."""
    values, weights = [], []
    for _ in range(draws):
        start = _signs(like, generator).double()
        ritz, vectors = torch.linalg.eigh(_lanczos(product, start / start.norm(), like, steps))
        values.append(ritz)
        weights.append(vectors[0].square() / draws)
    return Density(torch.cat(values), torch.cat(weights))


def _lanczos(product: Product, start: Tensor, like: Tensor, steps: int) -> Tensor:
    """The tridiagonal matrix ``[m, m]``, m <= steps, of M in the Krylov space of the unit vector ``start``."""
    basis, diagonal, beside = [start], [], []
    for _ in range(min(steps, like.numel())):
        w = product(basis[-1].to(like)).double()
        diagonal.append(torch.dot(w, basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough, in Kahan's words
            w = w - known.T @ (known @ w)
        beside.append(w.norm())
        if beside[-1] < 1e-10 * max(1.0, float(max(abs(x) for x in diagonal))):
            break
        basis.append(w / beside[-1])
    off = torch.stack(beside[: len(diagonal) - 1]) if len(diagonal) > 1 else start.new_zeros(0)
    return torch.diag(torch.stack(diagonal)) + torch.diag(off, 1) + torch.diag(off, -1)
