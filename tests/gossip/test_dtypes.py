"""Models of low, mixed and double precision: mass is conserved and learners agree though parameters are rounded."""

import copy

import numpy as np
import pytest
import torch
from gossip_network import lockstep, mass
from torch import Tensor, nn

from gala.gossip.averager import GossipAverager
from gala.gossip.sharded import ShardedAverager, shard_sizes
from gala.gossip.transport.compress import Compressed
from gala.gossip.transport.delayed import DelayedMailbox
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.gossip.transport.overlap import Overlapped
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes
from gala.gossip.values import ExchangedValues, averaged_numel, exchange_dtype

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
KINDS = {
    "bf16": (BF16, BF16, BF16),
    "fp16": (FP16, FP16, FP16),
    "fp32": (FP32, FP32, FP32),
    "bf16 and fp32": (BF16, FP32, BF16),
    "bf16, fp16 and fp32": (BF16, FP16, FP32),
    "fp64": (FP64, FP64, FP64),
    "fp32 and fp64": (FP32, FP64, FP32),
    "bf16 and fp64": (BF16, FP64, FP32),
}
SHAPES = (4, 3), (5,), (2, 2)
D = 21


def _tensors(kind: str, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=FP64).to(dtype).requires_grad_(False)
        for shape, dtype in zip(SHAPES, KINDS[kind], strict=True)
    ]


def _flat(tensors: list[Tensor]) -> Tensor:
    """The values in float64, in the order of the exchange: by dtype, in order of appearance."""
    kinds = list(dict.fromkeys(p.dtype for p in tensors))
    return torch.cat([p.double().reshape(-1) for kind in kinds for p in tensors if p.dtype == kind])


def _team(kind: str, n: int, **settings):  # type: ignore[no-untyped-def]
    nets, boxes = [_tensors(kind, seed) for seed in range(n)], InProcessMailboxes(n, D)
    averagers = [
        GossipAverager(net, rank=rank, world_size=n, mailbox=boxes.endpoint(rank), **settings)
        for rank, net in enumerate(nets)
    ]
    return nets, averagers, boxes


def _error(kind: str) -> float:
    """What sums over hundreds of float32 (float64) operations may be off by."""
    return 1e-12 if exchange_dtype(_tensors(kind, 0)) == FP64 else 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_learners_agree_on_the_mean_of_what_they_started_from(kind):
    """z to the accuracy of the exchange, and every parameter is z rounded once: as near as its dtype can be."""
    nets, averagers, _ = _team(kind, 5, topology="exponential", tau=0)
    mean = torch.stack([_flat(net) for net in nets]).mean(0)
    for _ in range(60):
        lockstep(averagers)
    for net, averager in zip(nets, averagers, strict=True):
        assert averager.flat.dtype == exchange_dtype(net)
        torch.testing.assert_close(averager.flat.double(), mean, rtol=0, atol=_error(kind) / 50)
        parts = averager.flat.split([p.numel() for p in sorted(net, key=lambda p: KINDS[kind].index(p.dtype))])
        for p, z in zip(sorted(net, key=lambda p: KINDS[kind].index(p.dtype)), parts, strict=True):
            assert torch.equal(p, z.view(p.shape).to(p.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_mass_moves_by_the_local_steps_and_by_nothing_else(kind):
    """Learners at unequal speeds over hundreds of rounds; the oracle adds w times the change of the parameters, as the
    optimiser rounded them, in float64."""
    nets, averagers, boxes = _team(kind, 4, topology="one-peer-exponential", w_min=0.05)
    total, rng = sum(_flat(net) for net in nets), np.random.default_rng(0)
    for _ in range(400):
        rank = int(rng.choice(4, p=[0.1, 0.2, 0.3, 0.4]))
        before = _flat(nets[rank])
        for p in nets[rank]:
            p.add_(torch.from_numpy(rng.normal(0, 0.02, p.shape)).to(p.dtype))
        total = total + averagers[rank].weight * (_flat(nets[rank]) - before)
        averagers[rank].step()
    held, waiting = mass(averagers), boxes.in_flight()
    assert (held[0] + waiting[0] - total).abs().max() < _error(kind)
    assert held[1] + waiting[1] == pytest.approx(4, abs=1e-12)


def test_differences_below_the_spacing_of_bfloat16_still_mix():
    """Rounded at each absorb, none of the four could ever leave 1 or come nearer to the mean, 1 + 2^-9."""
    spacing = 2.0**-7
    nets, boxes = [[torch.ones(1, dtype=BF16)] for _ in range(4)], InProcessMailboxes(4, 1)
    nets[0][0].add_(spacing)
    averagers = [GossipAverager(net, rank=r, world_size=4, mailbox=boxes.endpoint(r)) for r, net in enumerate(nets)]
    for _ in range(100):
        lockstep(averagers)
    assert all(abs(a.flat.item() - 1 - spacing / 4) < 1e-6 for a in averagers) and all(net[0] == 1 for net in nets)
    for net in nets:  # four steps of one spacing each: the mean is now 1 + 5/4 of it
        net[0].add_(spacing)
    for _ in range(100):
        lockstep(averagers)
    assert all(abs(a.flat.item() - 1 - 1.25 * spacing) < 1e-6 for a in averagers)
    assert all(net[0] == 1 + spacing for net in nets)


def test_float32_and_float64_are_not_copied():
    for kind in ("fp32", "fp64"):
        net = _tensors(kind, 0)
        values = ExchangedValues(net)
        values.flat.fill_(3.0)
        assert all((p == 3.0).all() for p in net)
    net = _tensors("bf16 and fp32", 0)
    values = ExchangedValues(net)
    values.flat.fill_(3.0)
    assert (net[1] == 3.0).all() and (net[0] != 3.0).all()
    values.write()
    assert all((p == 3.0).all() for p in net)


def test_an_all_reduce_reaches_rounded_parameters():
    net = _tensors("bf16 and fp32", 0)
    averager = GossipAverager(net, rank=0, world_size=2, mailbox=None, mixing=lambda flat: flat.fill_(2.0))
    averager.step()
    assert all((p == 2.0).all() for p in net)


def test_optimizer_and_gradients_of_a_mixed_model_go_on_as_without_gossip():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).to(BF16)
    plain[1].float()
    plain[1].register_forward_pre_hook(lambda _, x: (x[0].float(),))
    plain[1].register_forward_hook(lambda _, __, y: y.to(BF16))
    gossiping = copy.deepcopy(plain)
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.05) for net in (plain, gossiping)]
    averager = GossipAverager(gossiping, rank=0, world_size=1, mailbox=None)
    for step in range(5):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step)).to(BF16)
        for net, optimizer in zip((plain, gossiping), optimizers, strict=True):
            optimizer.zero_grad()
            net(x).float().square().mean().backward()
            optimizer.step()
        averager.step()
    assert all(map(torch.equal, plain.parameters(), gossiping.parameters()))


