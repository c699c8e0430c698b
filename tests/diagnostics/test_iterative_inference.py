"""Blocks whose effect is known in closed form, gradients taken a second way, and networks cut by hand."""

import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from gala.config.schema import A2CConfig, ModelConfig
from gala.diagnostics import iterative_inference as ii
from gala.diagnostics import residual_blocks
from gala.models.actor_critic import build_actor_critic
from gala.models.residual import ResidualStack, Step, run_steps, steps_of
from gala.rl.a2c import rollout_loss
from gala.rl.rollout import Rollout


def tensor(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def head():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 1)).double()


def down(head, h, eps):
    """F with F = -eps dL/dh at h + F: the fixed point, which eps makes a contraction."""
    update = torch.zeros_like(h)
    for _ in range(60):
        at = (h + update).requires_grad_()
        (grad,) = torch.autograd.grad(head(at).sum(), at)
        update = -eps * grad
    return update


def test_a_block_that_descends_has_cosine_minus_one(head):
    h = tensor(5, 3, 4)
    update = down(head, h, 0.05)
    (row,) = ii.block_updates([Step(lambda _: update, 0, 0)], h, lambda x: {"total": head(x).sum()})
    assert update.norm() > 1e-3 and (row.cosine["total"] + 1).abs().max() < 1e-10
    (up,) = ii.block_updates([Step(lambda _: -update, 0, 0)], h - update, lambda x: {"total": head(x).sum()})
    assert (up.cosine["total"] > 0.99).all()


def test_first_order_is_the_first_order_of_the_loss(head):
    h, errors, ratios = tensor(5, 3, 4), [], []
    for eps in (0.1, 0.05, 0.025, 0.0125):
        update = down(head, h, eps)
        (row,) = ii.block_updates([Step(lambda _, u=update: u, 0, 0)], h, lambda x: {"total": head(x).sum()})
        change = (head(h + update) - head(h)).flatten().detach()
        errors.append((change - row.first_order["total"]).abs() / eps**2)
        ratios.append(change / row.first_order["total"])
    assert (torch.stack(errors).amax(0) <= 1.5 * errors[-1] + 1e-9).all()  # bounded: halving eps no longer changes it
    assert (ratios[-1] - 1).abs().max() < 0.02 and (ratios[-1] - 1).abs().max() < (ratios[0] - 1).abs().max() / 4


def stack_and_head(**settings):
    torch.manual_seed(1)
    stack = ResidualStack(4, 3, shared=settings.pop("shared", False), norm="group", scale=0.5).double()
    return steps_of([nn.Conv2d(2, 4, 3).double(), stack, nn.ReLU(), nn.Flatten()]), tensor(6, 2, 5, 5)


