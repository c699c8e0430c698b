"""Whom `gala scale` lets in and lets go, before a process is started or told."""

from __future__ import annotations

import pytest

from gala.config.parse import parse_config
from gala.training.elasticity import Elasticity
from gala.training.protocol import LearnerStates


class _Fleet:
    """Room for ``free`` more; notes what it is told."""

    def __init__(self, free: int | None) -> None:
        self.free, self.told = free, []

    def room(self) -> int | None:
        return self.free

    def tell(self, rank: int, command: str) -> None:
        self.told.append((rank, command))


def _run(free: int | None, **states: list[int]) -> tuple[Elasticity, _Fleet]:
    config = parse_config(["env.id=CartPole-v1", "algo=gala", "learners=2", "max_learners=4", "steps=1000"])
    fleet, known = _Fleet(free), LearnerStates()
    for state, ranks in states.items():
        for rank in ranks:
            known.move(rank, state)
    return Elasticity(config, known, fleet, None, lambda *_: None), fleet


def test_nobody_is_let_in_for_whom_the_cluster_has_no_cpu():
    """Before, a rank was admitted whose actor never started, and mass was poured into it."""
    elastic, fleet = _run(1, running=[0, 1])
    assert "CPUs for 3" in elastic.scale(4) and not fleet.told
    elastic.advance()
    assert not fleet.told, "nobody was asked for its state"
    assert elastic.scale(3) == "scaling from 2 to 3 learners"
    elastic.advance()
    assert fleet.told == [(0, "donate")]


@pytest.mark.parametrize("free", [None, 0])
def test_those_that_have_not_begun_leave_before_those_that_hold_mass(free):
    """Before, scaling back from a newcomer that never started took a running learner's part of the checkpoint along."""
    elastic, fleet = _run(None, running=[0, 1], joining=[2])
    fleet.free = free
    assert elastic.scale(2) == "scaling from 3 to 2 learners" and fleet.told == [(2, "leave")]


def test_one_that_was_only_asked_for_is_forgotten():
    elastic, fleet = _run(None, running=[0, 1])
    elastic.scale(3)
    assert elastic.scale(1) == "scaling from 3 to 1 learners"
    assert fleet.told == [(1, "leave")]
    elastic.advance()
    assert fleet.told == [(1, "leave")], "nobody donates for it"