def test_parameters_that_were_not_finite_are_exchanged_again_once_they_are_loaded_anew():
    net, boxes = [torch.ones(3, dtype=BF16)], InProcessMailboxes(2, 3)
    averager = GossipAverager(net, rank=0, world_size=2, mailbox=boxes.endpoint(0))
    net[0][1] = torch.nan
    with pytest.raises(FloatingPointError, match="learner 0"):
        averager.step()
    assert not boxes.boxes
    net[0].fill_(2.0)
    averager.step()
    assert boxes.in_flight()[0].tolist() == [1.0] * 3


@pytest.mark.parametrize("model_first", [True, False])
def test_a_saved_state_holds_what_rounding_hides(model_first):
    nets, averagers, _ = _team("bf16 and fp32", 2, tau=0)
    for _ in range(3):
        lockstep(averagers)
        nets[0][0].add_(0.01)
    saved, state = [p.clone() for p in nets[0]], averagers[0].state_dict()
    resumed = _tensors("bf16 and fp32", 9)
    averager = GossipAverager(resumed, rank=0, world_size=1, mailbox=None)
    load_model = lambda: [p.copy_(q) for p, q in zip(resumed, saved, strict=True)]  # noqa: E731
    load_averager = lambda: averager.load_state_dict(copy.deepcopy(state))  # noqa: E731
    for load in (load_model, load_averager) if model_first else (load_averager, load_model):
        load()
    averager.values.read()
    averagers[0].values.read()
    torch.testing.assert_close(averager.flat, averagers[0].flat, rtol=0, atol=1e-6)
    without = {key: value for key, value in state.items() if key != "unrounded"}
    averager.load_state_dict(without)  # saved by a float32 model, say
    with pytest.raises(ValueError, match="other dtypes or sizes"):
        averager.load_state_dict(state | {"unrounded": []})


def test_shards_of_a_mixed_model():
    nets = [_tensors("bf16 and fp32", seed) for seed in range(3)]
    mean = torch.stack([_flat(net) for net in nets]).mean(0)
    boxes = [InProcessMailboxes(3, size) for size in shard_sizes(D, 4)]
    averagers = [
        ShardedAverager(net, mailboxes=[b.endpoint(r) for b in boxes], rank=r, world_size=3, topology="complete", tau=0)
        for r, net in enumerate(nets)
    ]
    for _ in range(4):
        lockstep(averagers)  # type: ignore[arg-type]
    resumed = ShardedAverager(
        [p.clone() for p in nets[0]],
        mailboxes=[b.endpoint(0) for b in boxes],
        rank=0,
        world_size=3,
        topology="complete",
    )
    resumed.load_state_dict(averagers[0].state_dict())
    for net, averager in zip([*nets, nets[0]], [*averagers, resumed], strict=True):
        torch.testing.assert_close(averager.flat.double(), mean, rtol=0, atol=1e-6)
        assert torch.equal(_flat(net)[16:], averager.flat[16:].double())
        assert torch.equal(_flat(net)[:16].to(BF16), averager.flat[:16].to(BF16))


