"""Dense policies on a CPU without modules, autograd and a second pass: the same numbers for a third of the time.

For layers of a few dozen units, what PyTorch does around its matrix products costs several times what they do. Here a
policy of dense layers is computed straight from the memory of its parameters, and its gradient, written out by hand,
goes straight into the memory of theirs, from the layers' outputs that were kept when actions were chosen. Everything
else (distributions, the loss, advantages, the rollout) is what every other policy uses. ``gala.build.policy.make_lean``
is the door.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gala.rl.a2c import Coefficients, RolloutLoss, a2c_loss, normalize, rollout_advantages
from gala.rl.rollout import ActionDistribution, Rollout


class LeanOutputs(NamedTuple):
    """As ``Outputs``, and what the gradient needs: the outputs ``[B, width]`` of each trunk's hidden layers."""

    params: Tensor
    value: Tensor
    state: Tensor
    hidden: list[list[Tensor]]


class _Activation(NamedTuple):
    """``backward(gradient, output)``: the gradient of the input, from that of the output."""

    forward_: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.Tanh: _Activation(torch.tanh_, torch.ops.aten.tanh_backward.default),
    nn.ReLU: _Activation(torch.relu_, lambda gradient, y: torch.ops.aten.threshold_backward.default(gradient, y, 0)),
}


class _Linear:
    """y = x W^T + b, in the memory of a layer's parameters and of their gradients."""

    def __init__(self, layer: nn.Linear) -> None:
        assert layer.weight.grad is not None and layer.bias.grad is not None, "gradients must be views of a flat one"
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._transposed = self._weight.t()
        self._weight_grad, self._bias_grad = layer.weight.grad, layer.bias.grad

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self._bias, x, self._transposed)

    def set_gradients(self, x: Tensor, gradient: Tensor) -> None:
        """From the layer's input and the gradient of its output; replaces what was there."""
        torch.mm(gradient.t(), x, out=self._weight_grad)
        torch.sum(gradient, 0, out=self._bias_grad)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the input, from that of the output."""
        return torch.mm(gradient, self._weight)


class _Trunk:
    """The hidden layers of an encoder, with one activation after each."""

    def __init__(self, encoder: Any) -> None:
        self._layers = [_Linear(layer) for layer in encoder.layers if isinstance(layer, nn.Linear)]
        kinds = {type(layer) for layer in encoder.layers} - {nn.Flatten, nn.Linear}
        assert len(kinds) <= 1, kinds
        self._activation = _ACTIVATIONS[kinds.pop() if kinds else nn.ReLU]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """The outputs of all layers, from those of the first on."""
        outputs = []
        for layer in self._layers:
            x = self._activation.forward_(layer(x))
            outputs.append(x)
        return outputs

    def backward(self, x: Tensor, outputs: Sequence[Tensor], gradient: Tensor) -> None:
        """Sets the gradients of all layers, from that of the last one's output."""
        for i in range(len(self._layers) - 1, -1, -1):
            gradient = self._activation.backward(gradient, outputs[i])
            self._layers[i].set_gradients(outputs[i - 1] if i else x, gradient)
            if i:
                gradient = self._layers[i].backward(gradient)


