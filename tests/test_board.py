"""Rows that are read while they are written, by writers that may die."""

import numpy as np
import pytest

from gala.training.board import Board


@pytest.mark.parametrize("kind", [0, 1], ids=["parameters", "moments"])
def test_the_successor_of_a_writer_that_died_at_it_writes_whole_rows(kind):
    """Before, the count stayed out of step: rows at rest were torn from then on, and half of one was whole."""
    parent = Board.create(2, 4, 4)
    newcomer = Board.open(parent.handle)
    rows = (parent._params, parent._moments)[kind]

    def publish(board, value):
        (board.publish_params, board.publish_moments)[kind](0, np.full(4, value, rows.dtype))

    def read():
        if kind == 0:
            return parent.read_publication(0)
        values, numbers = parent.read_numbered_moments()
        return values[0], max(numbers[0], 0)

    publish(newcomer, 1.0)
    parent._sequence[kind, 0] += 1  # what a kill in the middle of a write leaves
    rows[0, :2] = 9.0
    assert read()[1] == 0, "torn"
    seen = [1]
    for value in (2.0, 3.0):
        publish(newcomer, value)
        row, number = read()
        assert row.tolist() == [value] * 4 and number > seen[-1]
        seen.append(number)
    newcomer.close()
    parent.close()
