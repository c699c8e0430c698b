"""Curvature of one layer in the eigenbasis of its Kronecker factors: the arithmetic of EKFAC and K-FAC."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["ekfac", "kfac", "diagonal"]
_MAX_NUMBERS = 2**24
"""Per-example gradients that stand in memory at once."""


def why_diagonal(module: nn.Module, max_dim: int) -> str:
    """Why ``module`` cannot have Kronecker factors; empty if it can: a Linear or Conv2d of which no factor is wider
    than ``max_dim``, the bias not counted."""
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return f"{type(module).__name__} is neither Linear nor Conv2d"
    if not all(p.requires_grad for p in module.parameters()):
        return "a part of it does not learn"
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            return "it is a grouped convolution"
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return f"its padding is {module.padding}, {module.padding_mode}"
    width = max(module.weight.shape[0], module.weight[0].numel())
    if width > max_dim:
        return f"a factor is {width} wide, more than {max_dim}"
    return ""


def _sizes(module: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    return module.weight.shape[0], module.weight[0].numel() + (module.bias is not None)


def input_rows(module: nn.Module, x: Tensor, examples: int) -> Tensor:
    """What the weights are multiplied with, ``[N, L, inputs]``: L locations of each of N examples, a 1 at the end if
    there is a bias (Grosse and Martens 2016, arXiv 1602.01407, section 3: patches of a convolution)."""
    if isinstance(module, nn.Conv2d):
        padding = module.padding
        assert not isinstance(padding, str)
        x = F.unfold(x, module.kernel_size, module.dilation, padding, module.stride).transpose(1, 2)
    rows = _by_example(x, x.shape[-1], examples)
    if module.bias is not None:
        rows = torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], 2)
    return rows


def gradient_rows(module: nn.Module, g: Tensor, examples: int) -> Tensor:
    """Gradients of the layer's outputs, ``[N, L, outputs]``."""
    if isinstance(module, nn.Conv2d):
        g = g.flatten(2).transpose(1, 2)
    return _by_example(g, g.shape[-1], examples)


