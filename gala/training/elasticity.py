"""Learners that die, come back, join and leave while the others train on: what the run does about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gala.build.gossip import max_concurrent_learners
from gala.config import derived
from gala.config.schema import Config
from gala.processes.fleet import Event, Fleet
from gala.training.protocol import LearnerSpec, LearnerStates, MailboxesForRun

_WORTH_A_LINE = 0.05
"""By how much a share of the weight must be another than was told at first."""


class Elasticity:
    """Applies ``on_failure`` and brings learners in: a live learner donates its state, which the newcomer starts from
    with no PushSum weight, so the average of the others does not move.

    ``states`` is shared with the run.
    """

    def __init__(
        self,
        config: Config,
        states: LearnerStates,
        fleet: Fleet,
        mailboxes: MailboxesForRun | None,
        spec: Callable[[int, bytes], LearnerSpec],
    ) -> None:
        self.config, self.states, self.fleet, self.mailboxes, self._spec = config, states, fleet, mailboxes, spec
        self.policy = derived.failure_policy(config)
        self.failures: list[dict[str, Any]] = []
        self._earlier_failures = 0  # in the parts of the run before this one
        self._estimated: list[dict[str, Any]] = []  # failures whose lost weight is the last that was heard of it
        self._weighed = 0.0
        self.wanted = config.learners
        """How many learners there should be: as many as at the start, or as were asked for since."""
        self._wanting: dict[int, int | None] = {}  # newcomer -> donor that was asked
        self._going: set[int] = set()  # told to leave, and their processes are still there
        self._owed = 0  # newcomers for whom there is no place before those have gone
        self._stopped = False

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as JSON."""
        return {"wanted": self.wanted, "failures": self.failures}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave; version 0.1.0 saved none."""
        self.wanted = int(state.get("wanted", self.wanted))
        self.failures = list(state.get("failures", []))
        self._earlier_failures = len(self.failures)

    def make_whole(self) -> list[str]:
        """When a run starts, bring in the learners that its checkpoint lacks, if a live one's state can stand for
        theirs; a line for each."""
        there, lines = self.states.ranks(), []
        missing = [r for r in range(max_concurrent_learners(self.config)) if r not in there]
        for rank in missing[: max(0, self.wanted - len(there))]:
            if derived.exchanges_messages(self.config):
                self.admit(rank)
                lines.append(f"learner {rank} is not in the checkpoint: it starts from a live learner's state")
            else:
                lines.append(f"learner {rank} is not in the checkpoint and stays away: no other knows its state")
        return lines

    def died(self, rank: int, told: str) -> bool:
        """Account for a dead learner; False if this ends the run."""
        lost = self.mailboxes.bury(rank) if self.mailboxes else 0.0
        share = lost / max(lost + self.mailboxes.left_weight(), 1e-300) if self.mailboxes else 0.0
        lost_mass = {"lost_weight": lost, "lost_share": share}
        self.failures.append({"rank": rank, "how": told, **lost_mass, "time_s": time.time()})
        self._estimated.append(self.failures[-1])
        self._wanting = {new: None if donor == rank else donor for new, donor in self._wanting.items() if new != rank}
        if (
            self.policy == "restart"
            and rank not in self._going
            and len(self.failures) - self._earlier_failures <= self.config.max_restarts
            and not self._stopped
        ):
            self._wanting[rank] = None
        return self.policy != "stop"

    def weigh(self) -> str:
        """All that are there stand still, so what they have published is all the weight there is, and what is missing
        since the last time has died with learners: far more exact than what was heard of each at its death, on a
        cluster above all. Says so in a line where it is another story than the one that was told."""
        if self.mailboxes is None or self.config.gossip.mixing != "pushsum":  # copies have no mass
            return ""
        before, self._weighed = self._weighed, self.mailboxes.left_weight()
        estimated, self._estimated = self._estimated, []
        lost, told = before - self._weighed, sum(failure["lost_weight"] for failure in estimated)
        if not estimated or lost < 0.0 or before == 0.0:  # it is counted in another unit now, or they have started anew
            return ""
        told_share = sum(failure["lost_share"] for failure in estimated)
        for failure in estimated:
            failure["lost_weight"] = lost * (failure["lost_weight"] / told if told else 1 / len(estimated))
            failure["lost_share"] = failure["lost_weight"] / before
        if abs(lost / before - told_share) < _WORTH_A_LINE:
            return ""
        who = ", ".join(f"learner {failure['rank']}" for failure in estimated)
        return f"{who}: {lost / before:.0%} of the PushSum weight is gone, not {told_share:.0%}"

    def consequence(self, rank: int) -> str:
        """What follows from the last death, in words."""
        share = self.failures[-1]["lost_share"]
        has_mass = self.mailboxes is not None and self.config.gossip.mixing == "pushsum"
        mass = f", {share:.0%} of the PushSum weight went with it" * has_mass
        if rank in self._wanting:
            return f"it starts again from a live learner's state{mass}"
        others = len(self.states)
        return f"the other {f'{others} go' if others > 1 else 'goes'} on{mass}"

    def admit(self, rank: int) -> None:
        """Start ``rank`` as soon as somebody can donate its state."""
        self._wanting[rank] = None
        if self.mailboxes:
            self.mailboxes.retire(rank)

    def scale(self, wanted: int) -> str:
        """Let learners join or leave until ``wanted`` are there; says what it does."""
        places = max_concurrent_learners(self.config)
        if not 1 <= wanted <= places:
            return f"learners={wanted} was asked for; this run can have 1 to {places} (max_learners)"
        free, staying = self._free(), self._staying()
        newcomers = free[: max(0, wanted - len(staying))]
        room = self.fleet.room()
        if room is not None and len(newcomers) > room:
            most = len(staying) + room
            return f"learners={wanted} was asked for; the cluster has CPUs for {most}: add nodes first"
        self.wanted = wanted
        self._owed = max(0, wanted - len(staying) - len(newcomers))
        for rank in newcomers:
            self.admit(rank)
        for rank in self._leaving(staying, len(staying) - wanted):
            if self._wanting.pop(rank, self) is self:  # else it was only asked for
                self.fleet.tell(rank, "leave")
                self._going.add(rank)
        return f"scaling from {len(staying)} to {wanted} learners"

    def _free(self) -> list[int]:
        """Ranks that nobody has, nor is about to have. Whose process has gone is no longer about to go."""
        taken = {*self.states.ranks(), *self._wanting}
        self._going &= taken
        return [rank for rank in range(max_concurrent_learners(self.config)) if rank not in taken]

    def _staying(self) -> list[int]:
        return sorted({*self.states.ranks(), *self._wanting} - self._going)

    def _leaving(self, staying: list[int], number: int) -> list[int]:
        """Those that hold least go first: newcomers that have not begun, then the highest ranks that run."""
        waiting = [r for r in reversed(staying) if r in self._wanting]
        joining, running = ([r for r in reversed(staying) if self.states.of(r) == s] for s in ("joining", "running"))
        return [*waiting, *joining, *running][: max(0, number)]

    def stop(self) -> None:
        """The run is being interrupted: nobody comes any more."""
        self._stopped = True
        self._wanting.clear()
        self._owed = 0

    def advance(self) -> None:
        """Ask a running learner for its state on behalf of those who want one."""
        for rank in self._free()[: self._owed]:
            self._owed -= 1
            self.admit(rank)
        donors = [rank for rank in self.states.ranks("running") if rank not in self._going]
        for newcomer, donor in self._wanting.items():
            if donor is None and donors:
                self._wanting[newcomer] = donors[0]
                self.fleet.tell(donors[0], "donate")

    def hear(self, event: Event) -> None:
        """A learner has donated its state, or has left."""
        if event.kind == "left":
            self.states.move(event.rank, "left")
            if self.mailboxes:
                self.mailboxes.retire(event.rank)
            self._wanting = {new: None if donor == event.rank else donor for new, donor in self._wanting.items()}
            return
        for newcomer in [new for new, donor in self._wanting.items() if donor == event.rank]:
            del self._wanting[newcomer]
            if self.mailboxes:
                self.mailboxes.admit(newcomer)
            self.fleet.spawn(self._spec(newcomer, event.body))
            self.states.move(newcomer, "joining")
