"""Averaged learners that each step with MeanAdam against one learner that steps with Adam on all their batches."""

import math

import pytest
import torch

from gala.optim.mean_adam import MeanAdam
from gala.optim.state import load_state_tensors, state_tensors


def walk(make, gradients):
    """Where zeros end that step with each of the gradients [T, d]."""
    p = torch.zeros(gradients.shape[1], dtype=gradients.dtype, requires_grad=True)
    optimizer = make([p])
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


def adam(params):
    return torch.optim.Adam(params, 0.01, (0.9, 0.99), 1e-5)


def mean_adam(learners):
    return lambda params: MeanAdam(params, 0.01, (0.9, 0.99), 1e-5, learners=learners)


def test_of_one_learner_it_is_adam():
    gradients = torch.randn(200, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(walk(mean_adam(1), gradients), walk(adam, gradients), rtol=1e-12, atol=1e-14)


def test_a_gradient_without_noise_makes_the_step_of_adam():
    gradients = torch.tensor([[1e-3, -2.0, 40.0]], dtype=torch.double).expand(300, 3)
    assert torch.allclose(walk(mean_adam(16), gradients), walk(adam, gradients), rtol=1e-9)


@pytest.mark.parametrize(("n", "near"), [(2, 0.1), (4, 0.1), (16, 0.2)])
def test_the_mean_of_n_walks_as_far_as_one_that_has_all_their_batches(n, near):
    """Signals from nothing to twice the noise of one learner: the same drift and spread, where Adam's own steps at the
    same rate advance too little, and at sqrt(n) times the rate too far."""
    torch.manual_seed(1)
    signals = torch.tensor([0.0, 0.05, 2.0], dtype=torch.double).repeat_interleave(2000)
    noise = torch.randn(n, 600, 6000, dtype=torch.double)
    whole = walk(adam, signals + noise.mean(0))
    ours = torch.stack([walk(mean_adam(n), signals + own) for own in noise]).mean(0)
    plain = torch.stack([walk(adam, signals + own) for own in noise]).mean(0)
    drift, spread = (lambda x: x.view(3, -1).mean(1)), (lambda x: x.view(3, -1).std(1))
    assert drift(ours)[1] == pytest.approx(drift(whole)[1].item(), rel=near)
    assert abs(drift(plain)[1]) < 1.2 / math.sqrt(n) * abs(drift(whole)[1])
    assert drift(ours)[2] == pytest.approx(drift(whole)[2].item(), rel=0.12)
    assert math.sqrt(n) * abs(drift(plain)[2]) > 0.85 * math.sqrt(n) * abs(drift(whole)[2])
    assert spread(ours)[0] == pytest.approx(spread(whole)[0].item(), rel=near)


def test_its_state_is_saved_and_bad_numbers_are_refused():
    p = torch.zeros(3, requires_grad=True)
    one, other = (MeanAdam([p], 0.1, learners=4) for _ in range(2))
    p.grad = torch.tensor([1.0, -2.0, 3.0])
    one.step()
    load_state_tensors(other, state_tensors(one))
    assert state_tensors(other).keys() == state_tensors(one).keys() and len(state_tensors(one)) == 4
    assert all(torch.equal(x, state_tensors(one)[k]) for k, x in state_tensors(other).items())
    with pytest.raises(ValueError, match="learners >= 1"):
        MeanAdam([p], learners=0)
