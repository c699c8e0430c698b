import copy

import pytest
import torch
from torch import nn

from gala.gossip.flat import flatten_parameters, still_flat, unique_tensors


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 5))
    return net.to(memory_format=torch.channels_last)


def test_flattening_changes_no_value_stride_or_gradient_and_training_goes_on_alike():
    plain, flattened = _net(), _net()
    optimizers = [torch.optim.RMSprop(net.parameters(), lr=1e-2) for net in (plain, flattened)]
    strides = [p.stride() for p in flattened.parameters()]
    flat = flatten_parameters(flattened.parameters())  # after the optimiser was built
    assert [p.stride() for p in flattened.parameters()] == strides
    assert (
        flattened[0].weight.is_contiguous(memory_format=torch.channels_last) and not flattened[0].weight.is_contiguous()
    )
    for step in range(3):
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        for net, optimizer in zip((plain, flattened), optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for p, q in zip(plain.parameters(), flattened.parameters(), strict=True):
        assert torch.equal(p, q)
    assert flat.numel() == sum(p.numel() for p in plain.parameters())
    assert flat.double().sum().item() == pytest.approx(
        sum(p.double().sum().item() for p in plain.parameters()), abs=1e-6
    )


def test_the_flat_vector_and_the_parameters_are_one_memory():
    net = _net()
    flat = flatten_parameters(net.parameters())
    flat.fill_(3.0)
    assert all((p == 3.0).all() for p in net.parameters())
    net.load_state_dict(copy.deepcopy(_net().state_dict()))
    assert (flat != 3.0).any() and still_flat(flat, unique_tensors(net.parameters()))


def test_moving_the_module_is_noticed():
    net = _net()
    flat = flatten_parameters(net.parameters())
    net.double()
    assert not still_flat(flat, unique_tensors(net.parameters()))


def test_tied_expanded_and_empty_tensors():
    tied = nn.Parameter(torch.randn(4))
    expanded = torch.ones(3, 1).expand(3, 5)
    flat = flatten_parameters([tied, tied, expanded, torch.empty(0)])
    assert flat.numel() == 4 + 15 and torch.equal(flat[:4], tied)
    assert expanded.is_contiguous() and (expanded == 1).all()


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ([], "no parameters"),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.float64)], "one dtype"),
        ([torch.zeros(2), torch.zeros(2, device="meta")], "tensor 1 is on the meta device"),
        ([torch.zeros(2, dtype=torch.int64)], "tensor 0 is torch.int64"),
        ([torch.zeros(2, dtype=torch.complex64)], "tensor 0 is torch.complex64"),
        ([("weight", torch.zeros(2))], "tensor 0 of the parameters is a tuple"),
    ],
)
def test_bad_parameters(params, text):
    with pytest.raises(ValueError, match=text):
        flatten_parameters(params)
