"""``gala supervised``: each method against an oracle, by real learners in real processes."""

import dataclasses
import json
import threading

import pytest
import torch
from torch import nn

from gala.config.idle import refuse_idle
from gala.config.parse import parse_options
from gala.config.supervised import SgdConfig, SlowConfig, SupervisedConfig, validate
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.delayed import DelayedMailbox
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.optim.update import LearningStep
from gala.supervised.comparison import build, digits, report
from gala.supervised.comparison.build import ComparisonJob
from gala.supervised.comparison.launch import Team
from gala.supervised.comparison.learner import SNAPSHOTS
from gala.supervised.loop import SupervisedLearner, endless_batches

CONFIG = SupervisedConfig(
    learners=2,
    iterations=10,
    batch_size=8,
    compute_ms=0,
    latency_ms=1,
    optim=SgdConfig(momentum=0.0, warmup=0.0),
    slow=SlowConfig(every=4, momentum=0.5),
)


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("sklearn")
    return digits.load(0.2, 0)


@pytest.fixture(scope="module")
def team(data):
    with Team(CONFIG, data) as started:
        yield started


@pytest.fixture(scope="module")
def trained(team):
    """Reports of the variants, each trained once."""
    kept = {}

    def reports(method, slowmo="off"):
        if (method, slowmo) not in kept:
            kept[method, slowmo] = team.run(ComparisonJob(method, slowmo, seed=3))
        return kept[method, slowmo]

    return reports


def params(report_):
    return torch.from_numpy(report_.params).double()


class ByHand:
    """The learners of CONFIG in this process, in float64: plain SGD, and averages written out."""

    def __init__(self, data):
        self.models = [digits.make_cnn(3).double() for _ in range(2)]
        self.lr = build.learning_rate(CONFIG)
        self.batches = []
        for rank, learner in enumerate(
            build.make_learner(CONFIG, ComparisonJob("allreduce", "off", 3), r, data, None)[0] for r in range(2)
        ):
            assert len(build.shard(data, rank, 2, 3)[0]) == 719
            self.batches.append(learner.batches)

    def gradient(self, rank, inputs, labels):
        model = self.models[rank]
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs.double()), labels).backward()
        return nn.utils.parameters_to_vector(
            [p.grad + CONFIG.optim.weight_decay * p.detach() for p in model.parameters()]
        )

    def get(self, rank):
        return nn.utils.parameters_to_vector(self.models[rank].parameters()).detach()

    def put(self, rank, vector):
        nn.utils.vector_to_parameters(vector, self.models[rank].parameters())


def test_all_reduced_learners_are_equal_to_the_bit_and_are_large_batch_sgd(trained, data):
    a, b = trained("allreduce")
    assert (a.params == b.params).all() and a.iterations == b.iterations == 10
    hand = ByHand(data)
    for i in range(10):
        (x, s), (y, t) = (next(batches) for batches in hand.batches)
        hand.put(0, hand.get(0) - hand.lr(i / 10) * hand.gradient(0, torch.cat([x, y]), torch.cat([s, t])))
    assert (hand.get(0) - params(a)).abs().max() < 1e-6
    assert (
        hand.get(0) - nn.utils.parameters_to_vector(digits.make_cnn(3).parameters())
    ).abs().max() > 1e-2  # it learned


@pytest.mark.parametrize("method", ["sgp", "dpsgd"])
def test_two_synchronous_learners_that_average_each_time_are_all_reduced_ones(method, trained):
    """A step by one's own gradient and then the mean of both is the step by the mean gradient."""
    reference = params(trained("allreduce")[0])
    for one in trained(method):
        assert (params(one) - reference).abs().max() < 1e-6 and one.weight == 1.0 and one.iterations == 10
        assert one.bytes_sent == 10 * (4 * len(reference) + 16)


