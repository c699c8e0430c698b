"""Which of several children failed first, and how: the cause, where others fail in consequence."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gala.processes.child import Failure
from gala.processes.fleet import Event, Fleet

_GRACE_S = 0.3


def has_failed(events: Sequence[Event]) -> bool:
    """Whether any child raised or died."""
    return any(event.kind in ("error", "died") for event in events)


def first_failure(fleet: Fleet, events: list[Event]) -> str:
    """Words for the user, after ``has_failed``: the death by a signal if there is one, else the earliest error. Others
    may have failed in consequence, in an all-reduce without that peer, say; they are heard for a moment."""
    until = time.monotonic() + _GRACE_S
    while (left_s := until - time.monotonic()) > 0:
        events = [*events, *fleet.events(left_s)]
    died = {event.rank: event.body for event in events if event.kind == "died"}
    for rank, manner in died.items():
        if "killed" in manner:
            return f"learner {rank} {manner}; the run has ended."
    errors: dict[int, Failure] = {event.rank: event.body for event in events if event.kind == "error"}
    if errors:
        rank = min(errors, key=lambda rank: errors[rank].time_ns)
        return f"learner {rank} failed; the run has ended.\n{errors[rank].traceback.rstrip()}"
    ends = ", ".join(f"learner {rank} {manner}" for rank, manner in died.items())
    return f"{ends}; the run has ended."
