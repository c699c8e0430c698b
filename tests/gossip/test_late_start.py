"""Learners that wait for each other, and one that begins much later than the rest."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch
from gossip_network import start

from gala.gossip import staleness
from gala.gossip.staleness import START_TIMEOUT_S, StalenessBound
from gala.gossip.transport.in_process import InProcessMailboxes

LOOK_S = 0.5


class Watched:
    """Learner 0 waits for learner 1, who has begun and waits for learner 2; time passes by looks."""

    def __init__(self, monkeypatch, begins_at_s=float("inf"), ready_at_s=float("inf")):
        self.now_s, self.begins_at_s, self.ready_at_s = 0.0, begins_at_s, ready_at_s
        clock = SimpleNamespace(monotonic=lambda: self.now_s, sleep=lambda _: None)
        monkeypatch.setattr(staleness, "time", clock)
        self.roster = SimpleNamespace(beat=lambda: None, live=lambda: (0, 1, 2))

    def progress(self, rank):
        return 0 if rank == 0 or (rank == 2 and self.now_s < self.begins_at_s) else 1

    def ready(self):
        self.now_s += LOOK_S
        return self.now_s >= self.ready_at_s

    def wait(self, timeout_s=60.0):
        StalenessBound(0, "wait", timeout_s).wait_until(self.ready, 0, 1, self)


@pytest.mark.parametrize("begins_at_s", [1.0, 59.0, 61.0, 290.0])
def test_patience_begins_once_all_have_begun(monkeypatch, begins_at_s):
    Watched(monkeypatch, begins_at_s, ready_at_s=begins_at_s + 59.0).wait()
    watched = Watched(monkeypatch, begins_at_s)
    with pytest.raises(TimeoutError, match=r"has waited 60 s for learner 1, which is at update 1 \(we are at 1\)"):
        watched.wait()
    assert 0.0 < watched.now_s - begins_at_s - 60.0 <= 3 * LOOK_S


@pytest.mark.parametrize(("timeout_s", "patience_s"), [(60.0, START_TIMEOUT_S), (1000.0, 1000.0)])
def test_one_that_never_begins_is_named_and_not_waited_for_for_ever(monkeypatch, timeout_s, patience_s):
    watched = Watched(monkeypatch)
    with pytest.raises(TimeoutError, match=rf"waited {patience_s:g} s for the first update of learners \[2\]: see"):
        watched.wait(timeout_s)
    assert 0.0 < watched.now_s - patience_s <= 3 * LOOK_S


def test_those_that_do_not_take_part_are_not_waited_for():
    boxes = InProcessMailboxes(4, 1)
    boxes.bury(2)
    boxes.admit(3)
    boxes.endpoint(1).advance(1)
    assert staleness._not_begun(0, boxes.endpoint(0)) == []


@pytest.mark.parametrize("settings", [{"tau": 0}, {"tau": 1, "at_bound": "wait"}])
def test_a_ring_waits_for_the_one_that_is_late(monkeypatch, settings):
    """All others stand still before it begins, one of them for a peer that has begun: until each has looked more often
    than it has seconds of patience, at a second a look."""
    looks, begun = {}, threading.Event()

    def monotonic():
        mine = threading.get_ident()
        if not begun.is_set():
            looks[mine] = looks.get(mine, 0) + 1
        return float(looks.get(mine, 0))

    monkeypatch.setattr(staleness, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    monkeypatch.setattr(staleness, "START_TIMEOUT_S", 1e9)
    values, failures = torch.arange(4.0, dtype=torch.float64).reshape(4, 1), []
    averagers = start(values, topology="ring", w_min=0.01, **settings)

    def learn(averager):
        try:
            for _ in range(20):
                averager.step()
            averager.close()
        except TimeoutError as error:
            failures.append(error)

    threads = [threading.Thread(target=learn, args=(averager,), daemon=True) for averager in averagers]
    for thread in threads[:3]:
        thread.start()
    deadline_s = time.monotonic() + 100
    while not failures and time.monotonic() < deadline_s and (len(looks) < 3 or min(looks.values()) < 200):
        time.sleep(1e-3)
    begun.set()
    threads[3].start()
    for thread in threads:
        thread.join(100)
    assert failures == [] and [averager.updates for averager in averagers] == [20] * 4
