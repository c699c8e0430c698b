"""What PyTorch's optimisers do with the closure that ``step`` may be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """What ``closure``, which computes the loss and its gradients anew, returns; None where there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
