"""Who of several learners is stuck, and who only waits for the others."""

from __future__ import annotations

import pytest

from gala.training.board import ROLLOUTS, UPDATES, Board
from gala.training.protocol import LearnerStates
from gala.training.watchdog import MARGIN_S, START_S, Watchdog

LIMIT_S = 60.0 + MARGIN_S


@pytest.fixture
def watched():
    """(board, states, first) of two learners at work; ``first(until_s)``: whom the watchdog names, and after how many
    seconds, if everything stands still."""
    board, states = Board.create(2, 1, 0), LearnerStates()
    for rank in range(2):
        states.move(rank, "running")

    def first(until_s: float, ending: bool = False) -> tuple[list[int], float]:
        watchdog = Watchdog(board, states, 60.0)
        for second in range(int(until_s)):
            if stuck := watchdog.stuck(float(second), ending):
                return [rank for rank, _ in stuck], stuck[0][1]
        return [], until_s

    yield board, states, first
    board.close()


def test_who_has_its_rollout_waits_and_who_has_not_is_stuck(watched):
    board, _, first = watched
    board.beats[0, ROLLOUTS] = 1
    ranks, after_s = first(1000)
    assert ranks == [1] and LIMIT_S < after_s <= LIMIT_S + 1
    board.beats[1, ROLLOUTS] = 1
    assert first(1000)[0] == [0, 1], "both wait, for nobody: the exchange hangs"


def test_who_waits_for_one_that_is_still_starting_is_well(watched):
    """Before, it was ended after a minute, and with it a run whose last learner was to start in two."""
    board, states, first = watched
    states.move(1, "starting")
    board.beats[0, ROLLOUTS] = 1
    ranks, after_s = first(1000)
    assert ranks == [1] and after_s > START_S
    assert first(1000, ending=True) == ([1], 21.0)
    board.progress[0, UPDATES] = 1  # it simulates again: a step that does not return is its own
    assert first(1000)[0] == [0]
