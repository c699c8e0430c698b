"""Passes through a network that leave what it keeps in buffers as it was, or go by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def buffers_kept(policy: object) -> Iterator[None]:
    """Inside, passes may move running statistics (batch normalisation, say); afterwards buffers are as before, to the
    bit. What is no ``nn.Module`` has none."""
    kept = [(buffer, buffer.clone()) for buffer in policy.buffers()] if isinstance(policy, nn.Module) else []
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.data.copy_(before)  # .data: a graph that was kept to be differentiated does not mind


@contextlib.contextmanager
def running_statistics(policy: object) -> Iterator[None]:
    """Inside, batch normalisation goes by its running statistics, which stay as they are: for passes over some rows of
    a batch, whose own statistics are others, and which a single row does not have."""
    modules = policy.modules() if isinstance(policy, nn.Module) else ()
    layers = [layer for layer in modules if isinstance(layer, _BatchNorm) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
