"""A clock for patience: who waits for others must not count the time in which all of them were suspended."""

from __future__ import annotations

_LONGEST_LOOK_S = 1.0
_GAP_S = 5.0


class AwakeClock:
    """Seconds that have passed, as far as whoever looks was awake: a look that comes late counts for a second. So the
    time in which a whole job was suspended does not count, and nobody is late after it."""

    def __init__(self) -> None:
        self.total_s = self.since_gap_s = 0.0
        """Since the first look; and since the last one that came so late that the job must have been suspended."""
        self._last_look: float | None = None

    def look(self, now: float) -> float:
        """The seconds since the last look; ``now`` is of ``time.monotonic``."""
        late_s = now - self._last_look if self._last_look is not None else 0.0
        self._last_look, passed_s = now, min(late_s, _LONGEST_LOOK_S)
        self.total_s += passed_s
        self.since_gap_s = self.since_gap_s + passed_s if late_s < _GAP_S else 0.0
        return passed_s
