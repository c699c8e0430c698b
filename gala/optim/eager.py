"""PyTorch's optimisers without what they do for its compiler and its profiler, where neither is at work.

They import the compiler (torch._dynamo) to be left alone by it: 1.2 s of processor time in every process that builds or
steps one. The profiler's record of a step takes longer than the step of a small network.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

_HOOKS_OF_ALL = [getattr(optimizers, f"_global_optimizer_{when}_hooks", {}) for when in ("pre", "post")]
_HIDDEN = (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict)


def spare_compiler() -> None:
    """Call it before the process builds its first optimiser; another PyTorch, which hides them otherwise, then imports
    its compiler as ever. What is compiled all the same must not contain these methods."""
    for method in _HIDDEN:
        if (inner := getattr(method, "__wrapped__", None)) is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)


def step(optimizer: Optimizer) -> None:
    """``optimizer.step()``; as it is where hooks want to be called, its own or those of all optimisers."""
    inner = getattr(type(optimizer).step, "__wrapped__", None) if hasattr(type(optimizer).step, "hooked") else None
    if (
        inner is None
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or "step" in vars(optimizer)
        or any(_HOOKS_OF_ALL)
    ):
        optimizer.step()
    elif (
        getattr(getattr(inner, "__code__", None), "co_name", "") == "_use_grad"
    ):  # breaks the compiler's graph before and after, and sets this
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            inner.__wrapped__(optimizer)
    else:
        inner(optimizer)
