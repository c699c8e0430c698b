"""How far learners drift apart, against bounds that are attained and closed forms that are exact."""

import cmath
import math
import sys

import numpy as np
import pytest
import torch
from gossip_network import lockstep, stack, start

from gala.gossip.evidence.epsilon_ball import EpsilonBall
from gala.gossip.evidence.events import AgeHistogram, MixEvent, consensus_distance


def test_consensus_distance():
    x = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 5.0]])
    assert consensus_distance(x) == pytest.approx(math.sqrt(4 + 0 + 4 + 1 + 1 + 4))


def _slowest_mode(n: int, turn: float = 0.0) -> torch.Tensor:
    """The slowest complex mode of the directed ring as n rows of (real, imaginary), of Frobenius norm 1."""
    rows = [cmath.exp(2j * math.pi * k / n + 1j * turn) for k in range(n)]
    return torch.tensor([[c.real, c.imag] for c in rows], dtype=torch.float64) / math.sqrt(n)


@pytest.mark.parametrize(("n", "radius"), [(4, 0.0241421356), (8, 0.1213707117)])
def test_the_epsilon_ball_is_attained_by_adversarial_updates_and_never_left(n, radius):
    """Updates along the slowest mode, turned as the mode turns: ||D|| tends to alpha beta L / (1 - beta) (check 7)."""
    alpha, beta = 0.01, math.cos(math.pi / n)
    assert alpha * beta / (1 - beta) == pytest.approx(radius, abs=1e-9)
    turn = -math.pi / n  # the ring maps mode k to k - 1: lambda = (1 + exp(-2 pi i / n)) / 2
    averagers = start(torch.zeros(n, 2, dtype=torch.float64), tau=0)
    distances = []
    for t in range(600):
        for averager, row in zip(averagers, _slowest_mode(n, t * turn), strict=True):
            averager.flat.sub_(alpha * row)
        lockstep(averagers)
        distances.append(consensus_distance(stack(averagers)))
    assert max(distances) <= alpha * beta / (1 - beta) + 1e-12
    assert distances[-1] == pytest.approx(radius, abs=1e-9)


@pytest.mark.parametrize(("n", "closed"), [(4, 2), (8, 14)])
def test_the_epsilon_ball_under_gaussian_updates(n, closed):
    """Mean ||D||^2 = alpha^2 sigma^2 d (n-1)(n-2)/3 within 3% (check 8)."""
    assert closed == (n - 1) * (n - 2) // 3
    d, alpha, generator = 400, 0.01, torch.Generator().manual_seed(0)
    averagers = start(torch.zeros(n, d, dtype=torch.float64), tau=0)
    squares = []
    for t in range(900):
        for averager in averagers:
            averager.flat.sub_(alpha * torch.randn(d, generator=generator, dtype=torch.float64))
        lockstep(averagers)
        if t >= 100:
            squares.append(consensus_distance(stack(averagers)) ** 2)
    assert np.mean(squares) == pytest.approx(alpha**2 * d * closed, rel=0.03)


def test_a_thousand_learners_contract_as_the_closed_form_says():
    n, rounds = 1000, 20
    averagers = start(_slowest_mode(n), tau=0)
    for t in range(1, rounds + 1):
        lockstep(averagers)
        if t % 10 == 0:
            assert consensus_distance(stack(averagers)) == pytest.approx(math.cos(math.pi / n) ** t, abs=1e-9)
    averagers = start(torch.randn(1024, 2, dtype=torch.float64), tau=0, topology="one-peer-exponential")
    for _ in range(10):
        lockstep(averagers)
    assert consensus_distance(stack(averagers)) < 1e-14
    assert {a.stats()["sent"] for a in averagers} == {10} == {a.stats()["received"] for a in averagers}


def _calls(work) -> int:  # type: ignore[no-untyped-def]
    """Of Python and C functions, while ``work`` runs."""
    calls = 0

    def count(frame, event, argument):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_a_round_costs_a_learner_as_much_among_a_thousand_as_among_a_hundred():
    per_learner = []
    for n in (100, 1000):
        averagers = start(torch.zeros(n, 2, dtype=torch.float64), tau=0)
        lockstep(averagers)
        per_learner.append(_calls(lambda averagers=averagers: lockstep(averagers)) / n)
    assert per_learner[1] <= 1.1 * per_learner[0]


