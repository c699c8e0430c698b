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
        if kind == 0:
            board.publish_params(0, np.full(4, value, np.float32), value)
        else:
            board.publish_moments(0, np.full(4, value))

    def read():
        if kind == 0:
            return parent.read_publication(0)
        values, numbers = parent.read_numbered_moments()
        return values[0], max(numbers[0], 0)

    publish(newcomer, 1.0)
    parent._sequence[kind, 0] += 1  # what a kill in the middle of a write leaves
    rows[0, ..., :2] = 9.0
    assert read()[1] == 0, "torn"
    seen = [1]
    for value in (2.0, 3.0):
        publish(newcomer, value)
        row, number = read()
        assert row.tolist() == [value] * 4 and number > seen[-1]
        seen.append(number)
    newcomer.close()
    parent.close()


def test_parameters_are_compared_at_one_moment_whoever_has_published_last():
    """Where parameters are the update's number, all that are read together must be equal."""
    board = Board.create(3, 4, 0)
    for update, rank in ((0, 0), (0, 1), (1, 1)):
        board.publish_params(rank, np.full(4, 7.0 + update, np.float32), float(update))
        assert board.read_params([0, 1])[0][rank].tolist() == [7.0] * 4, "the first, and not what nobody has written"
    board.close()
    board, published = Board.create(3, 4, 0), [0, 0, 0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        rank = int(rng.choice([rank for rank in range(3) if published[rank] == min(published)]))
        published[rank] += 1
        board.publish_params(rank, np.full(4, published[rank], np.float32), float(published[rank]))
        params, stamps = board.read_params(range(3))
        assert params.tolist() == [[min(published)] * 4] * 3 and set(stamps) == {min(published)}
    assert board.read_params([rank])[0].tolist() == [[published[rank]] * 4], "alone, its newest"
    for stamp in range(1000, 1005):
        board.publish_params(0, np.full(4, -stamp, np.float32), float(stamp))
    params, stamps = board.read_params(range(3))
    assert params[0, 0] == -stamps[0] == -1003, "too far ahead: the nearest of the two that it keeps"
    board.close()