def losses(x):
    return {"policy": x.pow(3).sum(), "value": (x - 1).square().sum()}


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_those_with_each_input_as_a_leaf(shared):
    steps, x = stack_and_head(shared=shared)
    rows = ii.block_updates(steps, x, losses)
    assert [(row.stage, row.block) for row in rows] == [(0, 0), (0, 1), (0, 2)]
    for i, row in enumerate(rows):
        leaf = run_steps(steps[: 1 + i], x).detach().requires_grad_()
        update = steps[1 + i].run(leaf).detach().flatten(1)
        torch.testing.assert_close(row.norm_ratio, update.norm(dim=1) / leaf.detach().flatten(1).norm(dim=1))
        for name, loss in losses(run_steps(steps[1 + i :], leaf)).items():
            (grad,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            dot = (grad.flatten(1) * update).sum(1)
            torch.testing.assert_close(row.first_order[name], dot, rtol=1e-12, atol=1e-12)
            cosine = torch.cosine_similarity(grad.flatten(1), update, dim=1)
            torch.testing.assert_close(row.cosine[name], cosine, rtol=0, atol=1e-12)


def test_a_row_does_not_depend_on_the_others_or_on_how_they_are_reduced():
    steps, x = stack_and_head()
    whole = ii.block_updates(steps, x, losses)
    means = ii.block_updates(steps, x, lambda x: {"policy": x.pow(3).mean(), "value": (x - 1).square().mean()})
    for row in range(len(x)):
        alone = ii.block_updates(steps, x[row : row + 1], losses)
        for a, b, c in zip(alone, whole, means, strict=True):
            for name in ("policy", "value"):
                torch.testing.assert_close(a.cosine[name][0], b.cosine[name][row], rtol=0, atol=1e-12)
                torch.testing.assert_close(a.cosine[name][0], c.cosine[name][row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("c", [-0.5, 2.0, 0.0])
def test_the_norm_ratio_of_a_multiple_is_its_factor(c):
    (row,) = ii.block_updates([Step(lambda h: c * h, 0, 0)], tensor(4, 3), lambda x: {"total": x.square().sum()})
    torch.testing.assert_close(row.norm_ratio, torch.full((4,), abs(c), dtype=torch.float64))
    torch.testing.assert_close(row.cosine["total"], torch.full((4,), float(np.sign(c)), dtype=torch.float64))


def make_batch(action=None, **settings):
    torch.manual_seed(2)
    space, action = gym.spaces.Box(0, 255, (2, 16, 16), np.uint8), action or gym.spaces.Discrete(4)
    policy = build_actor_critic(space, action, ModelConfig(encoder="impala", **settings)).eval()
    nn.init.orthogonal_(policy.policy_head.weight, 0.1)
    t, n = 3, 5
    no = torch.zeros(t, n, dtype=torch.bool)
    rollout = Rollout(
        obs=torch.randint(0, 256, (t, n, *space.shape), dtype=torch.uint8),
        first=torch.rand(t, n) < 0.3,
        action=torch.as_tensor(np.array([[action.sample() for _ in range(n)] for _ in range(t)])),
        reward=torch.randn(t, n),
        terminated=torch.rand(t, n) < 0.2,
        truncated=no,
        valid=~no,
        v_final=torch.zeros(t, n),
        state=torch.randn(n, policy.gru_size),
        last_value=torch.randn(n),
    )
    return policy, rollout, ii.Batch(policy, rollout, A2CConfig(), 0.01)


@pytest.mark.parametrize("settings", [{}, {"gru_size": 6}, {"shared_blocks": True, "block_norm": "group"}])
def test_the_whole_network_is_unchanged_and_its_loss_is_that_of_training(settings):
    policy, rollout, batch = make_batch(**settings)
    loss = rollout_loss(policy, rollout, A2CConfig(), 0.01).loss
    got = batch.losses(run_steps(batch.steps, batch.start))
    for name in ("policy", "value", "total"):
        torch.testing.assert_close(got[name], getattr(loss, name))
    rows = ii.blocks(batch)
    assert [(row.stage, row.block) for row in rows] == [(s, b) for s in range(3) for b in range(2)]
    for row in rows[1::2]:  # nothing follows the last block of a stage
        assert row.exit == (0.0, 1.0, 1.0, pytest.approx(loss.total.item(), rel=1e-6))
    for row in rows[::2]:
        assert row.exit.kl > 1e-6 and row.exit.value_r2 < 1 and row.dropped.kl > 1e-6
    assert ii.unrolling(batch, 1, [0])[0] == rows[1].exit


def test_a_block_of_zeros_does_nothing_and_leaves_nothing_out():
    policy, _, _ = make = make_batch()
    nn.init.zeros_(policy.encoder.convs[5].blocks[0][1].weight)
    row = ii.blocks(make[2])[2]
    assert (row.stage, row.block, row.norm_ratio) == (1, 0, 0.0) and set(row.cosine.values()) == {0.0}
    assert row.dropped[:3] == (0.0, 1.0, 1.0) and row.exit.kl > 0


@torch.no_grad()
def test_exits_and_drops_are_networks_cut_by_hand():
    policy, rollout, batch = make_batch()
    convs = policy.encoder.convs
    whole = policy.unroll(rollout.obs, rollout.state, rollout.first)
    for row in ii.blocks(batch):
        for kept, change in (({*range(row.block + 1)}, row.exit), ({0, 1} - {row.block}, row.dropped)):
            x, stage = batch.start, -1
            for layer in convs:
                stage += isinstance(layer, ResidualStack)
                if isinstance(layer, ResidualStack) and stage == row.stage:
                    for k in sorted(kept):
                        x = x + layer.update(k, x)
                else:
                    x = layer(x)
            logits = policy.policy_head(policy.encoder.dense(x)).view(3, 5, 4)
            value = policy.value_head(policy.encoder.dense(x)).view(3, 5)
            p, q = (torch.distributions.Categorical(logits=each) for each in (whole.params, logits))
            assert change.kl == pytest.approx(torch.distributions.kl_divergence(p, q).mean().item(), abs=1e-6)
            assert change.agreement == pytest.approx((p.probs.argmax(-1) == q.probs.argmax(-1)).float().mean().item())
            error = ((value - whole.value) ** 2).mean() / whole.value.var(correction=0)
            assert change.value_r2 == pytest.approx(1 - error.item(), rel=1e-4, abs=1e-4)


def test_actions_that_are_real_numbers_are_not_asked_whether_they_are_the_same():
    policy, rollout, batch = make_batch(gym.spaces.Box(-1.0, 1.0, (2,)))
    found = residual_blocks.judge(
        SimpleNamespace(policy=policy, rollouts=[rollout], coefficients=A2CConfig(), entropy_coef=0.01)
    )
    assert all(math.isnan(row.dropped.agreement) for row in ii.blocks(batch))
    assert all("same action" not in column for column in found.table[0]) and len({len(row) for row in found.table}) == 1
    assert "agreement" not in found.numbers["dropped"] and found.numbers["exit"]["kl"][0] > 0


@torch.no_grad()
def test_unrolling_a_shared_block_is_a_deeper_network_and_only_scaled_stays_bounded():
    torch.manual_seed(0)
    stack, deeper = (ResidualStack(16, uses, shared=True, norm="none", scale=0.0) for uses in (2, 22))
    deeper.load_state_dict(stack.state_dict())
    h = torch.randn(4, 16, 8, 8)
    steps = steps_of([stack])
    naive = run_steps(ii.unrolled(steps, 0, 20), h)
    torch.testing.assert_close(naive, deeper(h))
    once, scaled = stack(h).norm(), run_steps(ii.unrolled(steps, 0, 20, scale=0.1), h)
    assert naive.norm() >= 5 * once and scaled.norm() <= 3 * once


def test_networks_without_blocks_are_refused():
    _, rollout, _ = make_batch()
    plain = build_actor_critic(
        gym.spaces.Box(0, 255, (2, 16, 16), np.uint8), gym.spaces.Discrete(4), ModelConfig(encoder="minatar_cnn")
    )
    with pytest.raises(ValueError, match=r"train with model.encoder=impala"):
        ii.Batch(plain, rollout, A2CConfig(), 0.01)


@pytest.mark.parametrize(
    "space", [gym.spaces.Discrete(3), gym.spaces.MultiDiscrete([2, 3]), gym.spaces.Box(-1, 1, (2,))]
)
def test_the_divergence_of_every_distribution_is_torchs(space):
    distribution = build_actor_critic(gym.spaces.Box(-1, 1, (3,)), space, ModelConfig()).distribution
    width = distribution.num_outputs + distribution.num_log_std
    p, q = tensor(5, width, seed=3), tensor(5, width, seed=4)

    def parts(params):
        if isinstance(space, gym.spaces.Box):
            mean, log_std = params.chunk(2, -1)
            return [torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)]
        widths = [3] if isinstance(space, gym.spaces.Discrete) else [2, 3]
        return [torch.distributions.Categorical(logits=each) for each in params.split(widths, -1)]

    wanted = sum(torch.distributions.kl_divergence(a, b) for a, b in zip(parts(p), parts(q), strict=True))
    torch.testing.assert_close(distribution.kl(p, q), wanted)
    assert math.isclose(distribution.kl(p, p).abs().max().item(), 0, abs_tol=1e-12)
