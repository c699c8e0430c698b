"""What people use today beside Adam, as ``optim.name=benchmarks/other_optimizers.py:NAME``: Muon, SOAP and PSGD Kron.

SOAP and Kron are those of pytorch-optimizer, without weight decay: `pip install pytorch-optimizer opt_einsum`. Without
opt_einsum PyTorch multiplies Kron's factors in the order in which they are written, and it takes fifty times as long.
"""

from __future__ import annotations

from typing import Any

import torch


class MuonAdam(torch.optim.Optimizer):
    """PyTorch's Muon for weights, convolutions as matrices ``[outputs, inputs x height x width]``, Adam for the rest.

    With ``match_rms_adamw`` Muon's updates are as long as Adam's, so that one learning rate serves both.
    """

    def __init__(self, params: list[torch.Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        weights = [p for p in params if p.ndim > 1]
        self._weights = [torch.nn.Parameter(_matrix(p.detach(), p)) for p in weights]
        self._of = list(zip(self._weights, weights, strict=True))
        settings: dict[str, Any] = {"lr": lr, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        self._muon = torch.optim.Muon(self._weights, **settings)
        self._adam = torch.optim.Adam([p for p in params if p.ndim < 2], lr)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """The learning rate of the parameter group is that of both."""
        for part in (self._muon, self._adam):
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for matrix, weight in self._of:
            matrix.grad = _matrix(weight.grad, weight)  # type: ignore[arg-type]
        self._muon.step()
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        """With the two states, each a list by parameter, beside its own groups."""
        states = {name: list(part.state_dict()["state"].values()) for name, part in self._parts().items()}
        return super().state_dict() | states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for name, part in self._parts().items():
            part.load_state_dict(part.state_dict() | {"state": dict(enumerate(state_dict.get(name, ())))})

    def _parts(self) -> dict[str, torch.optim.Optimizer]:
        return {"muon": self._muon, "adam": self._adam}


def _matrix(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x [outputs, ...]`` as ``[outputs, rest]``, a view if it lies in memory as ``weight`` does, channels last too:
    in which order the columns stand does not matter to Muon."""
    rest = sorted(range(1, weight.ndim), key=weight.stride, reverse=True)
    return x.permute(0, *rest).flatten(1)


def muon(params: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    return MuonAdam(params, lr)


def soap(params: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import SOAP

    return SOAP(params, lr=lr, weight_decay=0.0)


def kron(params: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    from pytorch_optimizer import Kron

    return Kron(params, lr=lr)
