"""When learners pool their normaliser statistics: at each update where all wait for all, else ever more rarely."""

import numpy as np
import pytest

from gala.config.parse import parse_config
from gala.rl.normalise import Normalizers, ObsNormalizer
from gala.training.pooling import MomentPool, row_size


class Board:
    """One learner's; the other's row says that all of its 10 observations were 4."""

    def __init__(self, size):
        self.rows = np.zeros((2, size))
        self.published, self.torn_reads = 0, 0

    def publish_moments(self, rank, row):
        self.rows[rank], self.published = row, self.published + 1

    def read_moments(self):
        return self.rows.copy()

    def read_numbered_moments(self):
        """Torn at first, as long as ``torn_reads`` says: the number is there, and the rest of the row is not."""
        rows = self.rows.copy()
        if self.torn_reads:
            self.torn_reads -= 1
            rows[1].reshape(2, -1)[:, 1:] = 0.0
            return rows, [self.published, -1]
        return rows, [self.published, self.published]


def pool_of(*words):
    config = parse_config(["learners=2", "normalize.obs=true", *words])
    normalizers = Normalizers(ObsNormalizer((1,), 5.0), None)
    board = Board(row_size(config, normalizers.size))
    return MomentPool(config, board, 0, normalizers), board, normalizers.parts["obs_moments"]


def test_learners_that_do_not_wait_pool_often_at_first_and_then_at_least_every_16th_update():
    pool, board, normalizer = pool_of("algo=gala")
    board.rows[1] = [10.0, 4.0, 0.0]
    at = []
    for update in range(1, 4001):
        normalizer.update(np.full((1, 1), 2.0))
        before = board.published
        pool.pool(update)
        if board.published > before:
            at.append(update)
            assert normalizer.applied.count == 10 + update
            assert normalizer.applied.mean == pytest.approx((40 + 2 * update) / (10 + update))
    gaps = np.diff(at)
    assert at[:200] == list(range(1, 201)) and gaps.max() == 16
    assert all(gap <= max(1, start / 100) for start, gap in zip(at, gaps, strict=False))
    assert pool_of("algo=gala")[0].pool(777) == [] and pool_of("algo=independent")[0].pool(1) == []


def test_a_resumed_learner_pools_before_it_goes_on():
    pool, board, _ = pool_of("algo=gala")
    pool.pool(3000)
    assert board.published == 1


def test_learners_that_wait_take_no_row_that_is_being_written():
    pool, board, normalizer = pool_of("algo=gala", "gossip.tau=0")
    board.rows[1].reshape(2, -1)[0] = [2.0, 10.0, 4.0, 0.0]
    board.torn_reads = 3
    normalizer.update(np.full((10, 1), 2.0))
    pool.pool(1)
    assert normalizer.applied.count == 20 and normalizer.applied.mean == 3.0 and board.torn_reads == 0


def test_learners_that_wait_pool_at_every_update():
    pool, board, normalizer = pool_of("algo=gala", "gossip.tau=0")
    for update in range(1, 40):
        place = (update + 1) % 2
        board.rows[1].reshape(2, -1)[place] = [update + 1, 10.0, 4.0, 0.0]
        normalizer.update(np.full((1, 1), 2.0))
        pool.pool(update)
        assert board.published == update and normalizer.applied.count == 10 + update
