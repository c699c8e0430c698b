"""One update of a learner: its gradient against a loss written out entry by entry, and the order of what it does."""

import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_returns import slow_gae

from gala.config.schema import A2CConfig, ModelConfig
from gala.gossip.flat import flatten_parameters
from gala.models.actor_critic import build_actor_critic
from gala.optim.update import LearningStep
from gala.processes.child import Failure
from gala.rl.a2c import unbroken
from gala.rl.actor_learner import ActorLearner
from gala.rl.rollout import Episodes, Rollout

T, B, A = 6, 4, 3
SETTINGS = A2CConfig(gamma=0.9, gae_lambda=0.8, value_coef=0.7, max_grad_norm=0.0)
ENTROPY_COEF = 0.02


class Replayed:
    """Hands out one and the same rollout, with a termination, a time limit and rows of an autoreset in it."""

    def __init__(self):
        make = torch.Generator().manual_seed(0)
        flags = torch.zeros(3, T, B, dtype=torch.bool)
        terminated, truncated, valid = flags[0], flags[1], ~flags[2]
        terminated[2, 0] = truncated[3, 1] = truncated[5, 3] = True
        valid[3, 0] = valid[4, 1] = False
        self.rollout = Rollout(
            obs=torch.randn(T, B, 5, generator=make),
            first=torch.zeros(T, B, dtype=torch.bool),
            action=torch.randint(0, A, (T, B), generator=make),
            reward=torch.randn(T, B, generator=make),
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            v_final=torch.randn(T, B, generator=make) * truncated,
            state=torch.zeros(B, 0),
            last_value=torch.randn(B, generator=make),
        )

    def collect(self, policy):
        return self.rollout, Episodes([3.0], [7], [1])


def learner(settings=SETTINGS, model=None, **parts):
    torch.manual_seed(1)
    model = model or ModelConfig(hidden=(8,))
    policy = build_actor_critic(gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(A), model)
    for head in (policy.policy_head, policy.value_head):  # away from the near-uniform policy of the start
        torch.nn.init.normal_(head.weight)
    flat = flatten_parameters(list(policy.parameters()))
    flat.grad = torch.zeros_like(flat)
    for p, grad in zip(policy.parameters(), flat.grad.split([p.numel() for p in policy.parameters()]), strict=True):
        p.grad = grad.view_as(p)
    step = LearningStep(torch.optim.SGD([flat], lr=123.0), max_grad_norm=settings.max_grad_norm, **parts)
    return ActorLearner(Replayed(), policy, flat, step, settings)


def slow_update(one, settings):
    """(loss, gradient, value targets), one entry of the rollout at a time."""
    r, policy = one.collector.rollout, one.policy
    policy.zero_grad(set_to_none=False)
    with torch.no_grad():
        values = np.array([[float(policy(r.obs[t], r.state, r.first[t]).value[b]) for b in range(B)] for t in range(T)])
    arrays = (r.reward, r.terminated, r.truncated, torch.from_numpy(values), r.v_final)
    columns = [[x[:, b].numpy() for x in arrays] for b in range(B)]
    gammas = (settings.gamma, settings.gae_lambda)
    raw = np.stack([slow_gae(*x, float(r.last_value[b]), *gammas) for b, x in enumerate(columns)], 1)
    chosen, advantages = r.valid.numpy(), raw
    if settings.normalize_advantages:
        advantages = (raw - raw[chosen].mean()) / raw[chosen].std()
    total = torch.zeros(())
    for t, b in np.argwhere(chosen):
        out = policy(r.obs[t], r.state, r.first[t])
        log_p = torch.log_softmax(out.params[b], -1)
        error = float(raw[t, b] + values[t, b]) - out.value[b]
        entropy = -(log_p.exp() * log_p).sum()
        total = total - log_p[r.action[t, b]] * float(advantages[t, b])
        total = total + settings.value_coef * error**2 - ENTROPY_COEF * entropy
    total = total / chosen.sum()
    total.backward()
    return total.item(), one.flat.grad.clone(), raw + values


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_and_the_value_targets_are_those_of_the_loss_written_out(normalize):
    """Normalising changes what the policy learns from, and not what the values are drawn to."""
    settings = replace(SETTINGS, normalize_advantages=normalize)
    loss, gradient, targets = slow_update(learner(settings), settings)
    one = learner(settings)
    result = one.update(lr=0.0, entropy_coef=ENTROPY_COEF)
    assert result.loss.total.item() == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(one.flat.grad, gradient, rtol=1e-4, atol=1e-5)
    valid = one.collector.rollout.valid
    np.testing.assert_allclose(result.target[valid], targets[valid.numpy()], rtol=1e-4, atol=1e-5)
    assert torch.equal(result.value, one.policy.unroll(*[getattr(one.collector.rollout, x) for x in UNROLLED]).value)
    assert torch.equal(result.valid, valid) and result.valid_steps == T * B - 2
    assert result.episodes == ([3.0], [7], [1]) and result.grad_norm == one.flat.grad.norm()


