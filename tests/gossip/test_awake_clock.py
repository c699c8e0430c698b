"""Patience after a whole job was suspended: neither learners nor their parent take each other for dead."""

from types import SimpleNamespace

import pytest

from gala.gossip.awake_clock import AwakeClock
from gala.gossip.staleness import StalenessBound


def test_time_in_which_nobody_looked_does_not_count():
    clock = AwakeClock()
    for now in (100.0, 100.5, 101.0, 9000.0, 9000.25):
        clock.look(now)
    assert clock.total_s == 0.5 + 0.5 + 1.0 + 0.25 and clock.since_gap_s == 0.25


@pytest.mark.parametrize(("step_s", "gives_up"), [(0.5, True), (3600.0, False)])
def test_a_learner_that_was_suspended_while_it_waited_does_not_give_its_peer_up(monkeypatch, step_s, gives_up):
    """The peer, suspended as well, answers at the 200th look."""
    now, looks = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda _: None)

    def ready():
        now[0] += step_s if len(looks) == 50 or gives_up else 1e-3
        looks.append(now[0])
        return len(looks) == 200

    box = SimpleNamespace(roster=SimpleNamespace(beat=lambda: None, live=lambda: (0, 1)), progress=lambda rank: 1)
    bound = StalenessBound(0, "wait", 60.0)
    if gives_up:
        with pytest.raises(TimeoutError, match=r"has waited 60 s for learner 1"):
            bound.wait_until(ready, 0, 1, box)
    else:
        bound.wait_until(ready, 0, 1, box)
