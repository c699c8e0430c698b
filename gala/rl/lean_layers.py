"""Layers in the memory of their parameters, with their gradients written out by hand: what ``gala.rl.lean`` is made of.

By NumPy where that is quicker: for layers of a few dozen units, what PyTorch does around its products costs several
times what they do. Large products, maps and convolutions are PyTorch's, on as many threads as it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_ONE_THREAD = 2**18
"""Multiplications up to which OpenBLAS, NumPy's usual library, takes one thread. PyTorch's threads are set by us."""
_LARGE = 2**14
"""Numbers from which on PyTorch's elementwise operations are the quicker ones."""
_SMALL_IMAGES = 2**17
"""Numbers in a batch of images up to which calls cost more than copies."""


class _Activation(NamedTuple):
    """``forward_(x)`` in place; ``backward(gradient, output)``: the gradient of x from that of the output, which may be
    written over."""

    forward_: Callable[[NDArray], NDArray]
    backward: Callable[[NDArray, NDArray], NDArray]


def _relu_(x: NDArray) -> NDArray:
    return np.maximum(x, 0, out=x) if x.size < _LARGE else torch.from_numpy(x).relu_().numpy()


def _relu_backward(gradient: NDArray, y: NDArray) -> NDArray:
    if y.size < _LARGE:
        return np.multiply(gradient, y > 0, out=gradient)
    return torch.ops.aten.threshold_backward(torch.from_numpy(gradient), torch.from_numpy(y), 0).numpy()


_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.Tanh: _Activation(lambda x: np.tanh(x, out=x), lambda gradient, y: gradient * (1 - y * y)),
    nn.ReLU: _Activation(_relu_, _relu_backward),
}


def _product(a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
    if a.size * b.shape[1] <= _ONE_THREAD:
        return np.matmul(a, b, out=out)
    result = torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=None if out is None else torch.from_numpy(out))
    return result.numpy()


class Linear:
    """y = x W^T + b, in the memory of a layer's parameters and of their gradients."""

    def __init__(self, layer: nn.Linear) -> None:
        assert layer.weight.grad is not None and layer.bias.grad is not None, "gradients must be views of a flat one"
        self._weight, self._bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        self._weight_grad, self._bias_grad = layer.weight.grad.numpy(), layer.bias.grad.numpy()

    def __call__(self, x: NDArray) -> NDArray:
        y = _product(x, self._weight.T)
        y += self._bias
        return y

    def set_gradients(self, x: NDArray, gradient: NDArray) -> None:
        """From the layer's input and the gradient of its output; replaces what was there."""
        _product(gradient.T, x, out=self._weight_grad)
        np.add.reduce(gradient, 0, out=self._bias_grad)

    def backward(self, gradient: NDArray) -> NDArray:
        """The gradient of the input, from that of the output."""
        return _product(gradient, self._weight)


class Conv:
    """A convolution without padding: maps ``[N, H, W, C]``, the channels of a pixel together, to such maps.

    PyTorch's own kernels: for patches and products in NumPy, batches of 320 rows took twice their time.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        assert layer.weight.grad is not None and layer.bias is not None and layer.bias.grad is not None
        self._stride, self._weight, self._bias = list(layer.stride), layer.weight.detach(), layer.bias.detach()
        self._gradients = layer.weight.grad, layer.bias.grad

    def __call__(self, x: NDArray) -> NDArray:
        return _maps(torch.conv2d(_images(x), self._weight, self._bias, self._stride))

    def zero_gradients(self) -> None:
        for gradient in self._gradients:
            gradient.zero_()

    def add_gradients(self, x: NDArray, gradient: NDArray, wants_input: bool) -> NDArray | None:
        """From the layer's input and the gradient of its output. Returns that of the input if it is wanted."""
        plain = [0, 0], [1, 1], False, [0, 0], 1  # no padding, no dilation, not transposed, in one group
        along, *found = torch.ops.aten.convolution_backward(
            *(_images(gradient), _images(x), self._weight, list(self._bias.shape)),
            *(self._stride, *plain, [wants_input, True, True]),
        )
        for mine, more in zip(self._gradients, found, strict=True):
            mine.add_(more)
        return _maps(along) if wants_input else None


