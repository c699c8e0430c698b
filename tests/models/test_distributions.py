"""Action distributions against torch.distributions, and samples against their probabilities."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import distributions as td

from gala.models.distributions import distribution_for


def test_categorical():
    family = distribution_for(gym.spaces.Discrete(5))
    logits, oracle = (x := torch.randn(3, 4, 5)), td.Categorical(logits=x)
    action = torch.randint(0, 5, (3, 4))
    torch.testing.assert_close(family.log_prob(logits, action), oracle.log_prob(action))
    torch.testing.assert_close(family.entropy(logits), oracle.entropy())
    assert torch.equal(family.mode(logits), oracle.mode)


def test_multi_categorical():
    family = distribution_for(gym.spaces.MultiDiscrete([2, 3]))
    params = torch.randn(7, 5)
    parts = [td.Categorical(logits=params[:, :2]), td.Categorical(logits=params[:, 2:])]
    action = torch.stack([p.sample() for p in parts], -1)
    oracle = sum(p.log_prob(a) for p, a in zip(parts, action.unbind(-1), strict=True))
    torch.testing.assert_close(family.log_prob(params, action), oracle)
    torch.testing.assert_close(family.entropy(params), sum(p.entropy() for p in parts))
    assert family.sample(params, None).shape == (7, 2) == family.mode(params).shape


def test_gaussian():
    family = distribution_for(gym.spaces.Box(-1, 1, (3,)))
    params = torch.randn(6, 6)
    oracle = td.Independent(td.Normal(params[:, :3], params[:, 3:].exp()), 1)
    action = oracle.sample()
    torch.testing.assert_close(family.log_prob(params, action), oracle.log_prob(action))
    torch.testing.assert_close(family.entropy(params), oracle.entropy())
    many = family.sample(params[:1].expand(20000, 6), torch.Generator().manual_seed(0))
    torch.testing.assert_close(many.mean(0), params[0, :3], atol=0.15, rtol=0.05)
    torch.testing.assert_close(many.std(0), params[0, 3:].exp(), atol=0.05, rtol=0.05)


def test_samples_follow_the_probabilities_and_the_generator():
    family = distribution_for(gym.spaces.Discrete(3))
    logits = torch.tensor([0.1, 0.6, 0.3]).log().expand(30000, 3)
    draws = family.sample(logits, torch.Generator().manual_seed(1))
    assert torch.equal(draws, family.sample(logits, torch.Generator().manual_seed(1)))
    assert not torch.equal(draws, family.sample(logits, torch.Generator().manual_seed(2)))
    np.testing.assert_allclose(torch.bincount(draws) / 30000, [0.1, 0.6, 0.3], atol=0.01)


def test_unsupported_space():
    with pytest.raises(ValueError, match="not supported"):
        distribution_for(gym.spaces.Text(3))


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(4), gym.spaces.MultiDiscrete([2, 3]), gym.spaces.Box(-1, 1, (2,))], ids=str
)
def test_the_root_of_the_fisher_information_is_that_of_a_hundred_thousand_draws(space):
    family = distribution_for(space)
    params = (
        0.5 * torch.randn(family.num_outputs + family.num_log_std, generator=torch.Generator().manual_seed(0))
    ).double()
    rows = params.expand(100_000, -1).clone().requires_grad_()
    action = family.sample(rows.detach(), torch.Generator().manual_seed(1))
    (scores,) = torch.autograd.grad(family.log_prob(rows, action).sum(), rows)
    root = family.fisher_root(params.expand(3, 2, -1))[1, 1]
    fisher = root @ root.T
    assert (scores.T @ scores / 100_000 - fisher).norm() < 0.01 * fisher.norm()
    if isinstance(space, gym.spaces.Discrete):
        p = torch.softmax(params, -1)
        torch.testing.assert_close(fisher, p.diag() - torch.outer(p, p))
