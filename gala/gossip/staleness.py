"""The staleness bound: how long a learner goes on without hearing from a peer, and what it does then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gala.gossip.awake_clock import AwakeClock
from gala.gossip.message import Mailbox, Message

AtBound = Literal["proceed", "wait", "drop-peer"]
_POLL_S = 1e-4
START_TIMEOUT_S = 300.0
"""How long a learner that waits gives the others to begin: to start, to load, to compile, to do one update."""


@dataclass(frozen=True)
class StalenessBound:
    """``tau`` exchanges in a row may pass without a message from a peer that was due; None: no bound, 0: lockstep."""

    tau: int | None
    at_bound: AtBound
    wait_timeout_s: float

    def __post_init__(self) -> None:
        if self.tau is not None and self.tau < 0:
            raise ValueError(f"tau must be 0 or more exchanges, or None for no bound, not {self.tau}")
        if self.at_bound not in ("proceed", "wait", "drop-peer"):
            raise ValueError(f"at_bound {self.at_bound!r} is unknown; use proceed, wait or drop-peer")
        if self.tau == 0 and self.at_bound == "drop-peer":
            raise ValueError("tau=0 waits for every peer; at_bound=drop-peer needs tau of at least 1")
        if self.wait_timeout_s <= 0:
            raise ValueError(f"wait_timeout_s must be positive, not {self.wait_timeout_s}")

    def check(self, mailbox: Mailbox) -> None:
        """In lockstep, nobody who is merely silent is left out from now on: it would be rounds behind for ever.

        Raises:
            ValueError: a peer that is dead would be noticed only after the one that waits for it has raised.
        """
        if self.lockstep and hasattr(mailbox.roster, "wait_for_all"):
            mailbox.roster.wait_for_all()
        silent_after_s = getattr(mailbox.roster, "silent_after_s", math.inf)
        if self.at_bound == "wait" and self.tau and self.wait_timeout_s <= silent_after_s < math.inf:
            raise ValueError(
                f"with at_bound=wait, wait_timeout_s={self.wait_timeout_s:g} must be longer than "
                f"silent_after_s={silent_after_s:g}: else one stopped peer ends all that wait for it"
            )

    @property
    def lockstep(self) -> bool:
        return self.tau == 0

    def waits(self, missed: int) -> bool:
        """Whether ``missed`` exchanges without a message are more than this learner may go on with."""
        return self.at_bound == "wait" and self.tau is not None and missed > self.tau

    @property
    def max_unread_messages(self) -> int:
        """A peer that left so many messages of ours unread gets no more mass: one, or tau + 1 with drop-peer."""
        return self.tau + 1 if self.at_bound == "drop-peer" and self.tau is not None else 1

    def wait_until(self, ready: Callable[[], bool], rank: int, peer: int, box: Mailbox) -> None:
        """Poll ``ready`` until it holds.

        One that waits for a late starter is itself waited for, by others whose own peers have begun. So until everybody
        has done an update, only those who have not are at fault; they have ``START_TIMEOUT_S``, or ``wait_timeout_s``
        if that is longer.

        Raises:
            TimeoutError: it did not hold within ``wait_timeout_s`` since all have begun, as far as this process was
                awake; names both learners. Or somebody has not begun in time; names those.
        """
        clock, late = AwakeClock(), [peer]
        while not ready():
            box.roster.beat()  # or its peers would leave out a healthy learner that waits for a stopped one
            if late and not (late := _not_begun(rank, box)):
                clock = AwakeClock()
            clock.look(time.monotonic())
            patience_s = max(START_TIMEOUT_S, self.wait_timeout_s) if late else self.wait_timeout_s
            if clock.total_s > patience_s:
                waited = f"learner {rank} has waited {patience_s:g} s for"
                if late:
                    raise TimeoutError(f"{waited} the first update of learners {late}: see whether they have started")
                raise TimeoutError(
                    f"{waited} learner {peer}, which is at update "
                    f"{box.progress(peer)} (we are at {box.progress(rank) + 1}): it is dead or very slow. Use "
                    "at_bound=proceed or drop-peer, a larger tau, or a longer wait_timeout_s"
                )
            time.sleep(_POLL_S)

    def next_message(self, rank: int, src: int, box: Mailbox, updates: int) -> Message | None:
        """Wait for mass from ``src``; None if it has finished, or has done ``updates`` updates too and kept its share.

        The second way out is what keeps a cycle of learners from waiting for each other: the slowest never waits.
        """
        found: Message | None = None

        def ready() -> bool:
            nonlocal found
            found = box.take(src)
            at_rest = box.finished(src) or box.progress(src) >= updates
            return found is not None or (at_rest and not box.waiting(src, rank))

        self.wait_until(ready, rank, src, box)
        return found


def _not_begun(rank: int, box: Mailbox) -> list[int]:
    """Those that take part, and of whose updates ``rank`` has seen none."""
    return [other for other in box.roster.live() if other != rank and not box.progress(other)]
