"""When a checkpoint is kept as the best: at a new highest mean return, and not too soon after another checkpoint."""

import pytest

from gala.config.schema import Config, LogConfig
from gala.training.common_checkpoint import CommonCheckpoint
from gala.training.protocol import LearnerStates


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_new_best_is_kept_a_quarter_of_the_interval_after_the_last_checkpoint(clock):
    config = Config(log=LogConfig(checkpoint_interval_s=40.0))
    checkpoint = CommonCheckpoint(config, None, None, None, None, LearnerStates(), 0)  # nobody is there to be told

    def offered(after_s, mean):
        clock[0] += after_s
        checkpoint.offer_best(mean)
        names, checkpoint.names = checkpoint.names, []  # as if it were taken at once
        return names

    assert offered(10.0, 1.0) == [] and checkpoint.best == -float("inf"), "too soon: it is offered again later"
    assert offered(0.5, 1.0) == ["latest", "best"] and checkpoint.best == 1.0
    assert offered(10.0, 2.0) == [] and checkpoint.best == 1.0
    assert offered(0.5, 2.0) == ["latest", "best"] and checkpoint.best == 2.0
    assert offered(20.0, 2.0) == [] == offered(20.0, 1.9), "no better"
    checkpoint.request(["latest"])
    clock[0] += 20.0
    checkpoint.offer_best(9.0)
    assert checkpoint.names == ["latest"] and checkpoint.best == 2.0, "another one is being taken"
