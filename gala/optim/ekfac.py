"""EKFAC, K-FAC and the diagonal Fisher as preconditioners, between ``backward`` and any optimiser."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from gala.optim.ekfac_layers import Block, Kind, gradient_rows, input_rows, why_diagonal


class EKFAC:
    """Rewrites ``.grad`` as (F + damping)^-1 grad, F being a block-diagonal Fisher matrix (arXiv 1806.03884).

        ekfac = EKFAC(model, damping=1e-3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in batches:
            with ekfac.recording():
                logits = model(x)
            drawn = torch.distributions.Categorical(logits=logits).sample()
            ekfac.observe([F.cross_entropy(logits, drawn, reduction="none")])
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            ekfac()
            optimizer.step()

    ``observe`` tracks second moments in the eigenbasis at every call and renews the eigenbasis at every
    ``basis_every``-th, since that is what costs. The loss that is minimised should be a mean over examples. Under
    gossip parameters are exchanged and this state stays local: eigenbases, free in sign and order, have no mean.

    Every parameter that is of no Linear or Conv2d, or of one that ``why_diagonal`` refuses, has the diagonal of the
    Fisher; ``fallbacks`` says which of the matrices, and why. A layer that is used several times in a pass has its
    uses summed, as if they were locations of a convolution. A layer that no recorded pass has used keeps its gradient.

    Args:
        model: its modules are looked at now, on their device; parameters added later are left alone.
        kind: see ``gala.optim.ekfac_layers.Block``.
        damping: added to the eigenvalues of F.
        decay: of the running means; 0 is the last batch alone.
        basis_every: calls of ``observe`` between renewals of the eigenbases.
        max_dim: a layer with a wider factor falls back to the diagonal: an eigenbasis costs its cube.
        kl_limit: the step ``lr * v`` is scaled by min(1, sqrt(2 kl_limit / (lr^2 v^T F v))), after which its KL
            divergence, lr^2 v^T F v / 2 to second order, is at most this (ACKTR, arXiv 1708.05144, section 3.3; its
            published codes leave out the 2, and so stay under half of the limit). 0 is no limit.
        kl_lr: the learning rate for which ``kl_limit`` is meant; at another the limit is kl_limit (lr / kl_lr)^2. None:
            each is. Where all steps are cut to the limit, a schedule of the learning rate would change nothing else.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kind: Kind = "ekfac",
        damping: float = 1e-2,
        decay: float = 0.95,
        basis_every: int = 20,
        max_dim: int = 1024,
        kl_limit: float = 0.0,
        kl_lr: float | None = None,
    ) -> None:
        if kind not in ("ekfac", "kfac", "diagonal"):
            raise ValueError(f"kind={kind!r} is unknown; use ekfac, kfac or diagonal")
        if damping < 0 or not 0 <= decay < 1 or basis_every < 1 or max_dim < 1 or kl_limit < 0:
            raise ValueError(
                "EKFAC wants damping >= 0, 0 <= decay < 1, basis_every >= 1, max_dim >= 1, kl_limit >= 0; got "
                f"{damping}, {decay}, {basis_every}, {max_dim}, {kl_limit}"
            )
        self.damping, self.decay, self.basis_every = damping, decay, basis_every
        self.kl_limit, self.kl_lr = kl_limit, kl_lr
        self.blocks: dict[str, Block] = {}
        self.fallbacks: dict[str, str] = {}
        """Layer or parameter -> why its part of F is diagonal though ``kind`` is not."""
        self.single: dict[str, _Diagonal] = {}
        self.predicted_kl = torch.zeros(())
        """The KL divergence of the last step, to second order in F, for an optimiser without momentum. Gradients that
        are multiplied by c after it (clipped, say) make a step of c^2 times as much."""
        self._calls: dict[str, list[tuple[Tensor, torch.Size, Any]]] = {}
        uses, seen = _uses(model), set[nn.Parameter]()
        for name, module in model.named_modules():
            own = list(module.named_parameters(recurse=False))
            own = [(part, p) for part, p in own if p.requires_grad and p not in seen]
            if not own:
                continue
            seen |= {p for _, p in own}
            shared = any(uses[p] > 1 for _, p in own)
            why = "it shares its parameters with another layer" if shared else why_diagonal(module, max_dim)
            if not shared and not why_diagonal(module, 2**62):
                self.blocks[name] = Block(module, kind, why)
            else:
                self.single |= {f"{name}.{part}" if name else part: _Diagonal(p) for part, p in own}
            if why and kind != "diagonal" and any(p.ndim > 1 for _, p in own):  # a vector alone has no factors
                self.fallbacks[name or type(module).__name__] = why

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Forward passes inside are those that ``observe`` is about; earlier ones are forgotten."""
        self._calls = {name: [] for name in self.blocks}
        hooks = [
            block.module.register_forward_hook(functools.partial(self._record, name))
            for name, block in self.blocks.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _record(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:  # the edge, since an activation that works in place would replace the output
            self._calls[name].append((inputs[0].detach(), output.shape, get_gradient_edge(output)))

    def observe(
        self, losses: Sequence[Tensor], keep: Tensor | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Update F = E_n[sum_k grad losses[k][n] grad losses[k][n]^T] with the recorded passes. ``.grad`` stays as is.

        The Fisher: of one loss, -log p(y_n | x_n) with y_n drawn from the model. Exactly: as many losses as there are
        classes, -log p(k | x_n) times sqrt(p(k | x_n)), the latter a constant. With the data's y_n it is what is called
        the empirical Fisher.

        Args:
            losses: of each example one number, in the order of the model's rows; not divided by their number.
            keep: bool, of the same shape: examples that count. All of them by default.
            generator: of the random signs by which examples are told apart where only sums of gradients are known.

        Raises:
            ValueError: no pass was recorded, or a layer's rows do not belong to the losses.
            FloatingPointError: the second moments are not finite.
        """
        calls = {name: found for name, found in self._calls.items() if found}
        self._calls = {}
        if not calls and not self.single:
            raise ValueError("observe needs a forward pass inside `with ekfac.recording():` before it")
        examples = losses[0].numel()
        kept = torch.ones(examples, dtype=torch.bool, device=losses[0].device) if keep is None else keep.flatten()
        count = int(kept.sum())
        if not count:
            return
        edges = [edge for found in calls.values() for _, _, edge in found]
        wanted = [*edges, *(part.param for part in self.single.values())]
        signs = torch.ones(count, device=kept.device)
        if self.single:
            signs = signs.bernoulli_(0.5, generator=generator) * 2 - 1
        per_loss = [
            torch.autograd.grad((loss.flatten()[kept] * signs).sum(), wanted, retain_graph=True, allow_unused=True)
            for loss in losses
        ]
        at = 0
        for name, found in calls.items():
            of_block = [one[at : at + len(found)] for one in per_loss]
            at += len(found)
            if any(g is not None for one in of_block for g in one):
                self._observe_block(self.blocks[name], found, of_block, kept)
        for i, part in enumerate(self.single.values(), len(edges)):
            sums = [one[i] for one in per_loss if one[i] is not None]
            if sums:
                part.observe(sums, count, self.decay)

    def _observe_block(
        self,
        block: Block,
        calls: list[tuple[Tensor, torch.Size, Any]],
        per_loss: Sequence[Sequence[Tensor | None]],
        kept: Tensor,
    ) -> None:
        examples, dtype = kept.numel(), block.moments.dtype
        a = torch.cat([input_rows(block.module, x.to(dtype), examples) for x, _, _ in calls], 1)[kept]
        gradients = []
        for one in per_loss:
            known = [a.new_zeros(shape) if g is None else g for g, (_, shape, _) in zip(one, calls, strict=True)]
            gradients.append(torch.cat([gradient_rows(block.module, g.to(dtype), examples) for g in known], 1)[kept])
        block.observe(a, gradients, self.decay, self.basis_every)

    @torch.no_grad()
    def __call__(self, lr: float = 1.0) -> None:
        """Rewrite the gradients in place, for an optimiser that will move by ``lr`` times them.

        Raises:
            ValueError: nothing was observed yet.
        """
        parts = [part for part in self._parts().values() if part.count]
        if not parts:
            raise ValueError("call EKFAC.observe on a batch before the first step")
        solved, curvature = [], torch.zeros((), device=parts[0].moments.device)
        for part in parts:
            gradient = part.gradient()
            if gradient is not None:
                v, bent = part.solve(gradient, self.damping)
                solved.append((part, v))
                curvature = curvature + bent
        scale = torch.ones_like(curvature)
        if self.kl_limit:
            longest = 0.5 * (lr if self.kl_lr is None else self.kl_lr) ** 2 * curvature
            scale = (self.kl_limit / longest.clamp(min=torch.finfo(longest.dtype).tiny)).sqrt().clamp(max=1.0)
        self.predicted_kl = 0.5 * (lr * scale) ** 2 * curvature
        for part, v in solved:
            part.write(v * scale)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for a checkpoint; they share memory with it."""
        named: dict[str, Tensor] = {}
        for name, part in self._parts().items():
            named |= {f"{name}/{key}": x for key, x in part.tensors().items()}
            named[f"{name}/count"] = torch.tensor(part.count)
        return named

    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """The inverse of ``tensors``.

        Raises:
            ValueError: it is the state of another model, or of another kind.
        """
        mine = self.tensors()
        if {k: x.shape for k, x in mine.items()} != {k: x.shape for k, x in named.items()}:
            raise ValueError("this EKFAC state belongs to another model, kind or max_dim")
        for name, part in self._parts().items():
            for key, x in part.tensors().items():
                x.copy_(named[f"{name}/{key}"])
            part.count = int(named[f"{name}/count"])

    def _parts(self) -> dict[str, Block | _Diagonal]:
        return {**{f"layer {name}": b for name, b in self.blocks.items()}, **self.single}


class _Diagonal:
    """The diagonal of F for one parameter, of which only sums of gradients over examples are known.

    With random signs e_n, E[(sum_n e_n g_n)^2] = sum_n g_n^2, whatever the g_n are.
    """

    def __init__(self, param: nn.Parameter) -> None:
        self.param, self.count = param, 0
        self.moments = torch.zeros_like(param, dtype=torch.promote_types(param.dtype, torch.float32))

    def observe(self, sums: list[Tensor], examples: int, decay: float) -> None:
        kept = min(decay, 1 - 1 / (self.count + 1))
        squares = torch.stack([g.to(self.moments.dtype).square() for g in sums]).sum(0)
        self.moments.lerp_(squares / examples, 1 - kept)
        self.count += 1

    def gradient(self) -> Tensor | None:
        return self.param.grad

    def solve(self, gradient: Tensor, damping: float) -> tuple[Tensor, Tensor]:
        v = gradient / (self.moments + damping)
        return v, (self.moments * v.square()).sum()

    def write(self, v: Tensor) -> None:
        assert self.param.grad is not None
        self.param.grad.copy_(v)

    def tensors(self) -> dict[str, Tensor]:
        return {"moments": self.moments}


def _uses(model: nn.Module) -> dict[nn.Parameter, int]:
    """Parameter -> the number of modules that hold it."""
    uses: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            uses[p] = uses.get(p, 0) + 1
    return uses
