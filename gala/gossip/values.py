"""What of a model is exchanged, whatever its dtypes, and whether the model still uses it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gala.gossip.flat import by_position, check_kinds, checksum, fingerprint, flatten_parameters, memory_groups
from gala.gossip.message import Mailbox

Source = nn.Module | Iterable[Tensor]


def averaged_tensors(source: Source, average_buffers: bool = True) -> dict[str, Tensor]:
    """The tensors to exchange, by name: of a module all parameters, and all buffers that its ``state_dict`` holds.

    Buffers belong to the parameters beside them: running statistics that stayed behind would be those of a network that
    is gone once its parameters are mixed. The mean of BatchNorm's variances leaves out how far the learners' means
    lie apart, which is little once they agree. Integers (``num_batches_tracked``) have no mean and stay local, and so
    does what is registered with ``persistent=False``: masks and other constants, which an average would only round.

    Raises:
        ValueError: something else than tensors, or a buffer that is not finite, a mask say.
    """
    if not isinstance(source, nn.Module):
        return by_position(source)
    named: dict[str, Tensor] = dict(source.named_parameters())
    if average_buffers:
        kept = source.state_dict(keep_vars=True)
        buffers = {name: b for name, b in source.named_buffers() if name in kept}
        for name, b in buffers.items():
            if b.device.type != "meta" and not bool(torch.isfinite(b).all()):
                raise ValueError(
                    f"buffer {name} is not finite (a mask?) and has no mean: register it with persistent=False, or "
                    "pass average_buffers=False"
                )
        named |= buffers
    return {name: p for name, p in named.items() if p.is_floating_point() or p.is_complex()}


def averaged_numel(source: Source, average_buffers: bool = True) -> int:
    """How many numbers the boxes for this model must hold; see ``averaged_tensors``."""
    return sum(group[0].numel() for group in memory_groups(averaged_tensors(source, average_buffers)))


def exchange_dtype(source: Source, average_buffers: bool = True) -> torch.dtype:
    """The dtype that messages about this model need: float64 if any of its tensors is, else float32."""
    return _widest(averaged_tensors(source, average_buffers).values())


def _widest(tensors: Iterable[Tensor]) -> torch.dtype:
    return torch.float64 if any(p.dtype == torch.float64 for p in tensors) else torch.float32


class ExchangedValues:
    """A model's tensors, and the vector ``flat`` [d] of float32 (float64 if any of them is) that is exchanged for them.

    Tensors of that dtype are views of ``flat``: they are it. Tensors of a shorter one, bfloat16 say, are views of a
    vector of their own, and ``flat`` keeps for them the value z that they are the rounding of. ``read`` adds to z what
    the optimiser has changed since ``write``, ``write`` rounds z again. So the rounding is not part of the exchange:
    mass is conserved in ``flat``, and differences below the spacing of bfloat16 still mix. An optimiser that keeps
    float32 copies of its own (master weights) would write them over the mix: give the averager those copies.

    Args:
        source: a module; or tensors, whose owner is then not known: that one was replaced cannot be noticed.
        average_buffers: whether a module's buffers are exchanged too; see ``averaged_tensors``.

    Raises:
        ValueError: nothing to exchange, several devices, a dtype that is no float, or memory that overlaps.
    """

    def __init__(self, source: Source, average_buffers: bool = True) -> None:
        named = averaged_tensors(source, average_buffers)
        groups = memory_groups(named)
        check_kinds(named)
        self.tensors = [group[0] for group in groups]
        dtype = _widest(self.tensors)
        self._double = next((name for name, p in named.items() if p.dtype == torch.float64), "")
        kinds = list(dict.fromkeys(p.dtype for p in self.tensors))
        self._rounded: list[tuple[Tensor, Tensor]] = []  # (slice of flat, the vector that is its rounding)
        self._homes: list[tuple[Tensor, list[tuple[Tensor, int]]]] = []  # a vector, and who lives at which byte of it
        if kinds == [dtype]:
            self.flat = flatten_parameters(named)
            self._settle(self.flat, groups)
        else:
            self.flat = torch.empty(averaged_numel(self.tensors), dtype=dtype, device=self.tensors[0].device)
            offset = 0
            for kind in kinds:
                members = [group for group in groups if group[0].dtype == kind]
                numel = sum(group[0].numel() for group in members)
                part = self.flat[offset : offset + numel]
                own = flatten_parameters((p for group in members for p in group), out=part if kind == dtype else None)
                self._settle(own, members)
                if kind != dtype:
                    part.copy_(own)
                    self._rounded.append((part, own))
                offset += numel
        self._module = _Watch(source, named) if isinstance(source, nn.Module) else None

    def _settle(self, vector: Tensor, groups: list[list[Tensor]]) -> None:
        offset, homes = 0, []
        for group in groups:
            homes += [(p, offset) for p in group]
            offset += group[0].numel() * vector.element_size()
        self._homes.append((vector, homes))

    def fingerprint(self) -> int:
        """See ``gala.gossip.flat.fingerprint``. First values matter where something is trained, and not of bare vectors
        whose mean is what one wants."""
        trained = any(p.requires_grad for p in self.tensors)
        return fingerprint(self.tensors, checksum(self.flat) if trained else 0)

    def check(self) -> None:
        """Raises RuntimeError if tensors were moved or, as far as it can be seen, replaced since."""
        if self._module is not None:
            self._module.check()
        for vector, homes in self._homes:
            address = vector.data_ptr()
            for p, offset in homes:
                if p.data_ptr() != address + offset:
                    raise RuntimeError("the parameters were moved after the averager was built; move the model first")

    def read(self) -> None:
        """Bring ``flat`` up to date with tensors of a shorter dtype and with replaced buffers: before it is used."""
        if self._module is not None:
            self._module.take_up_buffers()
        for part, own in self._rounded:
            part.add_(own.to(part.dtype).sub_(part.to(own.dtype)))
            if not math.isfinite(part.sum().item()):  # or z would stay so once the tensor is loaded anew
                torch.where(part.isfinite(), part, own.to(part.dtype), out=part)

    def write(self) -> None:
        """Round ``flat`` into the tensors of a shorter dtype: after it has changed."""
        for part, own in self._rounded:
            own.copy_(part)

    def state_dict(self) -> dict[str, Any]:
        """What the model's own state does not hold: of tensors of a shorter dtype, what they are the rounding of."""
        return {"unrounded": [part.clone() for part, _ in self._rounded]} if self._rounded else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up again, before or after the model's state. A state without any leaves all as it is.

        Raises:
            ValueError: it belongs to a model of other dtypes or sizes.
        """
        saved = state.get("unrounded", [part for part, _ in self._rounded])
        if [len(x) for x in saved] != [len(part) for part, _ in self._rounded]:
            raise ValueError("this averager state belongs to a model of other dtypes or sizes")
        for (part, _), x in zip(self._rounded, saved, strict=True):
            part.copy_(x)

    def fitting(self, mailbox: Mailbox | None) -> Mailbox:
        """``mailbox``. Raises ValueError unless its boxes hold as many numbers, and as precise."""
        if mailbox is None or mailbox.numel != self.flat.numel():
            raise ValueError(
                f"the model has {self.flat.numel()} parameters and needs a mailbox for as many (averaged_numel), "
                f"not {None if mailbox is None else mailbox.numel}; all learners must have the same parameters"
            )
        dtype = getattr(mailbox, "dtype", None)
        if dtype == torch.float32 and self._double:
            raise ValueError(
                f"{self._double} is float64 and the boxes are float32, which would round it at every exchange: create "
                "the boxes with dtype=torch.float64, or call model.float()"
            )
        return mailbox


class _Watch:
    """Sees that a module has other parameters than it had."""

    def __init__(self, module: nn.Module, exchanged: dict[str, Tensor]) -> None:
        self._owners = [(path, m, dict(m._parameters), dict(m._modules)) for path, m in module.named_modules()]
        parameters = {id(p) for p in module.parameters()}
        places = {name: name.rpartition(".") for name, b in exchanged.items() if id(b) not in parameters}
        self._buffers = [(name, module.get_submodule(path), key) for name, (path, _, key) in places.items()]
        self._exchanged = exchanged

    def check(self) -> None:
        """Raises RuntimeError; says which parameter, and what to do."""
        for path, owner, parameters, submodules in self._owners:
            for now, before in ((owner._parameters, parameters), (owner._modules, submodules)):
                for key, value in before.items():
                    if now.get(key) is not value:
                        raise RuntimeError(
                            f"{path}{'.' if path else ''}{key} was replaced after the averager was built, by an "
                            "assignment or load_state_dict(assign=True): the averager, and perhaps the optimiser, hold "
                            "the old one. Copy into it (assign=False), or build optimiser and averager anew"
                        )
                if len(now) != len(before):
                    raise RuntimeError(
                        f"{path or 'the model'} was given parameters after the averager was built, which would not be "
                        "exchanged: build the averager after them, in all learners"
                    )

    def take_up_buffers(self) -> None:
        """Buffers that were replaced, as by ``self.mean = 0.9 * self.mean + ...`` in a forward pass, become those that
        are exchanged again: unlike parameters, no optimiser holds the old ones. Raises RuntimeError if one is gone."""
        for name, owner, key in self._buffers:
            mine, new = self._exchanged[name], owner._buffers.get(key)
            if new is mine:
                continue
            if new is None or new.shape != mine.shape:
                change = "removed" if new is None else "replaced by one of another shape"
                raise RuntimeError(f"buffer {name} was {change} after the averager was built: build the averager anew")
            mine.copy_(new.detach())
            owner._buffers[key] = mine
