"""Whom `gala scale` lets in and lets go, before a process is started or told."""

from __future__ import annotations

import pytest

from gala.config.parse import parse_config
from gala.processes.fleet import Event
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


def _run(free: int | None, words: tuple[str, ...] = (), **states: list[int]) -> tuple[Elasticity, _Fleet]:
    config = parse_config(["env.id=CartPole-v1", "algo=gala", "learners=2", "max_learners=4", "steps=1000", *words])
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


@pytest.mark.parametrize("has_handed_over", [False, True])
def test_one_that_is_about_to_go_is_not_counted_again(has_handed_over):
    """Before, two calls in a row took one learner too many: the first's still had its process."""
    elastic, fleet = _run(None, running=[0, 1, 2, 3])
    assert elastic.scale(3) == "scaling from 4 to 3 learners" and fleet.told == [(3, "leave")]
    if has_handed_over:
        elastic.hear(Event(3, "left"))
    assert elastic.scale(2) == "scaling from 3 to 2 learners" and fleet.told == [(3, "leave"), (2, "leave")]


def test_whoever_is_called_back_comes_when_the_one_before_has_gone():
    """Before, the call counted the leaver, did nothing, and the run went on without it."""
    elastic, fleet = _run(None, running=[0, 1, 2, 3])
    elastic.scale(3)
    assert elastic.scale(4) == "scaling from 3 to 4 learners"
    elastic.advance()
    assert fleet.told == [(3, "leave")], "its place is not free yet"
    elastic.hear(Event(3, "left"))
    elastic.states.remove(3)
    elastic.advance()
    assert fleet.told == [(3, "leave"), (0, "donate")]
    assert elastic.scale(4) == "scaling from 4 to 4 learners"


@pytest.mark.parametrize("asked_to_leave", [False, True])
def test_who_was_to_leave_is_not_restarted_when_it_is_killed(asked_to_leave):
    elastic, fleet = _run(None, ("on_failure=restart",), running=[0, 1, 2])
    if asked_to_leave:
        elastic.scale(2)
    elastic.states.remove(2)
    assert elastic.died(2, "killed")
    elastic.advance()
    assert ((0, "donate") in fleet.told) is not asked_to_leave