@pytest.mark.parametrize("slowmo", ["off", "on"])
def test_local_sgd_is_an_average_now_and_then_and_with_slowmo_bmuf(slowmo, trained, data):
    momentum = 0.5 if slowmo == "on" else 0.0
    hand = ByHand(data)
    slow, velocity = hand.get(0), torch.zeros(len(hand.get(0)))
    for i in range(10):
        lr = hand.lr(i / 10)
        for rank in range(2):
            hand.put(rank, hand.get(rank) - lr * hand.gradient(rank, *next(hand.batches[rank])))
        if i in (3, 7):
            mean = (hand.get(0) + hand.get(1)) / 2
            velocity = momentum * velocity + (slow - mean) / lr
            slow = slow - lr * velocity
            for rank in range(2):
                hand.put(rank, slow)
    for rank, one in enumerate(trained("local-sgd", slowmo)):
        assert (params(one) - hand.get(rank)).abs().max() < 1e-6
    a, b = (torch.from_numpy(one.snapshots) for one in trained("local-sgd", slowmo))
    apart = (a - b).norm(dim=1) > 0
    assert apart.tolist() == [i // 2 + 1 not in (4, 8) for i in range(SNAPSHOTS)]  # equal right after an average


def test_overlapping_learners_share_a_budget_and_lose_no_mass(trained, data):
    reports = trained("overlap-sgp")
    assert sum(one.iterations for one in reports) >= 20 and all(one.iterations > 0 for one in reports)
    assert abs(sum(one.weight for one in reports) - 2) < 1e-9
    row = report.row(CONFIG, ComparisonJob("overlap-sgp", "off", 3), reports, data)
    mean = sum(one.weight * params(one) for one in reports) / 2
    model = digits.make_cnn(3)
    nn.utils.vector_to_parameters(mean.float(), model.parameters())
    right = (model(data.test_images).argmax(1) == data.test_labels).float().mean()
    assert row["test_accuracy"] == pytest.approx(float(right))
    loss = nn.functional.cross_entropy(model(data.train_images), data.train_labels).detach()
    assert row["train_loss"] == pytest.approx(float(loss), rel=1e-6)
    spread = [torch.stack([torch.from_numpy(one.snapshots[i]) for one in reports]).double() for i in (0, -1)]
    by_hand = [float((x - x.mean(0)).norm()) for x in spread]
    assert [row["consensus_distance"][i] for i in (0, -1)] == pytest.approx(by_hand)
    assert json.loads(json.dumps(row)) == row


class Meeting:
    """Exact averages between threads, as a Collective makes them between processes."""

    def __init__(self, n):
        self.gate, self.parts = threading.Barrier(n), []

    def barrier(self):
        self.gate.wait(10)

    def average(self, tensors, weight):
        self.parts.append((weight * tensors[0], weight))
        self.gate.wait(10)
        mean = sum(part for part, _ in self.parts) / sum(weight for _, weight in self.parts)
        self.gate.wait(10)
        tensors[0].copy_(mean)


def test_an_exact_average_counts_the_weights_and_what_was_under_way():
    values = torch.tensor([[1.0, 2.0], [5.0, -4.0], [0.0, 8.0]], dtype=torch.float64)
    shared, meeting = InProcessMailboxes(3, 2), Meeting(3)
    ends = [DelayedMailbox(shared.endpoint(rank), 0.01) for rank in range(3)]
    averagers = [
        GossipAverager([values[rank].clone()], rank=rank, world_size=3, mailbox=ends[rank]) for rank in range(3)
    ]
    averagers[0].send()  # half of the mass of learner 0 is on its way to 1
    averages = [build.make_average(averager, meeting) for averager in averagers]
    threads = [threading.Thread(target=f, args=([a.flat],)) for f, a in zip(averages, averagers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for averager in averagers:
        assert (averager.flat - values.mean(0)).abs().max() < 1e-12
    assert [averager.weight for averager in averagers] == [0.5, 1.5, 1.0]


def test_with_an_exact_average_nobody_runs_ahead_and_all_are_equal_after_it(trained):
    reports = trained("overlap-sgp", "on")
    assert [one.iterations for one in reports] == [10, 10]
    a, b = (torch.from_numpy(one.snapshots) for one in reports)
    assert (a[7] == b[7]).all() and (a[15] == b[15]).all()  # after iterations 4 and 8
    assert abs(sum(one.weight for one in reports) - 2) < 1e-9


def test_synchronous_sgp_on_a_complete_graph_is_large_batch_sgd_to_the_last_digits():
    """Any model, any data: the loop alone, in threads and in float64, so that nothing but the algebra is left."""
    n, d, size, updates, lr = 4, 5, 6, 8, 0.05
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 40, d, dtype=torch.float64, generator=generator)
    targets = torch.randn(n, 40, 1, dtype=torch.float64, generator=generator)

    def make(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(d, 7), nn.Tanh(), nn.Linear(7, 1)).double()

    def batches(rank):
        return endless_batches(inputs[rank], targets[rank], size, torch.Generator().manual_seed(rank))

    models = [make() for _ in range(n)]
    shared = InProcessMailboxes(n, sum(p.numel() for p in models[0].parameters()))
    learners = []
    for rank, model in enumerate(models):
        box = shared.endpoint(rank)
        averager = GossipAverager(model.parameters(), rank=rank, world_size=n, mailbox=box, topology="complete", tau=0)
        optimizer = torch.optim.SGD(model.parameters(), lr)
        step = LearningStep(optimizer, averager=averager)
        learners.append(SupervisedLearner(model, batches(rank), nn.functional.mse_loss, step))
    threads = [threading.Thread(target=lambda x=x: [x.update() for _ in range(updates)]) for x in learners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    reference, streams = make(), [batches(rank) for rank in range(n)]
    for _ in range(updates):
        x, y = (torch.cat(part) for part in zip(*(next(stream) for stream in streams), strict=True))
        reference.zero_grad()
        nn.functional.mse_loss(reference(x), y).backward()
        with torch.no_grad():
            for p in reference.parameters():
                p.sub_(lr * p.grad)
    for model in models:
        for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            assert (mine - theirs).abs().max() < 1e-12


def test_every_example_comes_once_in_a_pass_and_shards_are_disjoint(data):
    inputs = torch.arange(10).unsqueeze(1)
    stream = endless_batches(inputs, inputs, 4, torch.Generator().manual_seed(0))
    seen = torch.cat([next(stream)[0] for _ in range(5)]).flatten().tolist()  # two passes over 10
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    parts = [build.shard(data, rank, 3, 1)[0] for rank in range(3)]
    assert [len(part) for part in parts] == [480, 479, 479]
    together = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(together.unique(dim=0)) == len(torch.cat([*parts, data.test_images]).flatten(1).unique(dim=0)) == 1797


def test_what_was_injected_adds_up():
    c = dataclasses.replace(CONFIG, learners=8, compute_ms=20, latency_ms=5, straggler=4)
    expected = {
        ("allreduce", "off"): 80 + 3 * 5,  # log2(8) messages
        ("sgp", "off"): 80,  # the straggler never waits
        ("sgp", "on"): 80 + 15 / 4,
        ("overlap-sgp", "off"): 8 / (7 / 20 + 1 / 80),  # each learner at its own speed
        ("overlap-sgp", "no-average"): 8 / (7 / 20 + 1 / 80),
        ("overlap-sgp", "on"): 80 + (5 + 15) / 4,
        ("local-sgd", "on"): 80 + 15 / 4,
    }
    for (method, slowmo), total_ms in expected.items():
        assert build.injected_ms(c, ComparisonJob(method, slowmo, 1)) == pytest.approx(total_ms), (method, slowmo)
    ring = dataclasses.replace(c, allreduce="ring", straggler=1)
    assert build.injected_ms(ring, ComparisonJob("sgp", "off", 1)) == pytest.approx(20 + 5)
    assert build.injected_ms(ring, ComparisonJob("allreduce", "off", 1)) == pytest.approx(20 + 14 * 5)


def test_every_combination_is_a_job_once():
    names = [(job.method, job.slowmo) for job in build.jobs(dataclasses.replace(CONFIG, slowmo="all", seeds=(1, 1)))]
    assert len(names) == len(set(names)) == 13
    assert ("allreduce", "no-average") not in names and ("overlap-sgp", "no-average") in names
    assert set(build.METHODS) == {name for name, _ in names}


@pytest.mark.parametrize(
    "words",
    [
        ["method=overlap-sgp", "overlap_tau=3"],
        ["method=dpsgd", "dpsgd_topology=ring"],
        ["method=local-sgd", "slowmo=off", "slow.every=3"],
        ["method=sgp", "slowmo=on", "slow.every=3", "optim.momentum=0.5"],
        ["data=tiny-digits", "model.pooling=top_k", "model.pool_top_k=2", "optim.name=adam"],
    ],
)
def test_settings_of_what_is_chosen_are_not_refused(words):
    refuse_idle(parse_options(SupervisedConfig, words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=sgd"], "method='sgd' is unknown; there are all, allreduce, sgp, overlap-sgp, dpsgd, local-sgd"),
        (["learners=0"], "learners=0 must be at least 1"),
        (["straggler=0.5"], "straggler=0.5 must be 1 (none) or more"),
        (["straggler=2", "compute_ms=0"], "straggler=2.0 stretches compute_ms, which is 0; give compute_ms too"),
        (["latency_ms=nan"], "latency_ms=nan must be a finite number"),
        (["slowmo=no-average", "method=local-sgd"], "slowmo=no-average is for gossip"),
        (["topology=rign"], "unknown topology 'rign'"),
        (["dpsgd_topology=ring"], "dpsgd_topology=ring is not symmetric for 8 learners"),
        (["batch_size=180"], "1438 training images over 8 learners are 179 each, less than batch_size=180"),
        (["preset=classic/cartpole"], "preset 'classic/cartpole' holds settings of `gala train`"),
        (["data=tiny-digits", "model.pool_temperature=2"], "model.pool_temperature does nothing with pooling=max"),
        (["data=tiny-digits", "model.pool_top_k=2"], "model.pool_top_k does nothing with pooling=max; use model.pool"),
        (["optim.name=adam", "optim.momentum=0.5"], "optim.momentum does nothing with optim.name=adam"),
        (["method=sgp", "overlap_tau=3"], "overlap_tau does nothing without method=overlap-sgp"),
        (["method=sgp", "dpsgd_topology=ring"], "dpsgd_topology does nothing without method=dpsgd"),
        (["method=sgp,dpsgd", "slowmo=off", "slow.every=3"], "slow.* does nothing with slowmo=off and without"),
        (["slow.evry=3"], "unknown setting 'slow.evry'; did you mean 'slow.every'?"),
    ],
)
def test_bad_settings_are_refused_in_one_line(words, message, data):
    with pytest.raises(ValueError) as caught:
        config = parse_options(SupervisedConfig, words)
        validate(config)
        refuse_idle(config)
        build.check(config, data)
    assert message in str(caught.value) and "\n" not in str(caught.value)
