"""Many tensors as views of ONE flat vector, so that an exchange is a handful of vector operations."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_START_BITS = 32


def flatten_parameters(params: Iterable[Tensor] | Mapping[str, Tensor], out: Tensor | None = None) -> Tensor:
    """Copy ``params`` into one contiguous vector and re-point each of them at its slice. Returns that vector, [d].

    Values, shapes, strides (channels_last weights included) and the parameter objects stay; only ``.data`` moves, so an
    optimiser built before or after keeps working, and so do ``state_dict`` and ``load_state_dict``. Tensors that are
    one memory (tied weights, be it one object twice or ``b.data = a.data``) get one slice. One contiguous vector is its
    own flat vector: nothing is copied. Moving the module afterwards (``.to``, ``.half``) tears the views off;
    ``still_flat`` sees that. On CUDA, cuDNN recurrent layers warn that their weights are no longer one chunk of their
    own.

    Args:
        params: tensors of one floating dtype on one device; a mapping names them, for errors.
        out: the vector to use, [d]; by default a new one.

    Raises:
        ValueError: no parameters, more than one dtype or device among them, no floating dtype, or tensors that share
        part of their memory.
    """
    named = dict(params) if isinstance(params, Mapping) else by_position(params)
    groups = memory_groups(named)
    check_kinds(named)
    kinds = sorted({str(group[0].dtype) for group in groups})
    if len(kinds) > 1:
        raise ValueError(f"parameters must share one dtype, found {kinds}; convert the model first")
    first = groups[0][0]
    if out is None and len(groups) == 1 and first.is_contiguous():
        return first.detach().view(-1)
    if out is None:
        out = torch.empty(sum(group[0].numel() for group in groups), dtype=first.dtype, device=first.device)
    parts = out.split([group[0].numel() for group in groups])
    with torch.no_grad():
        for group, part in zip(groups, parts, strict=True):
            views = [part.as_strided(p.shape, _dense_stride(p)) for p in group]
            views[0].copy_(group[0])
            for p, view in zip(group, views, strict=True):
                p.data = view
    return out


def by_position(params: Iterable[Tensor]) -> dict[str, Tensor]:
    """Names for tensors that have none. Raises ValueError for what is no tensor."""
    named = {f"tensor {i}": p for i, p in enumerate(params)}
    for name, p in named.items():
        if not isinstance(p, Tensor):
            raise ValueError(f"{name} of the parameters is a {type(p).__name__}: pass the model, or tensors")
    return named


def check_kinds(named: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless there are tensors, all with values, all floating, and all on one device."""
    tensors = {name: p for name, p in named.items() if p.numel()}
    if not tensors:
        raise ValueError("there are no parameters to exchange; pass a model, or its parameters, that has some")
    for name, p in tensors.items():
        if p.dtype not in FLOATS:
            raise ValueError(f"{name} is {p.dtype}: gossip exchanges float16, bfloat16, float32 and float64")
        if p.device.type == "meta":
            raise ValueError(f"{name} is on the meta device and has no values yet; materialise the model first")
    devices = sorted({str(p.device) for p in tensors.values()})
    if len(devices) > 1:
        raise ValueError(f"parameters must share one device, found {devices}; move the model first")


def memory_groups(named: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """The non-empty tensors in order, each object once, those that are one memory (tied weights) in one group.

    Raises:
        ValueError: two overlap in memory without being the same whole of it; says which.
    """
    groups: dict[tuple[object, ...], list[Tensor]] = {}
    spans: dict[tuple[object, ...], tuple[str, int, int, str]] = {}
    for name, p in named.items():
        if not p.numel():
            continue
        placed = p.device.type != "meta"
        key = (p.device, p.data_ptr(), p.numel(), p.dtype) if placed and _is_dense(p) else (id(p),)
        group = groups.setdefault(key, [])
        if all(p is not other for other in group):
            group.append(p)
        if placed:
            last = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True))
            end = p.data_ptr() + (last + 1) * p.element_size()
            spans.setdefault(key, (str(p.device), p.data_ptr(), end, name))
    for (device, _, end, a), (other, start, _, b) in itertools.pairwise(sorted(spans.values())):
        if device == other and start < end:
            raise ValueError(
                f"{a} and {b} overlap in memory without being the same whole of it, so they cannot be exchanged one by "
                "one; give one of them memory of its own: p.data = p.data.clone()"
            )
    return list(groups.values())


