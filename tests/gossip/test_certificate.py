"""The certificate of learners who report late, in batches, each at a time of its own."""

import json

import numpy as np
import pytest
import torch
from gossip_network import start

from gala.gossip.event_log import EventLog
from gala.gossip.evidence.certificate import Certificate
from gala.gossip.evidence.epsilon_ball import EpsilonBall
from gala.gossip.evidence.events import consensus_distance

N, D = 4, 6


def _run(seed: int, every: int, ticks: int = 300):  # type: ignore[no-untyped-def]
    """Yields after each report of one learner: (certificate, what all have published by now)."""
    rng = np.random.default_rng(seed)
    averagers = start(torch.zeros(N, D, dtype=torch.float64), topology="random-1", every=every, w_min=0.05)
    waiting: list[list[tuple]] = [[] for _ in range(N)]
    for averager in averagers:
        averager.on_event = lambda event, rank=averager.rank: waiting[rank].append(tuple(event))
    certificate, numbers = Certificate(N), [0] * N
    for _ in range(ticks):
        for rank in rng.permutation(N):
            if rng.random() < (0.2, 0.9, 0.6, 0.4)[rank]:
                averagers[rank].flat.add_(0.01 * torch.as_tensor(rng.normal(loc=rank, size=D)))
                averagers[rank].step()
            if rng.random() < 0.1:
                numbers[rank] += 1
                averagers[rank].mark(numbers[rank])
                published = averagers[rank].flat.clone()
                if rng.random() < 0.8:  # some publications are replaced before anyone has read them
                    certificate.publish(rank, numbers[rank], published)
                certificate.log(rank, waiting[rank])
                waiting[rank].clear()
                yield certificate


@pytest.mark.parametrize("every", [1, 3])
def test_the_bound_holds_for_parameters_of_different_moments(every):
    ratios = []
    for certificate in _run(every, every):
        if measured := certificate.measure():
            assert measured.distance > 0
            ratios.append(measured.distance / measured.bound)
    assert len(ratios) > 60 and max(ratios) <= 1 + 1e-12
    assert np.mean(ratios) > 0.1, "a bound that is never near says nothing"


def test_marks_of_one_moment_give_the_plain_bound():
    averagers = start(torch.zeros(3, D, dtype=torch.float64))
    ball, certificate, rng = EpsilonBall(3), Certificate(3), np.random.default_rng(0)
    events: list[list[tuple]] = [[] for _ in range(3)]
    for averager in averagers:
        averager.on_event = lambda event: (ball.apply(event), events[event.rank].append(tuple(event)))
    for t in range(1, 40):
        for averager in averagers:
            averager.flat.add_(torch.as_tensor(rng.normal(size=D)))
            averager.step()
        for averager in averagers:
            averager.mark(t)
            certificate.publish(averager.rank, t, averager.flat.clone())
        for rank in (2, 0, 1):  # a take may be reported before its put
            certificate.log(rank, events[rank])
            events[rank].clear()
        measured = certificate.measure()
        assert measured is not None and measured.marks == (t, t, t)
        assert measured.bound == pytest.approx(ball.bound(), rel=1e-9)
        assert measured.distance == consensus_distance(torch.stack([a.flat for a in averagers]))


def test_a_take_waits_for_the_report_of_its_put():
    certificate = Certificate(2)
    certificate.publish(1, 1, torch.tensor([3.0]))
    certificate.log(1, [("update", 1, 1, 1.0, 1, 1, 0), ("take", 1, 0, 1.0, 1, 1, 0), ("mark", 1, 1, 0.0, 1, 1, 0)])
    assert certificate.measure() is None
    certificate.publish(0, 1, torch.tensor([2.0]))
    certificate.log(0, [("update", 0, 0, 2.0, 1, 1, 0), ("put", 0, 1, 0.5, 1, 1, 0), ("mark", 0, 0, 0.0, 1, 1, 0)])
    measured = certificate.measure()
    # learner 0 holds u0; learner 1 holds (1 u1 + 0.5 u0) / 1.5
    assert measured is not None
    assert measured.bound == pytest.approx((2 / 3 * 2.0 + 2 / 3 * 1.0) / 2**0.5)
    assert measured.distance == pytest.approx(1 / 2**0.5)


def test_a_learner_that_begins_anew_voids_it():
    certificate = Certificate(2)
    for rank in range(2):
        certificate.publish(rank, 1, torch.zeros(1))
        certificate.log(rank, [("update", rank, rank, 1.0, 5, 1, 0), ("mark", rank, rank, 0.0, 1, 1, 0)])
    assert certificate.measure() is not None
    certificate.log(0, [("update", 0, 0, 1.0, 1, 1, 0)])
    assert certificate.measure() is None and certificate.void == "learner 0 has begun anew"


def test_logs_are_kept_one_line_per_event(tmp_path):
    (averager, _) = start(torch.zeros(2, D), w_min=0.01)
    log = EventLog(averager, tmp_path / "gossip")
    averager.flat.add_(1.0)
    averager.step()
    log.mark(1)
    events = log.take()
    assert [event[0] for event in events] == ["update", "put", "update", "mark"]
    assert events[0][3] == pytest.approx(D**0.5) and events[2][3] == 0.0
    averager.step()
    events += log.take()
    lines = (tmp_path / "gossip" / "learner0-from0.jsonl").read_text().splitlines()
    assert [tuple(json.loads(line)) for line in lines] == events and len(events) == 5


@pytest.mark.parametrize("every", [1, 3])
def test_the_log_of_a_process_is_named_after_the_update_at_which_it_began_and_is_no_others(tmp_path, every):
    """Two processes go on from one checkpoint, since the first was killed before the next."""
    for lines in (3, 2):
        (averager, _) = start(torch.zeros(2, D), every=every)
        log = EventLog(averager, tmp_path / "gossip")
        averager.load_state_dict({"weight": 1.0, "updates": 12, "counts": {}})
        for number in range(lines):
            log.mark(number + 1)
            averager.step()
        log.take()
        log.take()
    whole = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "gossip").iterdir()}
    assert whole.keys() == {"learner0-from12.jsonl", "learner0-from12-part2.jsonl"}
    marks = [json.loads(line) for line in (tmp_path / "gossip/learner0-from12-part2.jsonl").read_text().splitlines()]
    assert [event[4] for event in marks if event[0] == "mark"] == [1, 2]


@pytest.mark.parametrize("step", [0.0, 1e-9])
def test_the_bound_holds_where_rounding_is_all_that_drives_learners_apart(step):
    """In float32, with updates that vanish beside the rounding of the averages."""
    d, rng = 2_000, np.random.default_rng(3)
    start_at = torch.as_tensor(rng.normal(scale=3.0, size=d), dtype=torch.float32)
    averagers = start(start_at.repeat(N, 1), topology="random-1", w_min=0.05)
    assert averagers[0].flat.dtype == torch.float32
    ball = EpsilonBall(N)
    for averager in averagers:
        averager.on_event = ball.apply
    ratios = []
    for _ in range(400):
        for rank in rng.permutation(N)[: int(rng.integers(1, N + 1))]:
            averagers[rank].flat.add_(step * torch.as_tensor(rng.normal(size=d), dtype=torch.float32))
            averagers[rank].step()
        distance = consensus_distance(torch.stack([a.flat for a in averagers]))
        if distance:
            ratios.append(distance / ball.bound())
    assert len(ratios) > 300 and max(ratios) <= 1.0
    assert max(ratios) > 0.003, "a bound that is never near says nothing"