@pytest.mark.parametrize("mixing", ["pushsum", "copy-average"])
@pytest.mark.parametrize("topology", ["ring", "star", "random-1"])
def test_the_certificate_holds_at_every_step_at_unequal_speeds(mixing, topology):
    """Learners active in 20% to 90% of 500 ticks; and the bound is not idle (check 9, in one process)."""
    n, rng = 5, np.random.default_rng(0)
    averagers = start(torch.zeros(n, 8, dtype=torch.float64), topology=topology, mixing=mixing)
    ball, ratios = EpsilonBall(n), []
    for averager in averagers:
        averager.on_event = ball.apply
    drift = torch.as_tensor(rng.normal(size=(n, 8)))  # pulls apart for good, as different data do
    for _ in range(500):
        for rank in rng.permutation(n):
            if rng.random() < (0.2, 0.9, 0.6, 0.6, 0.4)[rank]:
                averagers[rank].flat.add_(0.01 * (drift[rank] + torch.as_tensor(rng.normal(size=8))))
                averagers[rank].step()
                ratios.append(consensus_distance(stack(averagers)) / ball.bound())
    assert max(ratios) <= 1 + 1e-12
    assert 0.1 < np.mean(ratios[500:]) < 1
    assert ball._used < 2000, "old updates are never forgotten"


def test_the_certificate_is_broken_if_mixing_is_off():
    """The negative control: events of a run that mixes do not bound a run that does not."""
    n, ball = 4, EpsilonBall(4)
    mixed = start(torch.zeros(n, 1, dtype=torch.float64))
    apart = torch.zeros(n, 1, dtype=torch.float64)
    mixed_ok = broken = False
    for averager in mixed:
        averager.on_event = ball.apply
    for _ in range(200):
        for rank, averager in enumerate(mixed):
            averager.flat.add_(0.01 * rank)
            apart[rank] += 0.01 * rank
            averager.step()
        mixed_ok = consensus_distance(stack(mixed)) <= ball.bound()
        broken = broken or consensus_distance(apart) > ball.bound()
    assert mixed_ok and broken


def test_the_bound_is_the_dense_computation_and_replay_sorts_by_time():
    """Against the definition: coefficients by dense algebra over two learners and one box, no forgetting."""
    events = [
        MixEvent("update", 0, 0, 2.0, 1, 1, 10),
        MixEvent("put", 0, 1, 0.5, 1, 1, 20),
        MixEvent("update", 0, 0, 1.0, 2, 1, 30),
        MixEvent("put", 0, 1, 0.25, 2, 1, 40),
        MixEvent("update", 1, 1, 3.0, 1, 1, 50),
        MixEvent("take", 1, 0, 1.0, 2, 2, 60),
    ]
    ball = EpsilonBall(2)
    ball.replay(reversed(events))
    # learner 0 holds u0 + u1; learner 1 holds (1 u2 + 0.5 u0 + 0.25 (u0 + u1)) / 1.75
    held = np.array([[1, 1, 0], [0.75 / 1.75, 0.25 / 1.75, 1 / 1.75]])
    spread = np.linalg.norm(held - held.mean(0), axis=0)
    assert ball.bound() == pytest.approx(spread @ [2.0, 1.0, 3.0], rel=1e-12)
    with pytest.raises(ValueError, match="took 1 puts of 0, 0 are logged"):
        ball.apply(MixEvent("take", 1, 0, 1.0, 3, 1, 70))


def test_replaced_and_lost_puts_are_left_out():
    """Updates of norms 1, 3 and 5: the bound is another if the put that was replaced counts, or counts alone."""
    ball = EpsilonBall(2)
    for version, norm in ((1, 1.0), (2, 3.0), (3, 5.0)):
        ball.apply(MixEvent("update", 0, 0, norm, version, 1, 0))
        ball.apply(MixEvent("put", 0, 1, 1.0, version, 1, 0))
    ball.apply(MixEvent("take", 1, 0, 1.0, 2, 1, 0))  # version 2 replaced 1; 3 came later
    # u0 and u1: 1 at learner 0 and 1/2 at learner 1; u2: 1 and 0
    assert ball.bound() == pytest.approx((0.5 * 1 + 0.5 * 3 + 5) / math.sqrt(2), rel=1e-12)


def test_forgetting_only_loosens_the_bound():
    tight, loose = EpsilonBall(3, forget=0.0), EpsilonBall(3, forget=1e-3)
    averagers = start(torch.zeros(3, 1, dtype=torch.float64))
    rng = np.random.default_rng(0)
    for averager in averagers:
        averager.on_event = lambda event: (tight.apply(event), loose.apply(event))
    for _ in range(400):
        rank = int(rng.integers(3))
        averagers[rank].flat.add_(float(rng.normal()))
        averagers[rank].step()
        assert tight.bound() <= loose.bound() + 1e-12
    assert loose.bound() < 1.2 * tight.bound() and loose._used < tight._used


def test_age_histogram():
    histogram = AgeHistogram()
    for age in (0, 0, 1, 2, 3, 3, 4, 7, 8, 1000):
        histogram.add(age)
    assert histogram.counts() == {"0": 2, "1": 1, "2-3": 3, "4-7": 2, "8-15": 1, "512-1023": 1}