def test_a_published_mark_knows_of_the_last_change_of_rounded_parameters():
    net, boxes, events = [torch.ones(4, dtype=BF16)], InProcessMailboxes(2, 4), []
    averager = GossipAverager(net, rank=0, world_size=2, mailbox=boxes.endpoint(0))
    averager.on_event = events.append
    averager.step()
    net[0].add_(0.5)
    averager.mark(1)
    assert [e.kind for e in events[-2:]] == ["update", "mark"] and events[-2].amount == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("end", ["drain", "close", "leave"])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_learner_that_drains_leaves_or_ends_conserves_mass(end, shards):
    nets = [_tensors("bf16", seed) for seed in range(3)]
    boxes = [InProcessMailboxes(3, size) for size in shard_sizes(D, shards)]
    averagers: list[ShardedAverager | GossipAverager] = [
        ShardedAverager(net, mailboxes=[b.endpoint(r) for b in boxes], rank=r, world_size=3, topology="complete")
        if shards > 1
        else GossipAverager(net, mailbox=boxes[0].endpoint(r), rank=r, world_size=3, topology="complete")
        for r, net in enumerate(nets)
    ]

    def weights(averager: ShardedAverager | GossipAverager) -> Tensor:
        return torch.cat([torch.full((n,), w, dtype=FP64) for n, w in averager.slice_weights()])

    total = sum(_flat(net) for net in nets)
    for rank in (0, 1, 1, 0, 2, 2, 0):
        averagers[rank].step()
    before = _flat(nets[2])
    nets[2][0].add_(0.5)
    total = total + weights(averagers[2]) * (_flat(nets[2]) - before)
    getattr(averagers[2], end)()
    for averager in averagers:
        averager.values.read()
    held = sum(weights(a) * a.flat.double() for a in averagers)
    assert (held + torch.cat([b.in_flight()[0] for b in boxes]) - total).abs().max() < 1e-5
    assert torch.equal(_flat(nets[2]).to(BF16), averagers[2].flat.to(BF16))


# ---- float64


def test_float64_is_not_rounded_on_its_way_through_shared_memory():
    numel = 2000  # boxes longer than a page: they must not lie on each other
    boxes = SharedMemoryMailboxes.create(3, numel, dtype=FP64)
    nets = [[torch.randn(numel, dtype=FP64, generator=torch.Generator().manual_seed(seed))] for seed in range(3)]
    mean = torch.stack([net[0] for net in nets]).mean(0)
    averagers = [
        GossipAverager(net, rank=r, world_size=3, mailbox=boxes.handle.open(r), tau=0) for r, net in enumerate(nets)
    ]
    for _ in range(150):
        lockstep(averagers)
    assert all((a.flat - mean).abs().max() < 1e-14 for a in averagers)
    assert averagers[0].stats()["bytes_sent"] == 150 * (8 * numel + 16)
    boxes.close()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda box: box,
        lambda box: Overlapped(box, 0),
        lambda box: DelayedMailbox(box, 1.0),
        lambda box: Compressed(box, "int8"),
    ],
)
def test_boxes_that_would_round_float64_are_refused(wrap):
    boxes = SharedMemoryMailboxes.create(2, 6)
    net = nn.Linear(2, 2)
    net.bias = nn.Parameter(torch.zeros(2, dtype=FP64))
    mailbox = wrap(boxes.handle.open(0))
    with pytest.raises(ValueError, match=r"bias is float64 and the boxes are float32.*dtype=torch\.float64"):
        GossipAverager(net, rank=0, world_size=2, mailbox=mailbox)
    GossipAverager(net.float(), rank=0, world_size=2, mailbox=mailbox)
    mailbox.close()
    boxes.close()


def test_what_the_boxes_of_a_model_must_be():
    assert exchange_dtype(nn.Linear(2, 2)) == exchange_dtype(nn.Linear(2, 2).to(BF16)) == FP32
    assert exchange_dtype(nn.BatchNorm1d(2).double()) == FP64
    net = nn.Linear(2, 2)
    net.register_buffer("count", torch.zeros(1, dtype=FP64))
    assert exchange_dtype(net) == FP64 and exchange_dtype(net, average_buffers=False) == FP32
    assert averaged_numel(net) == 7
