"""The loss against a float64 second implementation with hand-written gradients."""

import numpy as np
import pytest
import torch

from gala.models.distributions import distribution_for
from gala.rl.a2c import a2c_loss, normalize


def slow_loss(logits, actions, values, targets, advantages, valid, value_coef, entropy_coef):
    """Loss and its gradients with respect to logits [T, B, A] and values [T, B], entry by entry in NumPy."""
    total, grad_logits, grad_values = 0.0, np.zeros_like(logits), np.zeros_like(values)
    count = valid.sum()
    for t, b in np.argwhere(valid):
        p = np.exp(logits[t, b] - logits[t, b].max())
        p /= p.sum()
        log_p = np.log(p)
        entropy = -(p * log_p).sum()
        error = targets[t, b] - values[t, b]
        total += -log_p[actions[t, b]] * advantages[t, b] + value_coef * error**2 - entropy_coef * entropy
        one_hot = np.eye(len(p))[actions[t, b]]
        grad_logits[t, b] = -(one_hot - p) * advantages[t, b] + entropy_coef * p * (log_p + entropy)
        grad_values[t, b] = -2 * value_coef * error
    return total / count, grad_logits / count, grad_values / count


def test_value_and_gradient_equal_the_slow_implementation():
    import gymnasium as gym

    rng = np.random.default_rng(0)
    steps, batch, n = 6, 5, 4
    logits, values = rng.normal(size=(steps, batch, n)), rng.normal(size=(steps, batch))
    targets, advantages = rng.normal(size=(2, steps, batch))
    actions, valid = rng.integers(n, size=(steps, batch)), rng.random((steps, batch)) < 0.8
    family = distribution_for(gym.spaces.Discrete(n))
    x, v = torch.tensor(logits, requires_grad=True), torch.tensor(values, requires_grad=True)
    a = torch.from_numpy(actions)
    loss = a2c_loss(
        family.log_prob(x, a),
        family.entropy(x),
        v,
        torch.from_numpy(targets),
        torch.from_numpy(advantages),
        torch.from_numpy(valid),
        value_coef=0.5,
        entropy_coef=0.03,
    )
    loss.total.backward()
    expected, grad_logits, grad_values = slow_loss(logits, actions, values, targets, advantages, valid, 0.5, 0.03)
    np.testing.assert_allclose(loss.total.item(), expected, atol=1e-12)
    np.testing.assert_allclose(x.grad, grad_logits, atol=1e-12)
    np.testing.assert_allclose(v.grad, grad_values, atol=1e-12)
    assert not x.grad[~torch.from_numpy(valid)].any(), "an autoreset row reached the loss"


def test_normalized_advantages_ignore_invalid_rows():
    advantage = torch.tensor([[1.0, 2.0], [3.0, 1e9]])
    valid = torch.tensor([[True, True], [True, False]])
    rows = normalize(advantage, valid)[valid]
    assert abs(rows.mean()) < 1e-6 and abs(rows.std(correction=0) - 1) < 1e-6


def test_a_variance_of_nothing_is_no_division_by_0():
    """The constant beside the deviation is 1e-8: where they are equal, it halves."""
    advantage = torch.tensor([[0.0, 2e-8], [5.0, 5.0]], dtype=torch.float64)
    valid = torch.tensor([[True, True], [False, False]])
    torch.testing.assert_close(normalize(advantage, valid)[0], torch.tensor([-0.5, 0.5], dtype=torch.float64))
    assert torch.equal(normalize(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)), torch.zeros(2, 2))
    assert torch.equal(normalize(advantage, torch.zeros(2, 2, dtype=torch.bool)), advantage), "there is none to count"


@pytest.mark.parametrize("rows", [0, 1])
def test_a_rollout_of_one_valid_row_is_its_loss_and_one_of_none_is_no_loss(rows):
    ones, valid = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    valid[1, :rows] = True
    loss = a2c_loss(-2 * ones, 4 * ones, ones, 4 * ones, 8 * ones, valid, value_coef=0.5, entropy_coef=0.25)
    assert loss == ((16 + 4.5 - 1, 16, 9, 4) if rows else (0, 0, 0, 0))
