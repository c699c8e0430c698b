"""Nudged SGD is an optimiser like others: in gala's loop, under slow momentum, in a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from gala.optim.nudged_sgd import NudgedSGD
from gala.optim.slowmo import SlowMo
from gala.optim.state import load_state_tensors, state_tensors
from gala.optim.update import LearningStep
from gala.runs.checkpoints import pack, unpack
from gala.supervised.loop import SupervisedLearner, endless_batches

BASES = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=0.05),
}


def model_of(flat=False):
    torch.manual_seed(0)
    return nn.Linear(3, 1, bias=not flat)


def first_axis(model, asked):
    """The direction of the first parameter; ``asked`` counts."""

    def sharpest():
        asked.append(1)
        e = torch.zeros(sum(p.numel() for p in model.parameters()), 1)
        e[len(asked) % len(e)] = 1.0
        return e

    return sharpest


def learner_of(base, model, gamma=0.5, every=3, slowmo=False, skip=0):
    asked = []
    optimizer = NudgedSGD(BASES[base](list(model.parameters())), first_axis(model, asked), gamma=gamma, every=every)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    batches = endless_batches(x, y, 16, torch.Generator().manual_seed(2))
    for _ in range(skip):
        next(batches)
    slow = SlowMo(optimizer, every=4, buffers="reset" if base == "momentum" else "maintain") if slowmo else None
    step = LearningStep(optimizer, max_grad_norm=1.0, slowmo=slow)
    return SupervisedLearner(model, batches, nn.functional.mse_loss, step), optimizer, slow, asked


@pytest.mark.parametrize("base", BASES)
def test_the_supervised_loop_takes_it_and_gamma_scales_the_part_along_the_direction(base):
    plain, nudged = model_of(), model_of()
    one, _, _, _ = learner_of(base, plain, gamma=1.0)
    two, optimizer, _, asked = learner_of(base, nudged, gamma=0.25)
    before = nn.utils.parameters_to_vector(plain.parameters()).detach()
    one.update(lr=0.02)
    two.update(lr=0.02)
    a, b = (nn.utils.parameters_to_vector(m.parameters()).detach() - before for m in (plain, nudged))
    a[1] *= 0.25
    torch.testing.assert_close(b, a)
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.02, "the rate of this update reaches the wrapped optimiser"
    losses = [float(two.update()) for _ in range(200)]
    assert losses[-1] < 0.1 * losses[0] and len(asked) == 67  # of 201 steps, every third


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("slowmo", [False, True])
def test_what_is_saved_and_loaded_goes_on_to_the_bit(base, slowmo):
    model = model_of()
    one, optimizer, slow, asked = learner_of(base, model, slowmo=slowmo)
    for _ in range(5):  # in the middle of the life of a direction
        one.update()
    saved = unpack(pack({"optimizer": state_tensors(optimizer), "slowmo": slow.tensors() if slow else {}}))
    other_model = copy.deepcopy(model)
    other, taken, taken_slow, taken_asked = learner_of(base, other_model, slowmo=slowmo, skip=5)
    load_state_tensors(taken, saved["optimizer"])
    if taken_slow is not None:
        taken_slow.load_tensors(saved["slowmo"])
    taken_asked.extend(asked)
    for _ in range(7):
        one.update()
        other.update()
    assert taken.steps == 12
    for p, q in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("base", BASES)
def test_one_flat_vector_is_saved_too(base):
    x = torch.zeros(4, requires_grad=True)
    make = {"sharpest": lambda: torch.eye(4)[:, :1], "gamma": 0.5, "every": 10}
    optimizer = NudgedSGD(BASES[base]([x]), **make)
    for _ in range(3):
        x.grad = torch.ones(4)
        optimizer.step()
    y = x.detach().clone().requires_grad_()
    taken = NudgedSGD(BASES[base]([y]), **make | {"sharpest": lambda: pytest.fail("the direction was saved")})
    load_state_tensors(taken, unpack(pack({"optimizer": state_tensors(optimizer)}))["optimizer"])
    for p, each in ((x, optimizer), (y, taken)):
        p.grad = torch.ones(4)
        each.step()
    assert torch.equal(x, y) and taken.steps == 4


def test_parameters_that_come_later_are_the_wrapped_optimisers():
    x, y = (torch.zeros(2, requires_grad=True) for _ in range(2))
    known = [x]
    optimizer = NudgedSGD(torch.optim.SGD([x], lr=1.0), lambda: torch.eye(2 * len(known))[:, :1], gamma=0.0, every=100)
    x.grad = torch.ones(2)
    optimizer.step()
    known.append(y)
    optimizer.add_param_group({"params": [y]})
    x.grad = y.grad = torch.ones(2)
    optimizer.step()
    assert x.tolist() == [0.0, -2.0] and y.tolist() == [-1.0, -1.0]
    assert optimizer.param_groups is optimizer.optimizer.param_groups
