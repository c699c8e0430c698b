"""RMSpropTF against its formula in NumPy, and against PyTorch's where the two must agree."""

import numpy as np
import pytest
import torch

from gala.optim.rmsprop_tf import RMSpropTF
from gala.optim.schedules import SCHEDULES, scaled_lr


def test_equals_the_formula():
    rng = np.random.default_rng(0)
    p = torch.nn.Parameter(torch.tensor(rng.normal(size=5)))
    optimizer = RMSpropTF([p], lr=0.01, alpha=0.9, eps=1e-3)
    x, s = p.detach().numpy().copy(), np.ones(5)
    for _ in range(20):
        g = rng.normal(size=5)
        p.grad = torch.tensor(g)
        optimizer.step()
        s = 0.9 * s + 0.1 * g**2
        x = x - 0.01 * g / np.sqrt(s + 1e-3)
    np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-12)


def test_differs_from_pytorch_where_epsilon_matters():
    steps = []
    for make in (lambda p: RMSpropTF(p, lr=1.0, eps=1e-5), lambda p: torch.optim.RMSprop(p, lr=1.0, eps=1e-5)):
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = make([p])
        p.grad = torch.full((1,), 1e-4)
        optimizer.step()
        steps.append(abs(p.item()))
    assert steps[1] > 10 * steps[0]


def test_state_dict_round_trip():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = RMSpropTF([p])
    p.grad = torch.ones(3)
    optimizer.step()
    other = RMSpropTF([p])
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.state[p]["square_avg"], optimizer.state[p]["square_avg"])


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="eps > 0"):
        RMSpropTF([torch.zeros(1)], eps=0.0)


def test_schedules_and_scaling():
    assert [SCHEDULES["linear"](x) for x in (0.0, 0.25, 1.0, 1.5)] == [1.0, 0.75, 0.0, 0.0]
    assert SCHEDULES["constant"](0.7) == 1.0
    assert scaled_lr(7e-4, "sqrt", 64, 16) == pytest.approx(1.4e-3)
    assert scaled_lr(7e-4, "none", 64, 16) == 7e-4 and scaled_lr(1.0, "sqrt", 144, 16) == pytest.approx(3.0)


def test_the_defaults_are_the_published_ones_and_the_bounds_belong_to_them():
    p = torch.nn.Parameter(torch.ones(2))
    assert RMSpropTF([p]).defaults == {"lr": 7e-4, "alpha": 0.99, "eps": 1e-5}
    RMSpropTF([p], lr=0.0, alpha=0.0, eps=1e-30)
    for bad in ({"lr": -1e-9}, {"alpha": 1.0}, {"alpha": -1e-9}, {"eps": 0.0}, {"eps": -1.0}):
        with pytest.raises(ValueError, match="RMSpropTF wants lr >= 0"):
            RMSpropTF([p], **bad)


def test_a_closure_is_called_with_gradients_on_and_parameters_without_one_stay():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    optimizer = RMSpropTF([{"params": [unused, used], "lr": 0.5}], alpha=0.0, eps=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = (3 * used).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6.0
    torch.testing.assert_close(used.detach(), torch.full((2,), 0.5))  # g / sqrt(g^2) = 1, times lr
    assert torch.equal(unused.detach(), torch.ones(3)) and optimizer.step() is None
