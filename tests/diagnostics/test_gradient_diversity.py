"""Gradients of groups of simulators against ones that are taken one by one, and their cosines in closed form."""

import dataclasses

import pytest
import torch
from test_curvature import actor_critic

from gala.config.schema import A2CConfig
from gala.diagnostics.curvature import flat, gradient
from gala.diagnostics.gradient_diversity import cosines, group_gradients, mean_of_pairs
from gala.diagnostics.landscape import parameters_at
from gala.diagnostics.noise_scale import per_environment_gradients
from gala.rl.a2c import rollout_loss

SETTINGS = A2CConfig(gamma=0.9, gae_lambda=0.8, value_coef=0.7)


def test_groups_at_equal_parameters_add_up_to_the_gradient_of_each_simulator():
    policy, rollout = actor_critic()
    params = list(policy.parameters())
    rollout = dataclasses.replace(rollout, valid=torch.ones_like(rollout.valid))  # groups weigh the same
    envs = rollout.valid.shape[1]
    here = flat([p.detach() for p in params])
    single = per_environment_gradients(policy, rollout, SETTINGS, 0.01, params)
    found = group_gradients(policy, rollout, SETTINGS, 0.01, params, [here] * 2)
    half = envs // 2
    wanted = torch.stack([single[:half].mean(0), single[half : 2 * half].mean(0)])
    torch.testing.assert_close(found, wanted.to(found.dtype), rtol=1e-4, atol=1e-6)


def test_a_group_has_the_gradient_at_its_own_point_and_the_policy_is_left_as_it_was():
    policy, rollout = actor_critic()
    params = list(policy.parameters())
    here = flat([p.detach() for p in params])
    other = here + 0.3 * torch.randn(here.shape, generator=torch.Generator().manual_seed(1), dtype=here.dtype)
    found = group_gradients(policy, rollout, SETTINGS, 0.01, params, [other])
    assert torch.equal(flat([p.detach() for p in params]), here)
    frozen = dataclasses.replace(rollout, acting=None)
    with parameters_at(params, other):
        wanted = gradient(lambda: rollout_loss(policy, frozen, SETTINGS, 0.01).loss.total, params)
    torch.testing.assert_close(found[0], wanted)
    at_equal = group_gradients(policy, rollout, SETTINGS, 0.01, params, [here])
    assert not torch.allclose(at_equal, found)
    with pytest.raises(ValueError, match="simulators cannot be shared among 99 groups"):
        group_gradients(policy, rollout, SETTINGS, 0.01, params, [here] * 99)


def test_cosines_are_those_of_known_angles():
    matrix = cosines(torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, -1.0], [0.0, 0.0]]))
    root = 0.5**0.5
    wanted = [[1, root, 0, 0], [root, 1, -root, 0], [0, -root, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(matrix, torch.tensor(wanted, dtype=torch.float64))
    assert mean_of_pairs(matrix[:3, :3]) == pytest.approx(0.0, abs=1e-12)
    assert mean_of_pairs(torch.full((3, 3), 0.25)) == pytest.approx(0.25)
