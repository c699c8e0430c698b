"""What children say to their parent, whole or not."""

from __future__ import annotations

import multiprocessing
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from training import PATIENCE_S

from gala.processes.child import run_child
from gala.processes.fleet import ProcessFleet
from gala.processes.frames import FrameReader, write_frame


@pytest.fixture
def ends():
    ours, theirs = multiprocessing.Pipe()
    reader = FrameReader(ours)
    yield reader, theirs
    for end in (reader, ours, theirs):
        end.close()


def test_frames_come_whole_and_in_order_however_the_bytes_come(ends):
    reader, theirs = ends
    recorder_ours, recorder_theirs = multiprocessing.Pipe()
    said = [("metrics", {"returns": [1.0] * n}) for n in range(4)] + [("left", None)]
    for each in said:
        write_frame(recorder_theirs, each)
    sent = os.read(recorder_ours.fileno(), 1 << 20)
    heard = []
    for size in (1, 3, 7, 50, len(sent)):
        part, sent = sent[:size], sent[size:]
        os.write(theirs.fileno(), part or b"")
        frames, open_ = reader.read()
        heard += frames
        assert open_ and (heard == said) == (not sent)
    theirs.close()
    assert reader.read() == ([], False)


def test_nobody_waits_for_the_rest_of_a_message_whose_writer_was_stopped(ends):
    """Before, the parent did: its watchdog, its checkpoints and Ctrl-C all waited with it."""
    reader, theirs = ends
    big = np.arange(3_000_000)
    writer = threading.Thread(target=write_frame, args=(theirs, ("state", big)))
    writer.start()  # far more than the pipe has room for: this stops in the middle
    heard = []
    while not heard:
        heard, open_ = reader.read()
        assert open_
    writer.join()
    assert heard[0][0] == "state" and np.array_equal(heard[0][1], big)
    os.write(theirs.fileno(), (1 << 40).to_bytes(8, "big") + b"the beginning")
    assert reader.read() == ([], True)
    theirs.close()
    assert reader.read() == ([], False)


def say_much(spec, pipe):
    run_child(pipe, lambda send, commands: send(("much", b"x" * 50_000_000)))


def test_a_wait_for_a_child_is_not_over_with_a_part_of_what_it_says():
    """Who waits with a deadline takes no events for no answer in time."""
    fleet = ProcessFleet(say_much)
    try:
        fleet.spawn(SimpleNamespace(rank=0))
        first, *rest = fleet.events(PATIENCE_S)
        assert (first.kind, len(first.body)) == ("much", 50_000_000)
        assert [event.kind for event in rest or fleet.events(PATIENCE_S)] == ["died"]
        assert fleet.events(0.0) == []
    finally:
        fleet.kill()
