"""What EKFAC keeps from batch to batch: running means, from sums written out."""

import pytest
import torch
from torch import nn

from gala.optim.ekfac import EKFAC, _Diagonal
from gala.optim.ekfac_layers import Block

DECAY = 0.6


def running_mean(values):
    """A plain mean of the first batches, an exponential one with ``DECAY`` from where that forgets faster."""
    mean = values[0]
    for count, value in enumerate(values[1:], 2):
        kept = min(DECAY, (count - 1) / count)
        mean = kept * mean + (1 - kept) * value
    return mean


@pytest.mark.parametrize("kind", ["ekfac", "kfac", "diagonal"])
def test_factors_and_second_moments_are_running_means_over_batches(kind):
    torch.manual_seed(0)
    module = nn.Linear(3, 2, bias=False).double()
    block = Block(module, kind)
    inputs, gradients = torch.randn(5, 4, 1, 3).double(), torch.randn(5, 4, 1, 2).double()
    for a, g in zip(inputs, gradients, strict=True):
        block.observe(a, [g], DECAY, basis_every=100)
    assert block.count == 5
    if kind != "diagonal":
        for name, rows in (("a", inputs), ("g", gradients)):
            wanted = running_mean([sum(torch.outer(r, r) for r in x.flatten(0, 1)) / 4 for x in rows])
            torch.testing.assert_close(block.factors[name], wanted)
    if kind == "diagonal":
        weights = [
            [torch.outer(g[0], a[0]) for g, a in zip(*x, strict=True)] for x in zip(gradients, inputs, strict=True)
        ]
        torch.testing.assert_close(block.moments, running_mean([sum(w.square() for w in ws) / 4 for ws in weights]))


def test_a_parameter_without_a_layer_has_running_means_and_its_own_share_of_the_predicted_change():
    param = nn.Parameter(torch.zeros(3))
    part, sums = _Diagonal(param), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for row in sums:
        part.observe([row], 8, DECAY)
    moments = running_mean([row.square() / 8 for row in sums])
    torch.testing.assert_close(part.moments, moments)
    gradient = torch.tensor([1.0, -2.0, 0.5])
    v, curvature = part.solve(gradient, 0.1)
    torch.testing.assert_close(v, gradient / (moments + 0.1))
    assert curvature.item() == pytest.approx(sum(m * x * x for m, x in zip(moments.tolist(), v.tolist(), strict=True)))


def test_called_without_a_learning_rate_it_predicts_a_step_of_1():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(16, 3)
    ekfac = EKFAC(model)
    with ekfac.recording():
        out = model(x)
    ekfac.observe([out.square().sum(1)])
    predicted = []
    for words in ((), (1.0,), (2.0,)):
        model.zero_grad()
        model(x).square().mean().backward()
        ekfac(*words)
        predicted.append(ekfac.predicted_kl.item())
    assert predicted[0] == predicted[1] > 0 and predicted[2] == pytest.approx(4 * predicted[1])


def test_a_layer_that_is_too_wide_for_a_basis_is_still_known_by_its_own_gradients():
    """A diagonal from sums over all examples would need the random signs; a layer's own second moments are exact."""
    torch.manual_seed(0)
    model, x = nn.Linear(200, 3), torch.randn(5, 200)
    ekfac = EKFAC(model, decay=0.0, max_dim=100)
    with ekfac.recording():
        out = model(x)
    ekfac.observe([out.sum(1)])
    assert (
        list(ekfac.blocks) == [""]
        and not ekfac.single
        and "200 wide, more than 100" in next(iter(ekfac.fallbacks.values()))
    )
    torch.testing.assert_close(ekfac.blocks[""].moments[:, :-1], x.square().mean(0).expand(3, -1))