def _images(maps: NDArray) -> Tensor:
    """``[N, C, H, W]`` in the memory of maps."""
    return torch.from_numpy(maps).permute(0, 3, 1, 2)


def _maps(images: Tensor) -> NDArray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


Seen = list[NDArray]
"""Maps of a batch of images: the images, and the output of every convolution."""


def joined_if_small(batches: list[Seen]) -> list[Seen]:
    """Small batches as one; large ones as they are, which caches hold better."""
    if len(batches) < 2 or batches[0][0].size >= _SMALL_IMAGES:
        return batches
    return [[np.concatenate(maps) for maps in zip(*batches, strict=True)]]


class Net:
    """An encoder's layers, with one activation after each, and a head. An encoder may serve two of these."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        leaves = [part for part in encoder.modules() if not list(part.children())]
        kinds = {type(part) for part in leaves if type(part) in _ACTIVATIONS}
        known = (nn.Conv2d, nn.Linear)
        assert len(kinds) <= 1 and all(isinstance(part, known) for part in leaves if list(part.parameters())), leaves
        self._activation = _ACTIVATIONS[kinds.pop() if kinds else nn.ReLU]
        self._convs = [Conv(part) for part in leaves if isinstance(part, nn.Conv2d)]
        self._dense = [Linear(part) for part in leaves if isinstance(part, nn.Linear)]
        self._scale = getattr(encoder, "scale", 1.0)
        self.head = Linear(head)

    def read(self, obs: NDArray) -> tuple[NDArray, list[Seen]]:
        """What the dense layers take of ``obs [N, ...]``, float32 ``[N, width]``; what the convolutions made of it, as
        one batch, or nothing where there are none."""
        if not self._convs:
            return obs.reshape(len(obs), -1).astype(np.float32, copy=False), []
        # Moved before they are widened: bytes are a quarter of the floats.
        images = torch.from_numpy(obs).contiguous(memory_format=torch.channels_last).float()
        seen = [_maps(images if self._scale == 1.0 or obs.dtype.kind == "f" else images.mul_(self._scale))]
        for conv in self._convs:
            seen.append(self._activation.forward_(conv(seen[-1])))
        return _images(seen[-1]).flatten(1).numpy(), [seen]

    def hidden(self, x: NDArray) -> list[NDArray]:
        """What was read, and the outputs of the dense layers."""
        outputs = [x]
        for layer in self._dense:
            outputs.append(self._activation.forward_(layer(outputs[-1])))
        return outputs

    def head_backward(self, outputs: Sequence[NDArray], gradient: NDArray) -> NDArray:
        """Sets the head's gradients; returns that of the last layer's output."""
        self.head.set_gradients(outputs[-1], gradient)
        return self.head.backward(gradient)

    def backward(self, batches: Sequence[Seen], outputs: Sequence[NDArray], gradient: NDArray) -> None:
        """Sets the gradients of all layers, from that of the last one's output. ``batches``: what was seen, batch by
        batch in the order of the rows, as the caches hold it best."""
        for i in range(len(self._dense), 0, -1):
            layer = self._dense[i - 1]
            gradient = self._activation.backward(gradient, outputs[i])
            layer.set_gradients(outputs[i - 1], gradient)
            if i > 1 or self._convs:
                gradient = layer.backward(gradient)
        for conv in self._convs:
            conv.zero_gradients()
        end = 0
        for seen in batches:
            end += len(seen[0])
            self._backward_of_maps(seen, gradient[end - len(seen[0]) : end])

    def _backward_of_maps(self, seen: Seen, gradient: NDArray) -> None:
        along: NDArray | None = _maps(torch.from_numpy(gradient).view_as(_images(seen[-1])))
        for i in range(len(self._convs), 0, -1):
            assert along is not None
            along = self._activation.backward(along, seen[i])
            along = self._convs[i - 1].add_gradients(seen[i - 1], along, wants_input=i > 1)
