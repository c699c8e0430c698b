"""Smaller messages: what they cost in accuracy, and what they never cost."""

import pytest
import torch
from gossip_network import lockstep, mass, stack, start

from gala.gossip.averager import GossipAverager
from gala.gossip.sharded import ShardedAverager, shard_sizes
from gala.gossip.transport.compress import CODECS, Compressed, Decoder, Encoder
from gala.gossip.transport.in_process import InProcessMailboxes

N, D = 4, 2050  # three int8 blocks, the last nearly empty


class _World:
    """In-process boxes behind a codec."""

    def __init__(self, codec: str, error_feedback: bool) -> None:
        self.boxes, self.ends = InProcessMailboxes(N, D), []
        self._codec, self._feedback = codec, error_feedback

    def endpoint(self, rank: int) -> Compressed:
        self.ends.append(Compressed(self.boxes.endpoint(rank), self._codec, self._feedback))
        return self.ends[-1]


def _run(codec: str, error_feedback: bool, rounds: int = 150):  # type: ignore[no-untyped-def]
    values = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    world = _World(codec, error_feedback)
    averagers = start(values, world, topology="undirected-ring", tau=0)
    for _ in range(rounds):
        lockstep(averagers)
    return values, averagers, world


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_error_feedback_reaches_the_exact_mean_and_moves_no_mass(codec):
    values, averagers, world = _run(codec, error_feedback=True)
    residual = sum(end.residual() for end in world.ends)
    assert (mass(averagers)[0] + residual - values.sum(0)).abs().max() / N < 1e-9
    assert (stack(averagers) - values.mean(0)).abs().max() < 1e-6


def test_without_error_feedback_the_mean_drifts_by_up_to_a_quantum():
    values, averagers, _ = _run("int8", error_feedback=False)
    drift = (stack(averagers).mean(0) - values.mean(0)).abs().max().item()
    quantum = values.abs().max().item() / 127
    assert 1e-6 < drift <= quantum


def test_a_refused_put_keeps_what_earlier_messages_left_behind():
    class Refusing:
        numel, refuse = D, False

        def put(self, *_args) -> bool:  # type: ignore[no-untyped-def]
            return not self.refuse

    inner = Refusing()
    end = Compressed(inner, "int8")  # type: ignore[arg-type]
    end.put(1, torch.randn(D), 0.5, 1)
    before = end.residual().clone()
    inner.refuse = True
    assert not end.put(1, torch.randn(D), 0.5, 2)
    assert torch.equal(end.residual(), before) and before.abs().max() > 0


@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("numel", [1, 1023, 1024, 1025, 5000])
def test_bytes_are_counted_exactly_and_the_far_end_decodes_what_was_sent(codec, numel):
    encoder, decoder = Encoder(CODECS[codec], numel), Decoder(CODECS[codec], numel)
    x = torch.randn(numel, generator=torch.Generator().manual_seed(1))
    x[0] = 0.0
    for _ in range(12):  # each message carries what the ones before it rounded away
        packed = encoder.encode(0.5 * x, 0.5)
        size = sum(t.numel() * t.element_size() for t in packed)
        assert size == CODECS[codec].num_bytes(numel)
        received = decoder.decode(packed, 0.5)
    torch.testing.assert_close(
        received, 0.5 * x.double(), rtol=0, atol={"fp16": 6e-8, "int8": 1e-10}[codec]
    )  # 6e-8: the least half
    if numel >= 1024:
        assert CODECS["int8"].num_bytes(numel) <= 0.27 * 4 * numel


def test_numbers_beyond_half_precision_arrive_in_parts():
    encoder, decoder = Encoder(CODECS["fp16"], 1), Decoder(CODECS["fp16"], 1)
    for _ in range(10):
        received = decoder.decode(encoder.encode(torch.tensor([1e5]), 1.0), 1.0)
    assert received.item() == pytest.approx(1e5, abs=1e-6)


def test_the_averager_counts_compressed_bytes():
    _, averagers, _ = _run("int8", error_feedback=True, rounds=10)
    assert averagers[0].stats()["bytes_sent"] == 10 * 2 * (D + 3 * 4 + 16)
    with pytest.raises(ValueError, match="there are fp16, int8"):
        Compressed(InProcessMailboxes(1, 1).endpoint(0), "int4")


def _sharded(values: torch.Tensor, shards: int, **settings) -> list[ShardedAverager]:  # type: ignore[no-untyped-def]
    n, d = values.shape
    worlds = [InProcessMailboxes(n, size) for size in shard_sizes(d, shards)]
    return [
        ShardedAverager([values[r].clone()], rank=r, world_size=n,
                        mailboxes=[w.endpoint(r) for w in worlds], **settings)
        for r in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("topology", ["ring", "one-peer-exponential"])
def test_k_rounds_of_k_shards_are_one_round_of_all(shards, topology):
    """Each parameter is exchanged exactly once in K rounds; K rounds contract as one unsharded round (check 22)."""
    values = torch.randn(4, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole, parts = start(values, topology=topology, tau=0), _sharded(values, shards, topology=topology, tau=0)
    for round_ in range(3):
        lockstep(whole)
        for turn in range(shards):
            before = torch.stack([p.flat.clone() for p in parts])
            lockstep(parts)  # type: ignore[arg-type]
            changed = (torch.stack([p.flat for p in parts]) != before).any(0).nonzero().flatten().tolist()
            begin = sum(shard_sizes(13, shards)[:turn])
            shard = list(range(begin, begin + shard_sizes(13, shards)[turn]))
            assert changed == shard if round_ == 0 else set(changed) <= set(shard)
        torch.testing.assert_close(torch.stack([p.flat for p in parts]), stack(whole), rtol=0, atol=0)
    assert parts[0].stats()["sent"] == shards * whole[0].stats()["sent"]
    extra = (shards - 1) * whole[0].stats()["sent"] * 16
    assert parts[0].stats()["bytes_sent"] == whole[0].stats()["bytes_sent"] + extra


def test_shards_of_a_model_share_its_memory_and_keep_their_state():
    net = torch.nn.Linear(3, 2)
    worlds = [InProcessMailboxes(2, size) for size in shard_sizes(8, 3)]
    sharded = ShardedAverager(
        net.parameters(), rank=0, world_size=2, mailboxes=[w.endpoint(0) for w in worlds], w_min=0.1, every=2
    )
    other = GossipAverager([torch.full((3,), 7.0)], rank=1, world_size=2, mailbox=worlds[0].endpoint(1))
    other.fingerprint = sharded.shards[0].fingerprint  # as if it were the first shard of the same model
    other.step()
    for _ in range(2):
        sharded.step()
    assert sharded.shards[0].stats()["received"] == 1 and sharded.shards[1].stats()["received"] == 0
    assert net.weight.view(-1)[0] == sharded.flat[0]
    state = sharded.state_dict()
    assert [s["weight"] for s in state["shards"]] == [1.0, 1.0, 1.0]
    assert sharded.stats()["sent"] == 1 and sharded.weight == 1.0
    sharded.drain()
    sharded.load_state_dict(state)
    sharded.close()
    net.double()
    with pytest.raises(RuntimeError, match="moved"):
        sharded.step()
    with pytest.raises(ValueError, match="1 to 8 shards"):
        shard_sizes(8, 9)
