"""What EKFAC keeps from batch to batch: running means, from sums written out."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from gala.config.learning import EkfacConfig
from gala.optim.ekfac import EKFAC, _Diagonal
from gala.optim.ekfac_layers import Block, summed_squares, why_diagonal

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


@pytest.mark.parametrize("kind", ["ekfac", "kfac", "diagonal"])
@pytest.mark.parametrize("bias", ["without a gradient", "none"])
def test_a_layer_is_solved_for_without_a_bias_and_with_one_that_has_no_gradient(kind, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3, bias=bias != "none").double(), torch.randn(16, 4).double()
    ekfac = EKFAC(layer, kind=kind, damping=0.3)
    with ekfac.recording():
        out = layer(x)
    ekfac.observe([out.square().sum(1)])
    gradient = torch.randn(3, 4).double()
    layer.weight.grad = gradient.clone()
    block = ekfac.blocks[""]
    wanted = gradient if bias == "none" else torch.cat([gradient, torch.zeros(3, 1).double()], 1)
    turns = [torch.eye(n).double() for n in wanted.shape]
    if kind != "diagonal":
        turns = [block.factors["basis_g"], block.factors["basis_a"]]
    wanted = turns[0] @ (turns[0].T @ wanted @ turns[1] / (block.moments + 0.3)) @ turns[1].T
    ekfac()
    torch.testing.assert_close(layer.weight.grad, wanted[:, :4])
    assert layer.bias is None or layer.bias.grad is None


def test_a_layer_is_refused_for_what_it_pads_with_and_for_a_factor_wider_than_the_limit():
    assert why_diagonal(nn.Conv2d(2, 3, 3, padding=1), 18) == ""
    assert why_diagonal(nn.Conv2d(2, 3, 3, padding=1), 17) == "a factor is 18 wide, more than 17"
    assert "same, zeros" in why_diagonal(nn.Conv2d(2, 3, 3, padding="same"), 99)
    assert "(1, 1), reflect" in why_diagonal(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), 99)
    assert why_diagonal(nn.Linear(2, 5), 5) == "" and "5 wide" in why_diagonal(nn.Linear(2, 5), 4)
    assert EKFAC(nn.Linear(1, 1), max_dim=1).fallbacks == {}
    with pytest.raises(ValueError, match="max_dim >= 1"):
        EKFAC(nn.Linear(1, 1), max_dim=0)


@pytest.mark.parametrize("shape", [(5, 1, 1), (5, 1, 3), (5, 4, 1), (5, 4, 3)])
def test_squares_of_each_examples_gradient_follow_its_sum_over_locations(shape):
    torch.manual_seed(0)
    g, a = torch.randn(shape).double(), torch.randn(*shape[:2], 2).double()
    wanted = sum(sum(torch.outer(*row) for row in zip(*each, strict=True)).square() for each in zip(g, a, strict=True))
    torch.testing.assert_close(summed_squares(g, a), wanted)


class Aside(nn.Module):
    """Its loss knows of neither the layer aside nor the number, though a pass does of one and a gradient of both."""

    def __init__(self):
        super().__init__()
        self.layer, self.aside = nn.Linear(3, 2), nn.Linear(3, 2)
        self.number = nn.Parameter(torch.ones(2))

    def forward(self, x):
        self.aside(x)
        return self.layer(x)


def test_what_the_losses_do_not_depend_on_keeps_its_gradient():
    torch.manual_seed(0)
    model, alone = Aside().double(), nn.Linear(3, 2).double()
    alone.load_state_dict(model.layer.state_dict())
    x = torch.randn(8, 3).double()
    for one in (model, alone):
        ekfac = EKFAC(one, damping=0.2)
        with ekfac.recording():
            out = one(x)
        ekfac.observe([out.square().sum(1)])
        for p in one.parameters():
            p.grad = torch.full_like(p, 0.5)
        ekfac()
    torch.testing.assert_close(model.layer.weight.grad, alone.weight.grad)
    assert not torch.equal(alone.weight.grad, torch.full((2, 3), 0.5).double())
    for p in (model.aside.weight, model.aside.bias, model.number):
        assert torch.equal(p.grad, torch.full_like(p, 0.5))


def test_a_pass_is_observed_once():
    layer = nn.Linear(3, 2)
    ekfac = EKFAC(layer)
    with ekfac.recording():
        out = layer(torch.ones(4, 3))
    ekfac.observe([out.sum(1)])
    with pytest.raises(ValueError, match=r"observe needs a forward pass inside `with ekfac.recording\(\):` before it"):
        ekfac.observe([out.sum(1)])
    assert ekfac.blocks[""].count == 1


def test_in_a_loop_of_ones_own_it_has_the_defaults_of_the_settings_but_for_the_limit_of_a_step():
    own = {name: p.default for name, p in inspect.signature(EKFAC).parameters.items() if name != "model"}
    settings = dataclasses.asdict(EkfacConfig())
    assert {name for name in own if name not in settings or own[name] != settings[name]} == {"kl_limit", "kl_lr"}