class LeanPolicy:
    """A policy with dense encoders (``gala.models.encoders.MLP``), without recurrence, dropout or auxiliary losses.

    It acts as the ``Policy`` that it is made of, and always keeps what ``set_gradient`` needs. Parameters may change in
    place at any time (optimiser, gossip, a checkpoint), since there is no copy of them; they and their ``.grad`` must
    not be replaced. Nothing here asks autograd for a graph: the views of parameters are detached.

    Args:
        module: an ``ActorCritic`` on the CPU, in float32, whose parameters have gradients.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._log_std = self._log_std_grad = None
        if module.log_std is not None:
            self._log_std, self._log_std_grad = module.log_std.detach(), module.log_std.grad
        trunks = [module.encoder] + ([] if module.critic_encoder is None else [module.critic_encoder])
        self._trunks = [_Trunk(trunk) for trunk in trunks]
        self._policy_head, self._value_head = _Linear(module.policy_head), _Linear(module.value_head)

    @property
    def distribution(self) -> ActionDistribution:
        return self.module.distribution

    def __call__(self, obs: Tensor, state: Tensor, first: Tensor, with_value: bool = True) -> LeanOutputs:
        x = obs.flatten(1).float()
        hidden = [trunk(x) for trunk in self._trunks]
        params = self._policy_head(_last(hidden[0], x))
        if self._log_std is not None:
            params = torch.cat([params, self._log_std.expand_as(params)], -1)
        return LeanOutputs(params, self._value_head(_last(hidden[-1], x)).squeeze(-1), state, hidden)

    def act(self, params: Tensor, *, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        return self.module.act(params, greedy=greedy, generator=generator)

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return self.module.initial_state(batch, device)

    def unroll(self, obs: Tensor, state: Tensor, first: Tensor) -> Any:
        return self.module.unroll(obs, state, first)

    def auxiliary_loss(self, obs: Tensor, action: Tensor, reward: Tensor, known: Tensor) -> Tensor | None:
        return self.module.auxiliary_loss(obs, action, reward, known)

    def stack(self, groups: Sequence[Sequence[LeanOutputs]]) -> LeanOutputs:
        """T consecutive calls for each group of rows as one: ``params [T, B, P]``, ``value [T, B]``, ``hidden``
        ``[T x B, width]``."""

        def joined(pick: Callable[[LeanOutputs], Tensor]) -> Tensor:
            parts = [torch.stack([pick(out) for out in steps]) for steps in groups]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        hidden = [
            [joined(lambda out, i=i, j=j: out.hidden[i][j]).flatten(0, 1) for j in range(len(outputs))]  # type: ignore[misc]
            for i, outputs in enumerate(groups[0][0].hidden)
        ]
        state = torch.cat([steps[-1].state for steps in groups])
        return LeanOutputs(joined(lambda out: out.params), joined(lambda out: out.value), state, hidden)

    def set_gradient(self, rollout: Rollout, coefficients: Coefficients, entropy_coef: float) -> RolloutLoss:
        """``gala.rl.a2c.rollout_loss`` of a rollout that this policy has acted in, and its gradient in the parameters'
        ``.grad``, in place of what was there."""
        r, c, out = rollout, coefficients, rollout.acting
        assert isinstance(out, LeanOutputs), "the rollout was collected by another policy, or without keep_graph"
        advantage = rollout_advantages(r, out.value, c.gamma, c.gae_lambda)
        target = advantage + out.value
        if c.normalize_advantages:
            advantage = normalize(advantage, r.valid)
        family = self.distribution
        loss = a2c_loss(
            family.log_prob(out.params, r.action),
            family.entropy(out.params),
            out.value,
            target,
            advantage,
            r.valid,
            value_coef=c.value_coef,
            entropy_coef=entropy_coef,
        )
        weight = r.valid / r.valid.sum().clamp(min=1)
        params_gradient = family.gradient(out.params, r.action, -weight * advantage, -entropy_coef * weight)
        value_gradient = 2 * c.value_coef * weight * (out.value - target)
        self._backward(r.obs.flatten(0, 1), out.hidden, params_gradient.flatten(0, 1), value_gradient.view(-1, 1))
        return RolloutLoss(loss, target, out.value)

    def _backward(self, obs: Tensor, hidden: list[list[Tensor]], params: Tensor, value: Tensor) -> None:
        """From the gradients of the distribution's parameters ``[N, P]`` and of the values ``[N, 1]``."""
        x = obs.flatten(1).float()
        if self._log_std is not None:
            params, log_std = params.split([params.shape[1] - len(self._log_std), len(self._log_std)], 1)
            torch.sum(log_std, 0, out=self._log_std_grad)
        gradients = []
        for head, outputs, gradient in ((self._policy_head, hidden[0], params), (self._value_head, hidden[-1], value)):
            head.set_gradients(_last(outputs, x), gradient)
            gradients.append(head.backward(gradient))
        if len(self._trunks) == 1:
            gradients = [gradients[0] + gradients[1]]
        for trunk, outputs, gradient in zip(self._trunks, hidden, gradients, strict=True):
            trunk.backward(x, outputs, gradient)


def _last(outputs: Sequence[Tensor], x: Tensor) -> Tensor:
    """A trunk without layers is its input."""
    return outputs[-1] if outputs else x