UNROLLED = ("obs", "state", "first")


@pytest.mark.parametrize("share", [0.5, 0.999, 1.001, 4.0, 0.0])
def test_a_gradient_is_scaled_down_to_the_norm_and_never_up(share):
    free = learner()
    free.update(lr=0.0, entropy_coef=ENTROPY_COEF)
    gradient, norm = free.flat.grad, free.flat.grad.norm()
    one = learner(replace(SETTINGS, max_grad_norm=share * norm.item()))
    before = one.flat.clone()
    result = one.update(lr=0.25, entropy_coef=ENTROPY_COEF)
    wanted = gradient * (min(share, 1.0) if share else 1.0)
    torch.testing.assert_close(one.flat.grad, wanted, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(result.grad_norm, norm)
    torch.testing.assert_close(one.flat, before - 0.25 * wanted, rtol=1e-6, atol=1e-7)


def test_the_order_is_mean_preconditioner_clip_step_gossip_slow_momentum():
    """Of two learners of which the other has the opposite gradient times 3, so that the mean is minus the own one; the
    preconditioner adds the learning rate to the first number, and to that of the mean."""
    free = learner()
    free.update(lr=0.0, entropy_coef=ENTROPY_COEF)
    gradient, start, seen = free.flat.grad.clone(), free.flat.clone(), []
    first = torch.zeros_like(gradient)
    first[0] = 0.5

    class Adds:
        def __init__(self, what, seconds):
            self.what, self.seconds = what, seconds

        def step(self):
            seen.append((self.what, one.flat.clone()))
            time.sleep(self.seconds)
            one.flat.add_(self.what)

    wanted = first - gradient
    limit = 0.5 * wanted.norm().item()
    one = learner(
        replace(SETTINGS, max_grad_norm=limit),
        reduce_gradients=lambda grads: grads[0].copy_((grads[0] - 3 * gradient) / 2),
        precondition=lambda lr: one.flat.grad.add_(lr * (first > 0)),
        averager=Adds(1.0, 0.03),
        slowmo=Adds(2.0, 0.02),
    )
    begun = time.perf_counter()
    one.update(lr=0.5, entropy_coef=ENTROPY_COEF)
    taken_s = time.perf_counter() - begun
    stepped = start - 0.5 * 0.5 * wanted
    assert [what for what, _ in seen] == [1.0, 2.0]
    torch.testing.assert_close(seen[0][1], stepped)
    torch.testing.assert_close(seen[1][1], stepped + 1.0)
    torch.testing.assert_close(one.flat, stepped + 3.0)
    exchange_s = one.learning_step.exchange_s
    assert exchange_s >= 0.05 and one.learn_s > 0 and one.learn_s + exchange_s <= taken_s


def test_the_time_of_learning_adds_up_over_updates():
    class Sleeps:
        def step(self):
            time.sleep(0.005)

    one = learner(reduce_gradients=lambda grads: time.sleep(0.01), slowmo=Sleeps())
    begun = time.perf_counter()
    for _ in range(3):
        one.update(lr=0.0, entropy_coef=0.0)
    whole_s, exchange_s = time.perf_counter() - begun, one.learning_step.exchange_s
    assert one.learn_s >= 0.03 and exchange_s >= 0.015 and one.learn_s + exchange_s <= whole_s


def test_a_gradient_that_is_not_finite_changes_no_parameter():
    one = learner()
    one.collector.rollout.reward[0, 2] = float("inf")
    before = one.flat.clone()
    with pytest.raises(FloatingPointError, match=r"^loss inf: .* not finite; lower the learning rate") as diverged:
        one.update(lr=0.1, entropy_coef=0.0)
    assert "Traceback" not in Failure.of(diverged.value).traceback
    assert torch.equal(one.flat, before)


def test_what_a_network_learns_besides_is_added_to_the_loss():
    model = ModelConfig(hidden=(8,), dynamics_coef=0.3)
    one = learner(model=model)
    r = one.collector.rollout
    known = unbroken(r)
    follows = [
        [r.valid[t, b] and not (r.terminated[t, b] or r.truncated[t, b]) for b in range(B)] for t in range(T - 1)
    ]
    assert torch.equal(known, torch.tensor(follows))
    extra = one.policy.auxiliary_loss(r.obs, r.action, r.reward, known).item()
    result = one.update(lr=0.0, entropy_coef=ENTROPY_COEF)
    parts = result.loss.policy + 0.7 * result.loss.value - ENTROPY_COEF * result.loss.entropy
    assert extra > 0.01 and result.loss.total.item() == pytest.approx(parts.item() + extra, rel=1e-6)


def test_a_gradient_is_that_of_one_update_and_not_of_those_before():
    one = learner()
    one.update(lr=0.0, entropy_coef=ENTROPY_COEF)
    first = one.flat.grad.clone()
    one.update(lr=0.0, entropy_coef=ENTROPY_COEF)
    assert torch.equal(one.flat.grad, first) and first.any()


def test_each_rollout_is_shown_before_anything_is_learned_from_it():
    shown, taught = [], learner()
    before = taught.flat.detach().clone()

    def inspect(policy, rollout, entropy_coef):
        assert policy is taught.policy and torch.equal(taught.flat, before)
        shown.append((rollout, entropy_coef))

    taught.inspect = inspect
    taught.update(0.1, ENTROPY_COEF)
    assert shown == [(taught.collector.rollout, ENTROPY_COEF)] and not torch.equal(taught.flat, before)


def test_a_rollout_that_is_over_is_a_sign_of_life_before_anything_else_happens():
    """Past it a learner may be waiting for its peers, and is not the one that is stuck."""
    one, seen = learner(averager=Signs("averager")), []
    one.learning_step.averager.seen = seen
    collect = one.collector.collect
    one.collector.collect = lambda policy: seen.append("collect") or collect(policy)
    one.on_rollout = lambda: seen.append("rollout")
    one.inspect = lambda *_: seen.append("inspect")
    for _ in range(2):
        one.update(0.1, ENTROPY_COEF)
    assert seen == ["collect", "rollout", "inspect", "averager"] * 2


class Signs:
    def __init__(self, name):
        self.name = name

    def step(self):
        self.seen.append(self.name)


def test_who_wants_to_observe_sees_each_rollout_before_the_gradient_is_taken():
    one, seen = learner(), []
    before = one.flat.detach().clone()
    one.observe = lambda policy, rollout: seen.append((policy is one.policy, rollout, one.flat.equal(before)))
    one.update(0.1, ENTROPY_COEF)
    assert len(seen) == 1 and seen[0][0] and seen[0][1] is one.collector.rollout and seen[0][2]
    assert not one.flat.equal(before)
