"""Models as users have them: buffers, tied memory, parameters that are replaced, learners that start unequal."""

import itertools
import warnings

import pytest
import torch
from gossip_network import lockstep
from torch import nn

from gala.gossip.averager import GossipAverager
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.gossip.sharded import ShardedAverager, shard_sizes
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.gossip.values import ExchangedValues, averaged_numel, averaged_tensors


class _Net(nn.Module):
    """A body with BatchNorm, constants and counters, and a mean of its inputs that its forward pass replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        self.calls += 1
        return self.body(x)


EXCHANGED = ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]
STATISTICS = ["mean", "body.1.running_mean", "body.1.running_var"]


def _net(seed: int = 0) -> _Net:
    torch.manual_seed(seed)
    return _Net()


def _start(nets, boxes=None, **settings):  # type: ignore[no-untyped-def]
    boxes = boxes or InProcessMailboxes(len(nets), averaged_numel(nets[0], settings.get("average_buffers", True)))
    settings = {"topology": "complete", "w_min": 0.01} | settings
    return [
        GossipAverager(net, rank=rank, world_size=len(nets), mailbox=boxes.endpoint(rank), **settings)
        for rank, net in enumerate(nets)
    ]


def _train(net: nn.Module, seed: int) -> None:
    """One pass in train mode over inputs of its own, and a step."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed
    loss = (net.train()(inputs) - inputs[:, :1].tanh()).square().mean()
    net.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in net.parameters():
            p.sub_(0.01 * p.grad)


# ---- buffers


def test_what_is_exchanged_is_what_a_checkpoint_holds_but_integers():
    net = _net()
    assert list(averaged_tensors(net)) == EXCHANGED + STATISTICS
    assert list(averaged_tensors(net, average_buffers=False)) == EXCHANGED
    assert averaged_numel(net) == 12 + 4 + 4 + 4 + 3 + 4 + 4 and averaged_numel(net, False) == 24
    assert averaged_numel(net.parameters()) == 24
    with torch.device("meta"):
        assert averaged_numel(_Net()) == averaged_numel(net), "the parent needs no weights to count them"


def test_statistics_are_averaged_with_the_parameters_in_train_mode_and_counters_are_not():
    """Against the same three nets without gossip, by the mean of their changes in float64: PushSum moves nothing else.
    The statistics change in place (BatchNorm) and by assignment (``mean``)."""
    nets = [_net() for _ in range(3)]
    averagers = _start(nets, tau=0)
    total = {name: torch.zeros(()).double() for name in EXCHANGED + STATISTICS}
    for update in range(6):
        for rank, net in enumerate(nets):
            before = {name: net.state_dict()[name].double() for name in total}
            for _ in range(rank + 1):  # of unequal counts
                _train(net, rank + 3 * update)
            total |= {name: total[name] + net.state_dict()[name].double() - before[name] for name in total}
        lockstep(averagers)
    start = _net().state_dict()
    for name, change in total.items():
        for net in nets:  # a complete graph of three agrees in one round
            torch.testing.assert_close(
                net.state_dict()[name].double(), start[name].double() + change / 3, rtol=1e-5, atol=1e-6
            )
        assert change.abs().sum() > 0.01 or name == "body.0.bias", name  # BatchNorm takes that bias away
    assert [net.calls.item() for net in nets] == [net.body[1].num_batches_tracked.item() for net in nets] == [6, 12, 18]


@pytest.mark.parametrize("settings", [{"average_buffers": False}, {"params": True}])
def test_buffers_stay_local_when_they_should(settings):
    nets = [_net(), _net()]
    if "params" in settings:
        boxes = InProcessMailboxes(2, averaged_numel(nets[0].parameters()))
        averagers = [
            GossipAverager(net.parameters(), rank=rank, world_size=2, mailbox=boxes.endpoint(rank), tau=0)
            for rank, net in enumerate(nets)
        ]
    else:
        averagers = _start(nets, tau=0, **settings)
    for rank, net in enumerate(nets):
        _train(net, rank)
    local = [{name: net.state_dict()[name].clone() for name in STATISTICS} for net in nets]
    lockstep(averagers)
    for net, before in zip(nets, local, strict=True):
        assert all(torch.equal(net.state_dict()[name], x) for name, x in before.items())
    assert torch.equal(nets[0].body[0].weight, nets[1].body[0].weight)


