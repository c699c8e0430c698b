"""Systems that take turns on one machine: a frozen one stands still, a measured rate is the worker's own pace."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "peers"))
from peer import Peer, PeerFailed, Report, lives, rate

PACE = 1000
# The count is of turns of the loop: a pause between two of them does not make up for lost time, like a simulator.
COUNTING = f"""
import json, time
n = 0
while True:
    time.sleep(0.01)
    n += {PACE // 100}
    print(json.dumps({{"t": time.monotonic(), "env_steps": n}}), flush=True)
"""
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


@pytest.fixture
def start():
    started = []

    def make(*command, **words):
        peer = Peer("counter", [sys.executable, "-c", *command], **words)
        started.append(peer)
        peer.start("cartpole", num_envs=1, cores=1)
        return peer

    yield make
    for peer in started:
        peer.kill()


# The counter is a grandchild with a process group of its own, as gala's learners are.
@pytest.mark.parametrize("command", [(COUNTING,), (CHILD, COUNTING)], ids=["alone", "in a group of a child"])
def test_a_frozen_peer_stands_still_and_goes_on(start, command):
    peer = start(*command)
    peer.warm_up()
    peer.freeze()
    time.sleep(0.1)  # what was in the pipe arrives
    before = peer.steps()
    time.sleep(0.4)
    assert peer.steps() == before
    peer.thaw()
    peer.warm_up(reports=before.env_steps * 100 // PACE + 5)
    assert before.env_steps < peer.steps().env_steps < before.env_steps + PACE


def test_nothing_is_left_of_a_killed_peer(start):
    peer = start(CHILD, COUNTING)
    peer.warm_up()
    peer.freeze()
    processes = list(peer._frozen)
    assert len(processes) == 2 and all(map(lives, processes))
    peer.kill()
    assert not any(map(lives, processes))


def test_a_peer_that_others_have_woken_fails(start):
    peer = start(CHILD, COUNTING)
    peer.warm_up()
    peer.freeze()
    peer._frozen[-1].resume()
    with pytest.raises(PeerFailed, match="counter did not stay frozen"):
        peer.thaw()


def test_the_rate_is_the_workers_pace_and_leaves_out_frozen_time(start):
    peer = start(COUNTING)
    peer.warm_up()
    peer.freeze()
    time.sleep(0.5)
    found = peer.measure(0.5)
    assert 0 < found <= PACE  # sleep() never returns early, and late on a busy machine


def test_rate_is_of_the_span_between_reports():
    assert rate([Report(10.0, 400), Report(11.0, 450), Report(14.0, 600)]) == 50.0


def test_an_end_raises_with_the_last_words(start):
    peer = start("import sys; print('noise'); sys.exit('no such simulator')")
    with pytest.raises(PeerFailed, match=r"counter has ended with status 1\n.*no such simulator"):
        peer.warm_up()


def test_silence_raises_unless_frozen(start):
    peer = start("import time; time.sleep(60)", silent_s=0.2, start_s=0.3)
    peer.freeze()
    time.sleep(0.5)
    assert peer.steps() == Report(0.0, 0)
    peer.thaw()
    with pytest.raises(PeerFailed, match="counter has reported no env_steps"):
        peer.warm_up()


LEARNING = """
import json, sys, time
for n in range(1, 6):
    print(json.dumps({"t": time.monotonic(), "env_steps": n, "mean_return": 10.0 * n}), flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_the_first_report_at_the_bar_is_found_and_none_where_a_training_ends_below(start):
    assert start(LEARNING, "60").reach(30.0).env_steps == 3
    assert start(LEARNING, "0").reach(50.0).env_steps == 5
    assert start(LEARNING, "0").reach(51.0) is None
