"""An optimiser's state as named tensors, so that a checkpoint can hold it without pickle, and back to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_EMPTY: dict[str, Any] = {"none": None, "dict": {}, "list": []}
_EXTRA = "extra"
_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Names -> tensors, which share memory with the optimiser's.

    ``3/exp_avg`` belongs to the parameter of index 3; elements of lists and dicts follow as in ``3/Q/0``; numbers,
    words and None carry their type, as in ``3/step!int``; ``group0/k!int`` is a number that the optimiser itself counts
    in a parameter group, ``extra/steps!int`` one that its ``state_dict`` has beside groups and state. An optimiser of
    one flat vector has the plain names of that vector's state, and its numbers come back as tensors.

    Raises:
        ValueError: there is something else in the state.
    """
    saved = optimizer.state_dict()
    extra = {key: value for key, value in saved.items() if key not in ("state", "param_groups")}
    beside = dict(_leaves({_EXTRA: extra})) if extra else {}
    if _is_flat(optimizer):
        return {key: torch.as_tensor(value) for key, value in saved["state"].get(0, {}).items()} | beside
    tensors = beside | dict(_leaves({str(index): state for index, state in saved["state"].items() if state}))
    for i, group in enumerate(saved["param_groups"]):
        numbers = {key: x for key, x in group.items() if type(x) in _NUMBERS and key != "lr"}
        tensors |= dict(_leaves({f"group{i}": numbers})) if numbers else {}
    return tensors


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``state_tensors``, into an optimiser of the same parameters.

    Raises:
        ValueError: the names are not those of several parameters.
    """
    saved = optimizer.state_dict()
    beside = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{_EXTRA}/")}
    saved |= _lists(_tree(beside).get(_EXTRA, {}))
    tensors = {name: tensor for name, tensor in tensors.items() if name not in beside}
    if _is_flat(optimizer):
        saved["state"] = {0: dict(tensors)}
        optimizer.load_state_dict(saved)
        return
    if any("/" not in name for name in tensors):
        raise ValueError("this optimiser's state was saved for one flat vector, by an earlier version; train anew")
    tree = _tree(tensors)
    for i, group in enumerate(saved["param_groups"]):
        group.update(tree.pop(f"group{i}", {}))
    optimizer.load_state_dict(saved | {"state": {}})
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, state in tree.items():  # PyTorch's own way breaks words
        param = params[int(index)]
        optimizer.state[param] = {key: _beside(param, _lists(value)) for key, value in state.items()}


def _beside(param: Tensor, value: Any) -> Any:
    """A tensor on the device of ``param``; a count, which has no dimensions, stays where it is."""
    return value.to(param.device) if isinstance(value, Tensor) and value.ndim else value


def _is_flat(optimizer: torch.optim.Optimizer) -> bool:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return len(params) == 1 and params[0].ndim == 1


def _leaves(node: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in node.items():
        name = f"{path}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif type(value) in _NUMBERS:
            yield f"{name}!{type(value).__name__}", torch.tensor(value, dtype=_NUMBERS[type(value)])
        elif value is None or (isinstance(value, dict | list | tuple) and not value):
            yield f"{name}!{'none' if value is None else 'dict' if isinstance(value, dict) else 'list'}", torch.zeros(0)
        elif isinstance(value, str):
            yield f"{name}!str", torch.tensor(list(value.encode()), dtype=torch.uint8)
        elif isinstance(value, dict):
            yield from _leaves(value, f"{name}/")
        elif isinstance(value, list | tuple):
            yield from _leaves(dict(enumerate(value)), f"{name}/")
        else:
            raise ValueError(
                f"it keeps {name.partition('/')[2]}, a {type(value).__name__}; tensors, numbers and words can be saved"
            )


def _tree(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of ``_leaves``, but for lists, which are dicts still."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *path, leaf = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        key, _, kind = leaf.partition("!")
        node[key] = _value(tensor, kind)
    return tree


def _value(tensor: Tensor, kind: str) -> Any:
    if kind in _EMPTY:
        return copy.copy(_EMPTY[kind])
    if kind == "str":
        return bytes(tensor.tolist()).decode()
    return tensor.item() if kind else tensor


def _lists(node: Any) -> Any:
    """Dicts whose keys count from 0 are the lists that they were."""
    if not isinstance(node, dict):
        return node
    inner = {key: _lists(value) for key, value in node.items()}
    counted = [str(i) for i in range(len(inner))]  # a file gives them in another order: 0, 1, 10, 2
    return [inner[key] for key in counted] if inner and inner.keys() == set(counted) else inner
