"""A policy whose actions are masked: what is not allowed has probability 0 in everything that is made of it."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.parts import with_mask

from gala.build.learning import normalizer_of
from gala.config.schema import ModelConfig
from gala.evaluation.export import Graph
from gala.gossip.flat import flatten_parameters
from gala.models.actor_critic import build_actor_critic
from gala.rl.fisher import fisher_losses
from gala.rl.lean import LeanPolicy

DISCRETE, MULTI = gym.spaces.Discrete(4), gym.spaces.MultiDiscrete([2, 3])
BOX, IMAGE = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(0, 255, (2, 10, 10), np.uint8)


def masked_policy(action_space, obs_space=BOX, **model):
    n = 4 if action_space is DISCRETE else 5
    torch.manual_seed(0)
    policy = build_actor_critic(with_mask(obs_space, n), action_space, ModelConfig(hidden=(8,), **model))
    torch.nn.init.normal_(policy.policy_head.weight)
    torch.nn.init.normal_(policy.policy_head.bias, std=3.0)
    return policy


def observations(action_space, rows=64):
    rng = np.random.default_rng(1)
    masks = [rng.random((rows, n)) < 0.5 for n in ([4] if action_space is DISCRETE else [2, 3])]
    for mask in masks:
        mask[np.arange(rows), rng.integers(mask.shape[1], size=rows)] = True
    mask = torch.from_numpy(np.concatenate(masks, 1)).float()
    return torch.cat([torch.from_numpy(rng.normal(size=(rows, 3))).float(), mask], 1), mask


def outputs(policy, obs):
    return policy(obs, policy.initial_state(len(obs)), torch.ones(len(obs), dtype=torch.bool))


@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
def test_probabilities_entropy_and_kl_are_those_of_the_allowed_actions_alone(space):
    """Against distributions that are built of the allowed logits and nothing else."""
    policy = masked_policy(space)
    obs, mask = observations(space)
    params, d = outputs(policy, obs).params, policy.distribution
    logits = policy.policy_head(policy.encoder(obs[:, :3]))
    sizes = [4] if space is DISCRETE else [2, 3]
    entropy = torch.zeros(len(obs))
    for its, kept, given in zip(logits.split(sizes, 1), mask.split(sizes, 1), params.split(sizes, 1), strict=True):
        assert torch.softmax(given, -1)[kept == 0].eq(0).all()
        for row in range(len(obs)):
            alone = torch.distributions.Categorical(logits=its[row, kept[row] > 0])
            entropy[row] += alone.entropy()
            torch.testing.assert_close(torch.softmax(given[row], -1)[kept[row] > 0], alone.probs)
    torch.testing.assert_close(d.entropy(params), entropy)
    assert d.kl(params, params).eq(0).all() and d.kl(params, params.roll(1, -1).nan_to_num()).isfinite().all()
    root = d.fisher_root(params)
    assert root.isfinite().all() and root[mask == 0].eq(0).all() and root.transpose(-1, -2)[mask == 0].eq(0).all()


@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize("lean", [False, True], ids=["module", "lean"])
def test_no_draw_and_no_greedy_choice_is_forbidden(space, lean):
    policy = masked_policy(space)
    obs, mask = observations(space, 2_000)
    actor = policy
    if lean:
        flat = flatten_parameters(policy.parameters())
        flat.grad = torch.zeros_like(flat)
        for p in policy.parameters():
            p.grad = torch.zeros_like(p)
        actor = LeanPolicy(policy, space)
    with torch.no_grad():
        out = outputs(actor, obs)
        torch.testing.assert_close(out.params, outputs(policy, obs).params)
        starts = torch.tensor([0] if space is DISCRETE else [0, 2])
        for greedy in (False, True):
            action = actor.act(out.params, greedy=greedy, generator=torch.Generator().manual_seed(0))
            places = action.reshape(len(obs), -1) + starts
            assert mask.gather(1, places).eq(1).all()


def test_no_gradient_reaches_what_is_forbidden_and_all_of_it_is_finite():
    policy = masked_policy(DISCRETE)
    obs, _ = observations(DISCRETE)
    obs[:, -4:] = torch.tensor([1.0, 0, 0, 1])
    out = outputs(policy, obs)
    d, action = policy.distribution, torch.full((len(obs),), 3)
    losses = [(d.log_prob(out.params, action) + 0.1 * d.entropy(out.params)).mean()]
    for kind in ("sampled", "empirical", "exact"):
        losses += [loss.mean() for loss in fisher_losses(policy, out, action, kind, 1.0)]
    for loss in losses:
        (grad,) = torch.autograd.grad(loss, policy.policy_head.bias, retain_graph=True, allow_unused=True)
        assert grad is None or (grad.isfinite().all() and grad[1:3].eq(0).all())


def test_a_network_with_masks_is_the_one_without_and_images_keep_their_shape():
    obs, mask = torch.randint(0, 255, (5, 2, 10, 10), dtype=torch.uint8), torch.tensor([[1, 0, 0, 1]] * 5)
    policy = masked_policy(DISCRETE, IMAGE, encoder="minatar_cnn", augment="cutout", dynamics_coef=1.0).eval()
    torch.manual_seed(0)
    plain = build_actor_critic(IMAGE, DISCRETE, policy_settings := ModelConfig(hidden=(8,), encoder="minatar_cnn"))
    assert (
        policy_settings
        and {k: v.shape for k, v in plain.state_dict().items()}.items()
        <= {k: v.shape for k, v in policy.state_dict().items()}.items()
    )
    both = torch.cat([obs.flatten(1), mask.to(torch.uint8)], 1)
    torch.testing.assert_close(policy.seen(both), obs)
    flags = torch.zeros(5, dtype=torch.bool)
    out = policy.unroll(both.unsqueeze(1), policy.initial_state(1), flags.unsqueeze(1))
    assert torch.softmax(out.params, -1)[..., 1:3].eq(0).all()
    assert policy.auxiliary_loss(
        both.unsqueeze(1), flags.long().unsqueeze(1), flags.float().unsqueeze(1), ~flags[:4, None]
    )


def test_a_normaliser_leaves_the_mask_alone():
    normalizer, plain = normalizer_of(with_mask(BOX, 2), 5.0), normalizer_of(BOX, 5.0)
    rng = np.random.default_rng(0)
    obs, mask = rng.normal(3, 2, (50, 3)).astype("f4"), (rng.random((50, 2)) < 0.5).astype("f4")
    normalizer.update(np.concatenate([obs, mask], 1))
    plain.update(obs)
    np.testing.assert_array_equal(normalizer(np.concatenate([obs, mask], 1)), np.concatenate([plain(obs), mask], 1))


def test_an_exported_graph_normalises_what_is_no_mask():
    policy, normalizer = masked_policy(DISCRETE).eval(), normalizer_of(with_mask(BOX, 4), 5.0)
    obs, mask = observations(DISCRETE)
    normalizer.update(3 * obs.numpy() + 1)
    graph = Graph(policy, normalizer, DISCRETE)
    with torch.no_grad():
        action, params, value = graph(obs)
        wanted = outputs(policy, torch.from_numpy(normalizer(obs.numpy())))
    torch.testing.assert_close(params, wanted.params)
    torch.testing.assert_close(value, wanted.value)
    assert mask.gather(1, action[:, None]).eq(1).all()