def still_flat(flat: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether every parameter, in the order of ``unique_tensors``, still lives in its slice of ``flat``."""
    address = flat.data_ptr()
    for p in params:
        if p.data_ptr() != address:
            return False
        address += p.numel() * flat.element_size()
    return True


def fingerprint(params: Iterable[Tensor], start: int = 0) -> int:
    """A positive 63-bit number: 31 bits of the shapes, the dtypes and the order of ``params``, equal where they can be
    mixed, then 32 bits ``start`` of their first values (``checksum``), 0 if they do not matter."""
    text = ";".join(f"{tuple(p.shape)} {p.dtype}" for p in unique_tensors(params))
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1 or 1) << _START_BITS | start


def without_start(fingerprint: int) -> int:
    """``fingerprint`` of parameters whose first values do not matter: those of a newcomer, or of a resumed run."""
    return fingerprint >> _START_BITS << _START_BITS


def checksum(flat: Tensor) -> int:
    """A positive 32-bit number of the bits of ``flat`` [d], float32 or float64; in whatever order they are added."""
    integers = flat.view(torch.int32 if flat.dtype == torch.float32 else torch.int64)
    return int(integers.sum(dtype=torch.int64).item()) % (2**_START_BITS - 1) + 1


def check_same_parameters(mine: int, others: Sequence[int], rank: int) -> None:
    """Compare ``fingerprint``s; those of ``others``, by rank, are 0 where there is none yet. Warns of the first learner
    that started from other values.

    Raises:
        ValueError: names the first learner with other parameters.
    """
    known = [(other, theirs) for other, theirs in enumerate(others) if theirs]
    for other, theirs in known:
        if without_start(theirs) != without_start(mine):
            raise ValueError(
                f"learners {other} and {rank} have parameters of different shapes or in another order: averaging would "
                "mix numbers that mean different things; build the same model in both"
            )
    for other, theirs in known:
        if theirs != mine and without_start(theirs) != theirs and without_start(mine) != mine:
            warnings.warn(
                f"learners {other} and {rank} started from different parameters, and the mean of two different "
                "networks is hardly ever a good one: call torch.manual_seed alike in all before the model is built, or "
                "load one state_dict in all before GossipAverager is built",
                stacklevel=2,
            )
            return


def check_finite(flat: Tensor, rank: int, updates: int) -> None:
    """Raises FloatingPointError, naming the learner, if not all of ``flat`` is finite."""
    # The sum is ten times cheaper than isfinite().all(), and finite unless something is not (or is near overflow).
    if not math.isfinite(flat.sum().item()) and not bool(torch.isfinite(flat).all()):
        raise FloatingPointError(
            f"learner {rank}: parameters are not finite after update {updates}; nothing was sent to its "
            "peers. Lower the learning rate or clip the gradients"
        )


def unique_tensors(params: Iterable[Tensor]) -> list[Tensor]:
    """The non-empty tensors among ``params`` in order, one for each memory. Raises as ``memory_groups``."""
    return [group[0] for group in memory_groups(by_position(params))]


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


def _dense_stride(p: Tensor) -> tuple[int, ...]:
    return p.stride() if _is_dense(p) else torch.empty(p.shape, device="meta").stride()


def flatten_gradients(flat: torch.Tensor, policy: torch.nn.Module) -> None:
    """Gives ``flat`` a ``.grad`` of which each parameter's gradient is a view, as the parameters are of ``flat``. A
    parameter that does not learn (``requires_grad=False``) has none, so that no optimiser decays it."""
    groups = memory_groups(dict(policy.named_parameters()))
    unique = [group[0] for group in groups]
    assert still_flat(flat, unique), "the policy's parameters are not views of the flat vector: it would never learn"
    flat.grad = torch.zeros_like(flat)
    parts = flat.grad.split([p.numel() for p in unique])
    for group, part in zip(groups, parts, strict=True):
        for p in (p for p in group if p.requires_grad):
            p.grad = part.as_strided(p.size(), p.stride())
