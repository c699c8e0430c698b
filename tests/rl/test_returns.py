"""Advantages against a slow float64 second implementation that follows the definition episode by episode."""

import numpy as np
import pytest
import torch

from gala.rl.returns import explained_variance, generalized_advantages


def slow_gae(r, terminated, truncated, v, v_final, v_last, gamma, lam):
    """Sums of lambda-weighted n-step errors, straight from the definition, for one row [T]."""
    steps = len(r)
    out = np.zeros(steps)
    for t in range(steps):
        weight, total = 1.0, 0.0
        for k in range(t, steps):
            if terminated[k]:
                after = 0.0
            elif truncated[k]:
                after = v_final[k]
            else:
                after = v[k + 1] if k + 1 < steps else v_last
            total += weight * (r[k] + gamma * after - v[k])
            if terminated[k] or truncated[k]:
                break
            weight *= gamma * lam
        out[t] = total
    return out


def random_case(rng, steps, batch):
    terminated = rng.random((steps, batch)) < 0.15
    truncated = (rng.random((steps, batch)) < 0.15) & ~terminated
    r, v, v_final = (rng.normal(size=(steps, batch)) for _ in range(3))
    return r, terminated, truncated, v, v_final, rng.normal(size=batch)


def fast_gae(r, terminated, truncated, v, v_final, v_last, gamma, lam):
    v_next = np.concatenate([v[1:], v_last[None]])
    v_t = np.where(truncated, v_final, v_next)
    args = [r, gamma * ~terminated, (~(terminated | truncated)).astype(float), v, v_t]
    return generalized_advantages(*map(torch.from_numpy, args), lam).numpy()


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_definition(lam, seed):
    rng = np.random.default_rng(seed)
    case = random_case(rng, 12, 7)
    fast = fast_gae(*case, 0.97, lam)
    slow = np.stack([slow_gae(*(x[..., b] for x in case), 0.97, lam) for b in range(7)], 1)
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_hand_computed_termination_and_time_limit():
    r = torch.ones(3, 1)
    zeros, gamma = torch.zeros(3, 1), 0.5
    # A termination after the second step: 1 + .5 and 1; then a fresh episode that bootstraps from 8.
    discount = torch.tensor([[gamma], [0.0], [gamma]])
    ended = torch.tensor([[1.0], [0.0], [1.0]])
    v_t = torch.tensor([[0.0], [99.0], [8.0]])
    assert generalized_advantages(r, discount, ended, zeros, v_t, 1.0).flatten().tolist() == [1.5, 1.0, 5.0]
    # The same end as a time limit bootstraps from the value of the episode's own last observation, 4.
    v_t = torch.tensor([[0.0], [4.0], [8.0]])
    discount = torch.full((3, 1), gamma)
    assert generalized_advantages(r, discount, ended, zeros, v_t, 1.0).flatten().tolist() == [2.5, 3.0, 5.0]


def test_explained_variance():
    target = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(target, target).item() == 1.0
    assert explained_variance(target, torch.zeros(4)).item() == pytest.approx(0.0)
    assert explained_variance(torch.ones(4), target).item() == 0.0


def test_explained_variance_of_targets_that_vary_little():
    target = torch.tensor([0.0, 0.5, 1.0])
    assert explained_variance(target, target / 2).item() == pytest.approx(0.75)
    assert explained_variance(target, -target).item() == pytest.approx(-3.0)


def test_a_rollout_of_one_step_has_the_error_of_that_step_as_its_advantage():
    one = torch.tensor([[3.0, 5.0]])
    found = generalized_advantages(one, 0.5 * torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2), 4 * one, 0.9)
    assert found.tolist() == [[3 + 6 - 1, 5 + 10 - 1]]