def test_a_replaced_buffer_keeps_what_arrives_while_the_learner_drains():
    nets = [_net(), _net()]
    a, b = _start(nets, w_min=0.01)
    nets[1].mean = torch.full((3,), 8.0)
    b.step()
    nets[0].mean = torch.full((3,), 4.0)
    a.drain()  # (1 * 4 + 0.5 * 8) / 1.5
    torch.testing.assert_close(nets[0].mean, torch.full((3,), 16 / 3))
    a.values.read()
    torch.testing.assert_close(nets[0].mean, torch.full((3,), 16 / 3))


def test_buffers_that_have_no_mean_and_buffers_that_are_gone():
    net = _net()
    net.register_buffer("causal", torch.full((2, 2), -torch.inf).triu(1))
    with pytest.raises(ValueError, match=r"buffer causal is not finite.*persistent=False"):
        ExchangedValues(net)
    assert ExchangedValues(net, average_buffers=False).flat.numel() == 24
    for change, text in ((torch.zeros(4), "replaced by one of another shape"), (None, "removed")):
        net = _net()
        averager = _start([net, _net()])[0]
        net.mean = change
        with pytest.raises(RuntimeError, match=f"buffer mean was {text}"):
            averager.step()


def test_a_learner_that_was_handed_a_module_has_shards_too():
    nets = [_net() for _ in range(2)]
    sizes = shard_sizes(averaged_numel(nets[0]), 3)
    boxes = [InProcessMailboxes(2, size) for size in sizes]
    averagers = [
        ShardedAverager(net, mailboxes=[b.endpoint(r) for b in boxes], rank=r, world_size=2, tau=0)
        for r, net in enumerate(nets)
    ]
    for rank, net in enumerate(nets):
        _train(net, rank)
    expected = {name: (nets[0].state_dict()[name] + nets[1].state_dict()[name]) / 2 for name in EXCHANGED + STATISTICS}
    for _ in range(3):
        lockstep(averagers)  # type: ignore[arg-type]
    for net, (name, mean) in itertools.product(nets, expected.items()):
        torch.testing.assert_close(net.state_dict()[name], mean, rtol=1e-6, atol=1e-7)
    nets[0].body[0].weight = nn.Parameter(torch.zeros(4, 3))
    with pytest.raises(RuntimeError, match=r"body\.0\.weight was replaced"):
        averagers[0].step()


# ---- parameters that share memory


def test_weights_that_are_tied_by_their_data_stay_tied():
    """One gets the other's memory; the second pair has other strides on it. Gradients of tied weights add up."""
    a, b, c = (nn.Linear(3, 3, bias=False) for _ in range(3))
    b.weight.data = a.weight.data
    c.weight.data = a.weight.data.t()
    net, start = nn.Sequential(a, b, c, nn.Linear(3, 1)), a.weight.detach().clone()
    flat = flatten_parameters(net.parameters())
    assert flat.numel() == 9 + 4 and torch.equal(b.weight, start) and torch.equal(c.weight, start.t())
    flat[:9] = torch.arange(9.0)
    assert torch.equal(a.weight, b.weight) and torch.equal(c.weight, a.weight.t()) and a.weight[0, 1] == 1.0
    flatten_gradients(flat, net)
    net(torch.randn(5, 3)).sum().backward()
    summed = flat.grad[:9].view(3, 3).clone()
    for p in net.parameters():
        p.grad = None
    net(x := torch.randn(5, 3)).sum().backward()
    apart = a.weight.grad + b.weight.grad + c.weight.grad.t()
    flatten_gradients(flat, net)
    net(x).sum().backward()
    torch.testing.assert_close(flat.grad[:9].view(3, 3), apart)
    assert not torch.equal(summed, apart), "of other inputs"


def test_a_tied_weight_is_exchanged_once_and_watched_in_both_places():
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        net[1].weight.data = net[0].weight.data
        nets.append(net)
    averagers = _start(nets, tau=0)
    assert averagers[0].flat.numel() == 4 + 2 + 2
    nets[0][1].weight.data.fill_(4.0)
    nets[1][1].weight.data.fill_(2.0)
    lockstep(averagers)
    assert all((layer.weight == 3.0).all() for net in nets for layer in net)
    nets[0][1].weight.data = nets[0][1].weight.data.clone()
    with pytest.raises(RuntimeError, match="moved"):
        averagers[0].step()


