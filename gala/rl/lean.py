"""Small policies on a CPU without modules, autograd and a second pass: the same numbers for a third of the time.

For layers of a few dozen units, what PyTorch does around its products costs several times what they do, most of all
after the simulators have had the caches. Here a policy of dense layers, or of one convolution and a dense layer, is
computed in the memory of its parameters, by NumPy where that is quicker. Its gradient, written out by hand, goes
straight into the memory of theirs, from the layers' outputs that were kept when actions were chosen.
``gala.build.policy.make_lean`` is the door.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from gala.rl.a2c import A2CLoss, Coefficients, RolloutLoss
from gala.rl.lean_actions import family_of
from gala.rl.rollout import ActionDistribution, Rollout

_ONE_THREAD = 2**18
"""Multiplications up to which OpenBLAS, NumPy's usual library, takes one thread. PyTorch's threads are set by us."""


class LeanOutputs(NamedTuple):
    """As ``Outputs``; ``params``: what ``LeanPolicy.act`` wants; ``hidden``: outputs of the policy's hidden layers."""

    params: Tensor
    value: Tensor
    state: Tensor
    hidden: list[NDArray]


class _Activation(NamedTuple):
    """``forward_(x)`` in place; ``backward(gradient, output)``: the gradient of x from that of the output."""

    forward_: Callable[[NDArray], NDArray]
    backward: Callable[[NDArray, NDArray], NDArray]


_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.Tanh: _Activation(lambda x: np.tanh(x, out=x), lambda gradient, y: gradient * (1 - y * y)),
    nn.ReLU: _Activation(lambda x: np.maximum(x, 0, out=x), lambda gradient, y: gradient * (y > 0)),
}


def _product(a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
    if a.size * b.shape[1] <= _ONE_THREAD:
        return np.matmul(a, b, out=out)
    result = torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=None if out is None else torch.from_numpy(out))
    return result.numpy()


class _Linear:
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


