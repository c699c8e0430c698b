"""Callbacks that block, raise or are too slow neither keep a run open nor count as training."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from training import PATIENCE_S, TINY

import gala
from gala.training import callbacks
from gala.training.callbacks import Callbacks


def settings(path, **more):
    return dict(word.split("=", 1) for word in TINY) | {"run": str(path), "log.interval_s": 0.05, **more}


def block(_):
    threading.Event().wait(1000)


def tell(told, records=3, then=lambda: None):
    """What a supervisor does that has some records to tell, and ends."""

    def supervise():
        for i in range(records):
            told.on_record({"global_step": i})
        then()
        return "done"

    return supervise


def test_a_callback_that_blocks_is_interrupted_and_what_it_was_not_told_is_counted(monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "PATIENCE_S", 0.3)
    before = signal.getsignal(signal.SIGURG)
    told = Callbacks(on_record=block)
    assert told.call_beside(tell(told)) == "done"
    assert capsys.readouterr().err == "warning: on_record took too long; records not handed to it: 2\n"
    assert signal.getsignal(signal.SIGURG) == before
    told.raise_error()


def test_after_a_signal_nobody_waits_for_callbacks_but_those_that_keep_up_are_told_all(monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "PATIENCE_S", 1000.0)
    monkeypatch.setattr(callbacks, "HURRIED_S", 0.0)
    told = Callbacks(on_record=block)
    assert told.call_beside(tell(told), hurried=lambda: True) == "done"
    monkeypatch.setattr(callbacks, "HURRIED_S", PATIENCE_S)
    heard = []
    told = Callbacks(on_record=heard.append)
    assert told.call_beside(tell(told, 100), hurried=lambda: True) == "done"
    assert len(heard) == 100 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_callback_that_catches_everything_is_interrupted_again(monkeypatch):
    monkeypatch.setattr(callbacks, "PATIENCE_S", 0.2)

    def stubborn(_):
        try:
            block(_)
        except BaseException:
            block(_)

    told = Callbacks(on_record=stubborn)
    assert told.call_beside(tell(told)) == "done"


def test_no_callback_is_interrupted_while_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(callbacks, "PATIENCE_S", 0.0)
    heard = []
    told = Callbacks(on_record=heard.append)
    assert told.call_beside(tell(told, 3, lambda: os.kill(os.getpid(), signal.SIGURG))) == "done"
    assert told.end_wanted == ""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_ends_the_program_ends_the_run_in_order(kind):
    def raising(_):
        raise kind

    told = Callbacks(on_record=raising)

    def supervise():
        told.on_record({})
        ends = time.monotonic() + PATIENCE_S
        while not told.end_wanted:
            assert time.monotonic() < ends
            time.sleep(0.01)
        return "stopped"

    assert told.call_beside(supervise) == "stopped"
    with pytest.raises(kind):
        told.raise_error()


def test_the_summary_is_written_while_a_callback_blocks_and_knows_nothing_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "PATIENCE_S", PATIENCE_S)
    path = tmp_path / "run"
    seen = []

    def wait_for_the_summary(_):
        ends = time.monotonic() + PATIENCE_S
        while not (path / "summary.json").is_file() and time.monotonic() < ends:
            time.sleep(0.01)
        seen.append((json.loads((path / "summary.json").read_text()), time.monotonic() - began))
        callbacks.PATIENCE_S = 0.0
        block(_)

    began = time.monotonic()
    run = gala.train(**settings(path, steps=1200), on_record=wait_for_the_summary)
    (summary, seen_s), rest = seen[0], seen[1:]
    assert not rest and run.summary == summary and summary["status"] == "finished"
    assert summary["wall_s"] <= seen_s
    out, err = capsys.readouterr()
    assert f" in {summary['wall_s']:.1f} s\n" in out
    left = len(run.metrics()["global_step"]) - 1
    assert f"warning: on_record took too long; records not handed to it: {left}\n" in err
    assert not list(path.glob("*.tmp"))


def test_a_signal_ends_a_run_whose_callback_blocks(tmp_path):
    path = tmp_path / "run"

    def stuck(_):
        os.kill(os.getpid(), signal.SIGTERM)
        block(_)

    with pytest.raises(SystemExit) as caught:
        gala.train(**settings(path, steps=10**9), on_record=stuck)
    assert caught.value.code == 128 + signal.SIGTERM
    assert gala.Run(path).summary["status"] == "interrupted" and "latest" in gala.Run(path).checkpoints
