"""All parameters of a model as views of ONE flat vector, so that an exchange is a handful of vector operations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def flatten_parameters(params: Iterable[Tensor]) -> Tensor:
    """Copy ``params`` into one contiguous vector and re-point each of them at its slice. Returns that vector, [d].

    Values, shapes, strides (channels_last weights included) and the parameter objects stay; only ``.data`` moves, so an
    optimiser built before or after keeps working, and so do ``state_dict`` and ``load_state_dict``. A tensor that is
    listed twice (tied weights) gets one slice. One contiguous vector is its own flat vector: nothing is copied.
    Moving the module afterwards (``.to``, ``.half``) tears the views off; ``still_flat`` sees that. On CUDA, cuDNN
    recurrent layers warn that their weights are no longer one chunk of their own.

    Raises:
        ValueError: no parameters, or more than one dtype or device among them, or a dtype other than float32 or
        float64.
    """
    unique = unique_tensors(params)
    if not unique:
        raise ValueError("there are no parameters to exchange; pass model.parameters() of a model that has some")
    kinds = sorted({f"{p.dtype} on {p.device}" for p in unique})
    if len(kinds) > 1:
        raise ValueError(f"parameters must share one dtype and device, found {kinds}; convert the model first")
    if unique[0].dtype not in (torch.float32, torch.float64):
        raise ValueError(f"parameters are {unique[0].dtype}; gossip exchanges float32 (or float64): call model.float()")
    if len(unique) == 1 and unique[0].is_contiguous():
        return unique[0].detach().view(-1)
    flat = torch.empty(sum(p.numel() for p in unique), dtype=unique[0].dtype, device=unique[0].device)
    offset = 0
    with torch.no_grad():
        for p in unique:
            stride = p.stride() if _is_dense(p) else torch.empty(p.shape, device="meta").stride()
            view = torch.as_strided(flat, p.shape, stride, offset)
            view.copy_(p)
            p.data = view
            offset += p.numel()
    return flat


def still_flat(flat: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether every parameter, in the order of ``unique_tensors``, still lives in its slice of ``flat``."""
    address = flat.data_ptr()
    for p in params:
        if p.data_ptr() != address:
            return False
        address += p.numel() * flat.element_size()
    return True


def fingerprint(params: Iterable[Tensor]) -> int:
    """A positive 63-bit number of the shapes, the dtypes and the order of ``params``: equal where they can be mixed."""
    text = ";".join(f"{tuple(p.shape)} {p.dtype}" for p in unique_tensors(params))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1 or 1


def check_same_parameters(mine: int, others: Sequence[int], rank: int) -> None:
    """Compare ``fingerprint``s; those of ``others``, by rank, are 0 where there is none yet.

    Raises:
        ValueError: names the first learner with other parameters.
    """
    for other, theirs in enumerate(others):
        if theirs and theirs != mine:
            raise ValueError(
                f"learners {other} and {rank} have parameters of different shapes or in another order: averaging would "
                "mix numbers that mean different things; build the same model in both"
            )


def check_finite(flat: Tensor, rank: int, updates: int) -> None:
    """Raises FloatingPointError, naming the learner, if not all of ``flat`` is finite."""
    # The sum is ten times cheaper than isfinite().all(), and finite unless something is not (or is near overflow).
    if not math.isfinite(flat.sum().item()) and not bool(torch.isfinite(flat).all()):
        raise FloatingPointError(
            f"learner {rank}: parameters are not finite after update {updates}; nothing was sent to its "
            "peers. Lower the learning rate or clip the gradients"
        )


def unique_tensors(params: Iterable[Tensor]) -> list[Tensor]:
    """The non-empty tensors among ``params`` in order, each once."""
    return list({id(p): p for p in params if p.numel()}.values())


def _is_dense(p: Tensor) -> bool:
    """Whether the elements fill ``numel`` places without gap or overlap, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(p.stride(), p.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def flatten_gradients(flat: torch.Tensor, policy: torch.nn.Module) -> None:
    """Gives ``flat`` a ``.grad`` of which each parameter's gradient is a view, as the parameters are of ``flat``."""
    params = list(policy.parameters())
    assert still_flat(flat, params), "the policy's parameters are not views of the flat vector: it would never learn"
    flat.grad = torch.zeros_like(flat)
    offset = 0
    for p in params:
        p.grad = torch.as_strided(flat.grad, p.size(), p.stride(), offset)
        offset += p.numel()