class _Conv:
    """A convolution without padding, the first layer: images ``[N, C, H, W]`` -> ``[N, channels x locations]``.

    PyTorch's own kernels: for patches and products in NumPy, batches of 320 rows took twice their time.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        assert layer.weight.grad is not None and layer.bias is not None and layer.bias.grad is not None
        self._stride, self._weight, self._bias = layer.stride, layer.weight.detach(), layer.bias.detach()
        self._weight_grad, self._bias_grad = layer.weight.grad, layer.bias.grad.numpy()

    def __call__(self, x: NDArray) -> NDArray:
        return torch.conv2d(_images(x), self._weight, self._bias, self._stride).flatten(1).numpy()

    def set_gradients(self, x: NDArray, gradient: NDArray) -> None:
        """From the images and the gradient of the layer's output; replaces what was there."""
        images, channels = _images(x), len(self._weight)
        sides = zip(x.shape[2:], self._weight.shape[2:], self._stride, strict=True)
        maps = [(side - kernel) // stride + 1 for side, kernel, stride in sides]
        along = torch.from_numpy(gradient).view(-1, channels, *maps).contiguous(memory_format=torch.channels_last)
        self._weight_grad.copy_(conv2d_weight(images, self._weight.shape, along, self._stride))
        np.add.reduce(gradient.reshape(len(x), channels, -1), (0, 2), out=self._bias_grad)


def _images(x: NDArray) -> Tensor:
    """As float32, the channels of a pixel together, as encoders store their kernels."""
    return torch.from_numpy(x).contiguous(memory_format=torch.channels_last).float()


class _Net:
    """An encoder's layers, with one activation after each, and a head. An encoder may serve two of these."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        leaves = [part for part in encoder.modules() if not list(part.children())]
        kinds = {type(part) for part in leaves if type(part) in _ACTIVATIONS}
        known = (nn.Conv2d, nn.Linear)
        assert len(kinds) <= 1 and all(isinstance(part, known) for part in leaves if list(part.parameters())), leaves
        self._activation = _ACTIVATIONS[kinds.pop() if kinds else nn.ReLU]
        self._convs = [_Conv(part) for part in leaves if isinstance(part, nn.Conv2d)]
        dense = [_Linear(part) for part in leaves if isinstance(part, nn.Linear)]
        self._layers: list[_Conv | _Linear] = [*self._convs, *dense]
        self._scale = np.float32(getattr(encoder, "scale", 1.0))
        self.head = _Linear(head)

    def read(self, obs: NDArray) -> NDArray:
        """``obs [N, ...]`` as the first layer takes them: scaled images, or float32 ``[N, width]``."""
        if not self._convs:
            return obs.reshape(len(obs), -1).astype(np.float32, copy=False)
        return obs if self._scale == 1 or obs.dtype.kind == "f" else obs * self._scale

    def hidden(self, x: NDArray) -> list[NDArray]:
        """What was read, and the outputs of all layers."""
        outputs = [x]
        for layer in self._layers:
            outputs.append(self._activation.forward_(layer(outputs[-1])))
        return outputs

    def head_backward(self, outputs: Sequence[NDArray], gradient: NDArray) -> NDArray:
        """Sets the head's gradients; returns that of the last layer's output."""
        self.head.set_gradients(outputs[-1], gradient)
        return self.head.backward(gradient)

    def backward(self, outputs: Sequence[NDArray], gradient: NDArray) -> None:
        """Sets the gradients of all layers, from that of the last one's output."""
        for i in range(len(self._layers), 0, -1):
            layer = self._layers[i - 1]
            gradient = self._activation.backward(gradient, outputs[i])
            layer.set_gradients(outputs[i - 1], gradient)
            if i > 1:
                assert isinstance(layer, _Linear), "a convolution is the first layer, or none"
                gradient = layer.backward(gradient)


class LeanPolicy:
    """A policy with dense encoders (``gala.models.encoders.MLP``), or one of a convolution, its maps as they are, and a
    dense layer; without recurrence, dropout or auxiliary losses.

    It acts as the ``Policy`` that it is made of. Parameters may change in place at any time (optimiser, gossip, a
    checkpoint), since there is no copy of them; they and their ``.grad`` must not be replaced.

    Args:
        module: an ``ActorCritic`` on the CPU, in float32, whose parameters have gradients.
        space: of its actions.
        stretch: (centre, half width) of a Box, see ``gala.rl.lean_actions.family_of``.
    """

    def __init__(self, module: Any, space: gym.Space, stretch: Sequence[Tensor] = ()) -> None:
        self.module, self._family = module, family_of(space, module.log_std, stretch)
        self._shared = module.critic_encoder is None
        self._actor = _Net(module.encoder, module.policy_head)
        self._critic = _Net(module.encoder if self._shared else module.critic_encoder, module.value_head)

    @property
    def distribution(self) -> ActionDistribution:
        return self.module.distribution

    def __call__(self, obs: Tensor, state: Tensor, first: Tensor, with_value: bool = True) -> LeanOutputs:
        x = self._seen(obs)
        hidden = self._actor.hidden(x)
        value = self._values(x, hidden) if with_value else hidden[-1][:0, 0]
        params = self.module.allowed_only(torch.from_numpy(self._actor.head(hidden[-1])), obs)
        return LeanOutputs(params, torch.from_numpy(value), state, hidden[1:])

    def _seen(self, obs: Tensor) -> NDArray:
        """What the encoders read of ``obs [N, ...]``."""
        return self._actor.read(self.module.seen(obs).numpy())

    def _values(self, x: NDArray, hidden: list[NDArray]) -> NDArray:
        return self._critic.head(hidden[-1] if self._shared else self._critic.hidden(x)[-1])[:, 0]

    def act(self, params: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        head = params.numpy()
        return torch.from_numpy(self._family.mode(head) if greedy else self._family.sample(head, generator))

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return self.module.initial_state(batch, device)

    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Any:
        return self.module.unroll(obs, state, first)

    def auxiliary_loss(self, obs: Tensor, action: Tensor, reward: Tensor, known: Tensor) -> Tensor | None:
        return self.module.auxiliary_loss(obs, action, reward, known)

    def stack(self, groups: Sequence[Sequence[LeanOutputs]]) -> LeanOutputs:
        """T consecutive calls for each group of rows as one: arrays of T x B rows; without values."""

        def joined(pick: Callable[[LeanOutputs], NDArray]) -> NDArray:
            parts = [np.stack([pick(out) for out in steps]) for steps in groups]
            return np.concatenate(parts, 1).reshape(-1, parts[0].shape[2])

        first = groups[0][0]
        hidden = [joined(lambda out, i=i: out.hidden[i]) for i in range(len(first.hidden))]  # type: ignore[misc]
        state = torch.cat([steps[-1].state for steps in groups])
        return LeanOutputs(torch.from_numpy(joined(lambda out: out.params.numpy())), first.value, state, hidden)

    @np.errstate(over="ignore", invalid="ignore")  # as PyTorch; a gradient that is not finite is refused
    def set_gradient(self, rollout: Rollout, coefficients: Coefficients, entropy_coef: float) -> RolloutLoss:
        """``gala.rl.a2c.rollout_loss`` of a rollout that this policy has acted in, and its gradient in the parameters'
        ``.grad``, in place of what was there."""
        c, out = coefficients, rollout.acting
        assert isinstance(out, LeanOutputs), "the rollout was collected by another policy, or without keep_graph"
        hidden, shape = [self._seen(rollout.obs.flatten(0, 1)), *out.hidden], rollout.reward.shape
        judged = hidden if self._shared else self._critic.hidden(hidden[0])
        value = self._critic.head(judged[-1]).reshape(shape)
        advantage = _advantages(rollout, value, c)
        target, valid = advantage + value, rollout.valid.numpy()
        if c.normalize_advantages and valid.any():
            rows = advantage[valid]
            advantage = (advantage - rows.mean()) / (rows.std() + 1e-8)
        weight = (valid / np.float32(max(1, int(valid.sum())))).ravel()
        a, b = -weight * advantage.ravel(), np.float32(-entropy_coef) * weight
        action = rollout.action.numpy()
        terms = self._family.terms(out.params.numpy(), action.reshape(-1, *action.shape[2:]), a, b)
        error = (value - target).ravel()
        policy_loss, value_loss = (a * terms.log_prob).sum(), (weight * error * error).sum()
        bonus = (weight * terms.entropy).sum()
        total = policy_loss + c.value_coef * value_loss - entropy_coef * bonus
        self._backward(hidden, judged, terms.gradient, (2 * c.value_coef) * weight * error)
        losses = torch.from_numpy(np.array([total, policy_loss, value_loss, bonus], np.float32))
        return RolloutLoss(A2CLoss(*losses.unbind()), torch.from_numpy(target), torch.from_numpy(value))

    def _backward(self, hidden: list[NDArray], judged: list[NDArray], head: NDArray, value: NDArray) -> None:
        """From the gradients of the policy head's outputs ``[N, outputs]`` and of the values ``[N]``."""
        acted = self._actor.head_backward(hidden, head)
        valued = self._critic.head_backward(judged, value[:, None])
        if self._shared:
            acted += valued
        else:
            self._critic.backward(judged, valued)
        self._actor.backward(hidden, acted)


def _advantages(r: Rollout, value: NDArray, c: Coefficients) -> NDArray:
    """``gala.rl.a2c.rollout_advantages`` of values ``[T, B]``."""
    terminated, truncated = r.terminated.numpy(), r.truncated.numpy()
    v_next = np.concatenate([value[1:], r.last_value.numpy()[None]])
    discount = np.float32(c.gamma) * ~terminated
    delta = r.reward.numpy() + discount * np.where(truncated, r.v_final.numpy(), v_next) - value
    decay = np.float32(c.gae_lambda) * discount * ~truncated
    for t in range(len(delta) - 2, -1, -1):
        delta[t] += decay[t] * delta[t + 1]
    return delta
