"""A learner as a Ray actor: the same loop as in a process of its own, connected to the hub and to its peers' actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from numpy.typing import NDArray

from gala.cluster.member import Member
from gala.gossip.transport.inbox import Envelope
from gala.gossip.transport.remote import RemoteEndpoint
from gala.processes.child import Exit, Failure
from gala.runs.checkpoints import pack, unpack
from gala.training.learner import LearnerProcess
from gala.training.protocol import LearnerChannels, LearnerSpec

_LAST_WORDS_S = 20.0

if TYPE_CHECKING:
    from gala.runs.checkpoints import Tensors


class SavedPart(NamedTuple):
    """One learner's part of a checkpoint, as safetensors and JSON: what travels where no disk is shared."""

    data: bytes
    meta: dict[str, Any]


class MailboxHandle(NamedTuple):
    """What an actor needs to make its endpoint; ``LearnerSpec.mailboxes``."""

    numel: int
    silent_after_s: float


class EndpointFactory(NamedTuple):
    """Makes the member's endpoint."""

    member: Member
    boxes: MailboxHandle

    def open(self, rank: int) -> RemoteEndpoint:
        """``rank`` is the member's."""
        return RemoteEndpoint(self.member, self.boxes.numel, self.boxes.silent_after_s)


class RemoteParts:
    """Parts of checkpoints from and for the run directory, which is on the parent's machine."""

    def __init__(self, member: Member, saved: SavedPart | None) -> None:
        self._member, self._saved = member, saved

    def write_part(self, staging: str, part: str, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        """As ``Checkpoints.write_part``; it is written before the parent hears anything that is said later."""
        self._member.say("part", (staging, part, SavedPart(pack(tensors), dict(meta))))

    def load_part(self, name: str, part: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """What the parent has sent along."""
        assert self._saved is not None, "a learner that resumes is given its part"
        return unpack(self._saved.data), self._saved.meta


class LearnerBoard:
    """The board as a learner on another machine sees it: see ``gala.training.board.Board``.

    The others' rows are as old as the last visit to the hub.
    """

    def __init__(self, member: Member) -> None:
        self._member, self._publications = member, 0
        self.progress, self.control = member.mirror.progress, member.mirror.control
        self.beats = member.mirror.beats
        self.total_env_steps, self.read_moments = member.mirror.total_env_steps, member.mirror.read_moments

    def publish_params(self, rank: int, flat: NDArray, stamp: float) -> int:
        """See ``BoardForLearner``; numbers count from 1 on in each life."""
        self._publications += 1
        self._member.publish_params(flat, self._publications, stamp)
        return self._publications

    def publish_moments(self, rank: int, moments: NDArray) -> None:
        self._member.publish_moments(moments)


class LearnerActor:
    """``run`` is the learner's life. The other methods have a thread of their own, and return at once.

    Args:
        spec: as for a process; its handles are of this package.
        hub: handle of the ``Hub`` actor.
        epoch: which life of this rank it is.
        saved: what to resume from, if ``spec.resume_from`` is set.
    """

    def __init__(self, spec: LearnerSpec, hub: Any, epoch: int, saved: SavedPart | None) -> None:
        self._spec, self._saved = spec, saved
        self._member = Member(hub, spec.rank, epoch)
        self._last_words: list[Any] = []

    def run(self) -> None:
        """Train until told to exit. The first exception goes to the parent as text."""
        self._member.start()
        try:
            LearnerProcess(self._spec, self._channels()).run()
        except Exit:
            pass
        except BaseException as error:
            self._say(("error", Failure.of(error)))
        ray.wait(self._last_words, timeout=_LAST_WORDS_S)
        self._member.stop()

    def deliver(self, envelope: Envelope) -> bool:
        return self._member.inbox.deliver(envelope)

    def acknowledge(self, dst: int, number: int) -> None:
        self._member.outbox.acknowledged(dst, number)

    def _channels(self) -> LearnerChannels:
        handles: tuple[MailboxHandle, ...] = self._spec.mailboxes or ()
        return LearnerChannels(
            board=LearnerBoard(self._member),
            checkpoint_parts=RemoteParts(self._member, self._saved),
            mailboxes=[EndpointFactory(self._member, handle) for handle in handles],
            send=self._say,
            commands=self._member.commands,
        )

    def _say(self, message: tuple[str, Any]) -> None:
        self._last_words = [self._member.say(*message)]