def _by_example(x: Tensor, width: int, examples: int) -> Tensor:
    rows = x.numel() // width
    if rows % examples:
        raise ValueError(f"a layer has seen {rows} rows, which are not a multiple of the {examples} losses of observe")
    return x.reshape(examples, rows // examples, width)


def summed_squares(g: Tensor, a: Tensor) -> Tensor:
    """``[outputs, inputs]``: the sum over examples of the squared gradient ``sum_l g_l a_l^T`` of each weight.

    ``g [N, L, outputs]``, ``a [N, L, inputs]``. Squares follow the sum over locations.
    """
    if g.shape[1] == 1:
        return g.squeeze(1).square().T @ a.squeeze(1).square()
    size = max(1, _MAX_NUMBERS // (g.shape[2] * a.shape[2]))
    parts = [(gs.transpose(1, 2) @ xs).square().sum(0) for gs, xs in zip(g.split(size), a.split(size), strict=True)]
    return torch.stack(parts).sum(0)


class Block:
    """Curvature F of one layer with weights ``[outputs, inputs]`` (the bias is the last column).

    With a the layer's input and g the gradient of its output, per example, over locations l of L:

        A = E[sum_l a_l a_l^T] = U_A S_A U_A^T,    G = E[sum_l g_l g_l^T] / L = U_G S_G U_G^T
        F ~ (U_G x U_A) diag(s) (U_G x U_A)^T

        ekfac:     s = E[(U_G^T (sum_l g_l a_l^T) U_A)^2]     (George et al. 2018, arXiv 1806.03884, eq. 9)
        kfac:      s = diag(S_G) diag(S_A)^T                  (Martens and Grosse 2015, arXiv 1503.05671)
        diagonal:  U_A, U_G = 1 and s as in ekfac

    E is a running mean over batches that becomes an exponential one. When a basis is replaced, s becomes the diagonal,
    in the new basis, of the F that it stood for: with R = U_new^T U_old, s <- (R_G^2) s (R_A^2)^T, which keeps trace F.
    """

    def __init__(self, module: nn.Module, kind: Kind, why_not: str = "") -> None:
        assert isinstance(module, nn.Linear | nn.Conv2d)
        self.module, self.kind = module, "diagonal" if why_not else kind
        outputs, inputs = _sizes(module)
        weight = module.weight
        like: Any = {"device": weight.device, "dtype": torch.promote_types(weight.dtype, torch.float32)}
        self.count = 0
        self.moments = torch.zeros(outputs, inputs, **like)
        self.factors: dict[str, Tensor] = {}
        if self.kind != "diagonal":
            for name, n in (("a", inputs), ("g", outputs)):
                self.factors[name] = torch.zeros(n, n, **like)
                self.factors[f"basis_{name}"] = torch.eye(n, **like)

    @torch.no_grad()
    def observe(self, a: Tensor, gradients: list[Tensor], decay: float, basis_every: int) -> None:
        """Take up a batch: ``a [N, L, inputs]``, and of each loss the gradients ``[N, L, outputs]``, whose squares add
        up."""
        kept = min(decay, 1 - 1 / (self.count + 1))
        examples, locations = a.shape[:2]
        if self.kind != "diagonal":
            self.factors["a"].lerp_(_gram(a) / examples, 1 - kept)
            gram = torch.stack([_gram(g) for g in gradients]).sum(0)
            self.factors["g"].lerp_(gram / (examples * locations), 1 - kept)
            if self.count % basis_every == 0:
                self._renew_basis()
            a, gradients = a @ self.factors["basis_a"], [g @ self.factors["basis_g"] for g in gradients]
        if self.kind != "kfac":
            squares = torch.stack([summed_squares(g, a) for g in gradients]).sum(0)
            self.moments.lerp_(squares / examples, 1 - kept)
        self.count += 1

    def _renew_basis(self) -> None:
        values, turned = {}, {}
        for name in ("a", "g"):
            # Means of units that have died halve for ever; below the smallest normal number arithmetic is slow, and
            # eigh may answer NaN.
            factor = self.factors[name]
            factor.masked_fill_(factor.abs() < 1e8 * torch.finfo(factor.dtype).tiny, 0.0)
            try:
                values[name], basis = _eigenbasis(self.factors[name])
            except torch.linalg.LinAlgError as error:
                raise FloatingPointError(f"the Fisher matrix of {self.module} has no eigenbasis: {error}") from error
            turned[name] = (basis.T @ self.factors[f"basis_{name}"]).square()
            self.factors[f"basis_{name}"].copy_(basis)
        if self.kind == "kfac":
            self.moments.copy_(torch.outer(values["g"].clamp(min=0), values["a"].clamp(min=0)))
        else:
            self.moments.copy_(turned["g"] @ self.moments @ turned["a"].T)

    def solve(self, gradient: Tensor, damping: float) -> tuple[Tensor, Tensor]:
        """(v, v^T F v) with v = (F + damping)^-1 ``gradient``; gradient and v are ``[outputs, inputs]``."""
        rotated = self.rotate(gradient)
        v = rotated / (self.moments + damping)
        curvature = (self.moments * v.square()).sum()
        if self.kind != "diagonal":
            v = self.factors["basis_g"] @ v @ self.factors["basis_a"].T
        return v, curvature

    def rotate(self, gradient: Tensor) -> Tensor:
        """``gradient [outputs, inputs]`` in the eigenbasis."""
        gradient = gradient.to(self.moments.dtype)
        if self.kind == "diagonal":
            return gradient
        return self.factors["basis_g"].T @ gradient @ self.factors["basis_a"]

    def gradient(self) -> Tensor | None:
        """The layer's ``.grad`` as ``[outputs, inputs]``, that of a bias without one being 0; None if it has none."""
        weight, bias = self.module.weight.grad, self.module.bias
        if weight is None:
            return None
        matrix = weight.reshape(weight.shape[0], -1)
        if bias is None:
            return matrix
        last = matrix.new_zeros(len(matrix)) if bias.grad is None else bias.grad
        return torch.cat([matrix, last.unsqueeze(1)], 1)

    def write(self, matrix: Tensor) -> None:
        """The inverse of ``gradient``: into the layer's ``.grad``, in place."""
        weight, bias = self.module.weight.grad, self.module.bias
        assert weight is not None
        if bias is not None:
            if bias.grad is not None:
                bias.grad.copy_(matrix[:, -1])
            matrix = matrix[:, :-1]
        weight.copy_(matrix.reshape(weight.shape))

    def tensors(self) -> dict[str, Tensor]:
        """Its whole state, sharing memory with it, the count apart."""
        return self.factors | {"moments": self.moments}


def _eigenbasis(factor: Tensor) -> tuple[Tensor, Tensor]:
    """``torch.linalg.eigh``. In single precision LAPACK may answer NaN, without an error, for a finite matrix whose
    entries reach from 1 to the smallest numbers, as those of units that have died do, or not converge where many
    eigenvalues are equal; in double precision then."""
    try:
        values, basis = torch.linalg.eigh(factor)
        found = bool(torch.isfinite(basis).all())
    except torch.linalg.LinAlgError:
        found = False
    if not found:
        values, basis = (x.to(factor.dtype) for x in torch.linalg.eigh(factor.double()))
    if not torch.isfinite(basis).all():
        raise torch.linalg.LinAlgError("its eigenvectors are not finite")
    return values, basis


def _gram(rows: Tensor) -> Tensor:
    flat = rows.flatten(0, 1)
    return flat.T @ flat
