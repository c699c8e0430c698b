"""The residual encoder: published sizes, weights that are really shared, and depth that does not explode."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gala.config.schema import ModelConfig
from gala.gossip.flat import flatten_parameters
from gala.models.actor_critic import build_actor_critic, num_parameters
from gala.models.encoders import make_encoder
from gala.models.residual import ResidualStack, run_steps

IMAGE, ACTIONS = gym.spaces.Box(0, 255, (3, 64, 64), np.uint8), gym.spaces.Discrete(15)
REMEDIES = {"block_norm": "group", "block_scale": 0.1}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 626_256),
        ({"pooling": "mean"}, 110_160),
        ({"pooling": "mean", "shared_blocks": True}, 68_528),
        ({"pooling": "mean", "blocks": 10}, 443_216),
        ({"pooling": "mean", "blocks": 10, "shared_blocks": True}, 68_528),
        # per use two norms of 2 x channels, and one scale
        ({"pooling": "mean", "shared_blocks": True, **REMEDIES}, 68_528 + 2 * (2 * 2 * (16 + 32 + 32) + 3)),
    ],
)
def test_sizes_are_the_published_ones_and_are_what_a_message_holds(settings, count):
    policy = build_actor_critic(IMAGE, ACTIONS, ModelConfig(encoder="impala", **settings))
    assert num_parameters(policy) == count == flatten_parameters(policy.parameters()).numel()


@torch.no_grad()
def test_the_encoder_is_its_layers_called_one_by_one():
    encoder = make_encoder(IMAGE, ModelConfig(encoder="impala")).double()
    for layer in encoder.modules():
        if getattr(layer, "bias", None) is not None:
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    obs = torch.randint(0, 256, (3, *IMAGE.shape), dtype=torch.uint8)
    left = iter(encoder.parameters())
    x = obs.double() / 255
    for channels in (16, 32, 32):
        x = F.conv2d(x, next(left), next(left), padding=1)
        x = F.max_pool2d(x, 3, 2, padding=1)
        assert x.shape[1] == channels
        for _ in range(2):
            h = F.conv2d(F.relu(x), next(left), next(left), padding=1)
            x = x + F.conv2d(F.relu(h), next(left), next(left), padding=1)
    x = F.relu(F.linear(F.relu(x).flatten(1), next(left), next(left)))
    torch.testing.assert_close(encoder(obs), x)
    torch.testing.assert_close(run_steps(encoder.steps(), encoder.scaled(obs)), x)
    assert next(left, None) is None


def test_one_shared_use_is_one_unshared_use():
    def stack(shared):
        torch.manual_seed(0)
        return ResidualStack(8, 1, shared=shared, norm="group", scale=0.1)

    h = torch.randn(2, 8, 5, 5)
    one, other = stack(True), stack(False)
    assert list(one.state_dict()) == list(other.state_dict())
    assert torch.equal(one(h), other(h))


@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_shared_gradient_is_the_sum_over_its_uses(norm):
    shared = ResidualStack(8, 3, shared=True, norm=norm, scale=0.1).double()
    apart = ResidualStack(8, 3, shared=False, norm=norm, scale=0.1).double()
    for block in apart.blocks:
        block.load_state_dict(shared.blocks[0].state_dict())
    assert len(list(shared.blocks.parameters())) == 4 and len(list(apart.blocks.parameters())) == 12
    h = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    for stack in (shared, apart):
        stack(h).pow(3).sum().backward()
    for name, p in shared.blocks[0].named_parameters():
        each = [dict(block.named_parameters())[name].grad for block in apart.blocks]
        assert all(g.norm() > 0 for g in each)
        torch.testing.assert_close(p.grad, sum(each), rtol=1e-10, atol=1e-10)
    for a, b in zip(shared.scales, apart.scales, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def growth(seed, **settings):
    """(activations, gradient) of 13 uses of one block of 16 channels: last over first, first over last."""
    torch.manual_seed(seed)
    stack = ResidualStack(16, 13, shared=True, **settings)
    for p in stack.blocks.parameters():
        if p.dim() > 1:
            nn.init.kaiming_normal_(p, nonlinearity="relu")
    first = torch.randn(32, 16, 8, 8, requires_grad=True)
    last = stack(first)
    loss = (last * torch.randn_like(last)).sum()
    at_first, at_last = torch.autograd.grad(loss, [first, last])
    return float((last.norm() / first.norm()).detach()), float(at_first.norm() / at_last.norm())


@pytest.mark.parametrize("seed", range(3))
def test_thirteen_uses_of_a_block_explode_unless_each_has_its_own_small_scale(seed):
    assert min(growth(seed, norm="none", scale=0.0)) >= 50
    assert 3 < max(growth(seed, norm="group", scale=0.0)) < 50
    assert max(growth(seed, norm="none", scale=0.1)) <= 3
    assert max(growth(seed, norm="group", scale=0.1)) <= 3


def test_width_multiplies_channels():
    wide = make_encoder(IMAGE, ModelConfig(encoder="impala", width=2, pooling="mean"))
    assert [layer.out_channels for layer in wide.convs if isinstance(layer, nn.Conv2d)] == [32, 64, 64]


def test_a_copy_computes_the_same():
    """Shared blocks stay shared, and steps belong to the copy."""
    encoder = make_encoder(IMAGE, ModelConfig(encoder="impala", shared_blocks=True, **REMEDIES))
    other = copy.deepcopy(encoder)
    other.load_state_dict(encoder.state_dict())
    obs = torch.randint(0, 256, (2, *IMAGE.shape), dtype=torch.uint8)
    assert torch.equal(encoder(obs), other(obs)) and num_parameters(encoder) == num_parameters(other)
