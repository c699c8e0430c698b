"""Poolings against their limits and definitions, in double precision."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from gala.config.parse import parse_config
from gala.config.schema import ModelConfig
from gala.config.validate import validate
from gala.models.actor_critic import build_actor_critic
from gala.models.pooling import POOLING, Attention, log_mean_exp, make_pooling
from gala.training.new_run import check

MAPS = (5, 6, 7)


@pytest.fixture
def maps():
    return torch.randn(4, *MAPS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_log_mean_exp_goes_from_the_mean_to_the_maximum(maps):
    x = maps.flatten(2)
    assert (log_mean_exp(x, 1e-4) - x.mean(-1)).abs().max() < 1e-3
    below = x.amax(-1) - log_mean_exp(x, 1e3)
    assert (below >= 0).all() and (below < np.log(42) / 1e3 + 1e-12).all()
    torch.testing.assert_close(log_mean_exp(x, 2.0), torch.log(torch.exp(2 * x).mean(-1)) / 2)


@pytest.mark.parametrize("r", [1e-6, 1e-4, 1e-2, 1.0, 30.0, 1e3])
def test_log_mean_exp_is_as_exact_in_single_precision_and_so_is_its_gradient(r):
    """Log and exp of little cancelled: at 1e-6 it came in steps of a half."""
    exact = torch.randn(8, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    single = exact.detach().float().requires_grad_()
    for x in (exact, single):
        log_mean_exp(x, r).sum().backward()
    torch.testing.assert_close(log_mean_exp(single, r).double(), log_mean_exp(exact, r), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.grad.double(), torch.softmax(r * exact, -1), rtol=1e-3, atol=1e-6)


def test_attention_is_its_formula_and_with_a_query_of_zeros_the_mean(maps):
    pool = Attention(5).double()
    torch.nn.init.normal_(pool.query.weight)
    x = maps.flatten(2).transpose(1, 2)
    score = (torch.tanh(x @ pool.look.weight.T + pool.look.bias) @ pool.query.weight.T).exp()
    torch.testing.assert_close(pool(maps), (score / score.sum(1, keepdim=True) * x).sum(1))
    torch.nn.init.zeros_(pool.query.weight)
    torch.testing.assert_close(pool(maps), maps.mean((2, 3)), rtol=0, atol=1e-12)


def test_top_k_lies_between_maximum_and_mean(maps):
    ranked = maps.flatten(2).sort(-1, descending=True).values
    torch.testing.assert_close(make_pooling("top_k", MAPS, 1.0, 3)(maps), ranked[..., :3].mean(-1))
    assert torch.equal(make_pooling("top_k", MAPS, 1.0, 1)(maps), make_pooling("max", MAPS, 1.0, 1)(maps))
    torch.testing.assert_close(make_pooling("top_k", MAPS, 1.0, 42)(maps), maps.mean((2, 3)))


@pytest.mark.parametrize("name", POOLING)
def test_only_flatten_knows_where_something_is(name, maps):
    pool = make_pooling(name, MAPS, 1.0, 4).double()
    moved = maps.flatten(2)[..., torch.randperm(42)].view_as(maps)
    out = pool(maps)
    assert out.shape == (4, pool.num_features) and pool.num_features == (210 if name == "flatten" else 5)
    assert torch.allclose(out, pool(moved), rtol=0, atol=1e-12) == (name != "flatten")


def test_logits_of_the_mean_are_the_mean_of_local_logits(maps):
    head = torch.nn.Linear(5, 3).double()
    pooled = head(make_pooling("mean", MAPS, 1.0, 1)(maps))
    local = head(maps.flatten(2).transpose(1, 2)).mean(1)
    torch.testing.assert_close(pooled, local, rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoder", ["nature_cnn", "a3c_cnn", "minatar_cnn", "impala", "bagnet"])
@pytest.mark.parametrize("pooling", POOLING)
def test_every_encoder_of_images_learns_through_every_pooling(encoder, pooling):
    space = gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)
    policy = build_actor_critic(space, gym.spaces.Discrete(3), ModelConfig(encoder=encoder, pooling=pooling))
    obs = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    out = policy(obs, policy.initial_state(2), torch.zeros(2, dtype=torch.bool))
    ((out.params + 1).square().sum() + out.value.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.encoder=mlp", "model.pooling=mean"], r"model.width and model.pooling are for encoders of images"),
        (
            ["model.encoder=impala", "model.pool_temperature=3"],
            "model.pool_temperature does nothing with pooling=flatten",
        ),
        (["model.encoder=impala", "model.pool_top_k=3"], "model.pool_top_k does nothing with pooling=flatten"),
        (["model.encoder=nature_cnn", "model.blocks=3"], "model.blocks, shared_blocks, block_norm and block_scale are"),
        (["model.encoder=impala", "model.receptive_field=9"], "model.receptive_field is for model.encoder=bagnet"),
        (["model.encoder=bagnet", "model.receptive_field=10"], "model.receptive_field=10 must be 3, 5, 9, 17 or 33"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        validate(parse_config(settings))


def test_maps_too_small_are_refused():
    space, action = gym.spaces.Box(0, 1, (4, 10, 10), np.uint8), gym.spaces.Discrete(2)
    with pytest.raises(ValueError, match=r"model.pool_top_k=5 is more than the 2 x 2 locations"):
        build_actor_critic(space, action, ModelConfig(encoder="impala", pooling="top_k", pool_top_k=5))
    with pytest.raises(ValueError, match=r"too small for model.encoder=nature_cnn"):
        build_actor_critic(space, action, ModelConfig(encoder="nature_cnn"))


def test_what_the_environment_chooses_must_go_with_the_rest():
    """CartPole's encoder is dense layers, which pool nothing."""
    with pytest.raises(ValueError, match=r"model\.pooling are for encoders of images"):
        check(parse_config(["env.id=CartPole-v1", "model.pooling=mean"]))
