"""Calls into code that may never return."""

import threading

import pytest
from gala_envs.contract import EnvError
from gala_envs.watchdog import TimedCaller


def test_results_and_failures_pass_through():
    call = TimedCaller(200.0, "Game")
    assert [call(lambda k=k: k * k) for k in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(EnvError, match="Game: KeyError: 'x'"):
        call(lambda: {}["x"])
    assert call(lambda: 7) == 7
    call.close()


def test_a_call_that_hangs_is_given_up():
    release = threading.Event()
    call = TimedCaller(0.2, "Game")
    with pytest.raises(EnvError, match=r"Game: the simulator did not answer for 0.2 s"):
        call(release.wait)  # for ever
    release.set()
    call.close()
