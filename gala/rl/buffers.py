"""Passes through a network that leave what it keeps in buffers as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


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