def test_memory_that_is_shared_in_part_is_refused_by_name():
    whole = torch.zeros(6)
    net = nn.Linear(2, 2, bias=False)
    net.second = nn.Parameter(net.weight.data[1])
    for source, text in (
        (net, "weight and second overlap"),
        ([whole[:4], torch.zeros(2), whole[2:]], "tensor 0 and tensor 2 overlap"),
        ([whole[:4], whole[:4].view(torch.int32).view(torch.float32)[:3]], "tensor . and tensor . overlap"),
        ([whole.view(2, 3)[:, 0], whole.view(2, 3)[:, 1]], "overlap"),  # interleaved: not worth telling apart
    ):
        with pytest.raises(ValueError, match=text):
            ExchangedValues(source)
    assert ExchangedValues([whole[:2], whole[2:]]).flat.numel() == 6, "neighbours"


# ---- parameters that are not those of the start


def _replace(net: nn.Module) -> None:
    net.body[0].weight = nn.Parameter(torch.zeros(4, 3))


def _assign(net: nn.Module) -> None:
    net.load_state_dict(_net(1).state_dict(), assign=True)


def _replace_module(net: nn.Module) -> None:
    net.body[0] = nn.Linear(3, 4)


def _add_parameter(net: nn.Module) -> None:
    net.scale = nn.Parameter(torch.ones(1))


def _add_module(net: nn.Module) -> None:
    net.body.add_module("head", nn.Linear(4, 1))


def _move(net: nn.Module) -> None:
    net.double()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_replace, r"body\.0\.weight was replaced.*build optimiser and averager anew"),
        (_assign, r"body\.0\.weight was replaced.*assign=False"),
        (_replace_module, r"body\.0 was replaced"),
        (_add_parameter, "the model was given parameters"),
        (_add_module, "body was given parameters"),
        (_move, "moved"),
    ],
)
def test_a_model_that_uses_other_parameters_is_noticed_before_anything_is_sent(change, text):
    nets = [_net(), _net()]
    boxes = InProcessMailboxes(2, averaged_numel(nets[0]))
    averager = _start(nets, boxes)[0]
    change(nets[0])
    with pytest.raises(RuntimeError, match=text):
        averager.step()
    assert not boxes.boxes and averager.updates == 0


def test_what_copies_into_the_parameters_is_no_replacement():
    nets = [_net(), _net()]
    averager = _start(nets)[0]
    nets[0].load_state_dict(_net(1).state_dict())
    nets[0].float()
    nets[0].requires_grad_(False)
    averager.step()
    assert averager.stats()["sent"] == 1


# ---- learners that start from different values


def _warned(nets, boxes=None, before=lambda averagers: None) -> list[str]:  # type: ignore[no-untyped-def]
    averagers = _start(nets, boxes)
    before(averagers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for averager in [*averagers, *averagers]:
            averager.step()
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("kind", ["in-process", "shared"])
def test_learners_that_start_unequal_are_told_once_each(kind):
    numel = averaged_numel(_net())
    boxes = SharedMemoryMailboxes.create(3, numel) if kind == "shared" else InProcessMailboxes(3, numel)
    if kind == "shared":
        boxes.endpoint = boxes.handle.open  # type: ignore[union-attr]
    zero = _net()
    for p in averaged_tensors(zero).values():
        p.data.zero_()
    assert len(_warned([_net(), zero])) == 1
    warned = _warned([_net(0), _net(0), _net(1)], boxes)
    assert len(warned) == 1 and "learners 0 and 2 started from different parameters" in warned[0]
    assert "torch.manual_seed" in warned[0]


def test_equal_learners_bare_vectors_newcomers_and_resumed_learners_are_not():
    assert _warned([_net(), _net()]) == []
    zeros = [nn.Linear(2, 2) for _ in range(2)]
    for net in zeros:
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
    assert _warned(zeros) == []
    assert _warned([[torch.ones(2)], [torch.zeros(2)]]) == [], "their mean is what one wants"
    for newcomer in (0, 1):
        assert _warned([_net(0), _net(1)], before=lambda averagers, i=newcomer: averagers[i].join()) == []

    def resume(averagers: list[GossipAverager]) -> None:
        for averager in averagers:
            averager.load_state_dict({"weight": 1.0, "updates": 7, "counts": {}})

    assert _warned([_net(0), _net(1)], before=resume) == []
