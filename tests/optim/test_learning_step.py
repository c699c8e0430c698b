"""The learning step on several tensors, against the norm of all of them in one vector."""

import pytest
import torch

from gala.optim.update import LearningStep, clip_factor


def _params(dtype=torch.float64):
    make = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=make, dtype=dtype).requires_grad_() for shape in ((3, 2), (4,), (2,))]
    for p in params[:2]:  # the third has no gradient
        p.grad = torch.randn(p.shape, generator=make, dtype=dtype)
    return params


@pytest.mark.parametrize("share", [0.25, 0.999, 1.5, 0.0])
def test_the_common_norm_is_limited_and_the_direction_kept(share):
    params = _params()
    before, gradients = [p.detach().clone() for p in params], [p.grad.clone() for p in params[:2]]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    optimizer = torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=9.0)
    given = LearningStep(optimizer, max_grad_norm=share * norm.item())(0.5)
    assert given.item() == pytest.approx(norm.item(), rel=1e-12)
    scale = min(1.0, share) if share else 1.0
    for p, x, g in zip(params, before, [*gradients, torch.zeros(2)], strict=True):
        torch.testing.assert_close(p.detach(), x - 0.5 * scale * g, rtol=1e-5, atol=1e-12)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_without_a_learning_rate_the_optimisers_own_holds_for_all_that_need_it():
    params, told, seen = _params(), [], []
    before = params[0].detach().clone()
    step = LearningStep(
        torch.optim.SGD(params, lr=0.125),
        reduce_gradients=lambda grads: seen.extend(g.shape for g in grads),
        precondition=told.append,
    )
    step()
    assert told == [0.125] and seen == [(3, 2), (4,)]
    torch.testing.assert_close(params[0].detach(), before - 0.125 * params[0].grad)


def test_no_parameter_moves_and_nothing_is_exchanged_if_a_gradient_is_not_finite():
    class Exchange:
        def step(self):
            raise AssertionError("exchanged")

    for bad in (float("nan"), float("inf")):
        params = _params()
        params[1].grad[2] = bad
        before = [p.detach().clone() for p in params]
        with pytest.raises(FloatingPointError, match="not finite"):
            LearningStep(torch.optim.SGD(params), max_grad_norm=0.5, averager=Exchange())(0.1)
        assert all(torch.equal(p.detach(), x) for p, x in zip(params, before, strict=True))


def test_a_norm_of_nearly_0_is_limited_with_a_millionth_beside_it():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    p.grad = torch.full((1,), 1e-6, dtype=torch.float64)
    LearningStep(torch.optim.SGD([p]), max_grad_norm=1e-6)(1.0)
    assert p.item() == pytest.approx(-0.5e-6, rel=1e-9)


def test_the_factor_of_a_clipped_gradient():
    assert clip_factor(3.0, 0.0) == 1.0 and clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == 1.0 / (4.0 + 1e-6) and clip_factor(0.0, 1.0) == 1.0
