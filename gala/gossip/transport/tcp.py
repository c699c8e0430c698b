"""The ``Link`` of processes that share no memory: one TCP connection between any two, one thread in each.

An envelope changes hands in three frames. The receiver holds it and says so (ARRIVED); its sender strikes it off its
books and says so (GIVEN); only then can it be read. So an envelope whose receiver dies comes back to its sender exactly
if the receiver cannot have read it, and none ever counts twice. READ says up to which number the learner has read, and
makes room for the next.

A connection that breaks is a peer that died, which all notice at once and each for itself: no other connection is
touched. A host that falls silent is left out of the graph after ``silent_after_s`` (see ``Table.silent``); what is
under way to it comes back when the kernel gives the connection up. So that none is given up for a pause, no time limit
of our own closes a connection.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence

from numpy.typing import NDArray

from gala.gossip.message import Message
from gala.gossip.transport.connection import ARRIVED, ENVELOPE, GIVEN, NEWS, READ, REFUSED, Connection, Frame
from gala.gossip.transport.inbox import Envelope, Inbox
from gala.gossip.transport.outbox import DeliveryStatus, Outbox
from gala.gossip.transport.roster import DEAD, FINISHED, Table

NEWS_S = 0.02
"""Least time between two rows of a rank: about how old its progress and state are for its peers."""
_CLOSING_S = 10.0
"""How long a rank that closes waits for peers that do not answer, in each of two steps."""

Receipt = tuple[int, int]
"""(destination, number)."""


class TcpCarrier:
    """See ``Carrier``. The link's thread says what became of the envelopes."""

    def __init__(self, connections: Mapping[int, Connection], wake: Callable[[], None]) -> None:
        self.connections, self._wake = dict(connections), wake
        self._lock = threading.Lock()
        self._under_way: dict[int, set[int]] = {dst: set() for dst in connections}
        self._known: dict[Receipt, DeliveryStatus] = {}

    def send(self, dst: int, envelope: Envelope) -> Receipt | None:
        with self._lock:
            connection = self.connections.get(dst)
            if connection is None:
                return None
            self._under_way[dst].add(envelope.number)
            frame = Frame(ENVELOPE, int(envelope.replace), envelope.number, envelope.sent_at, envelope.weight)
            connection.queue(frame, envelope.numerator)
        self._wake()
        return dst, envelope.number

    def settled(self, receipts: list[Receipt]) -> list[Receipt]:
        return [receipt for receipt in receipts if receipt in self._known]

    def status(self, receipt: Receipt) -> DeliveryStatus:
        return self._known.pop(receipt)

    def settle(self, dst: int, number: int, status: DeliveryStatus) -> None:
        """What ``dst`` says of an envelope."""
        with self._lock:
            self._under_way[dst].remove(number)
            self._known[dst, number] = status

    def remove(self, dst: int) -> None:
        """The connection is broken: what was under way comes back."""
        with self._lock:
            self.connections.pop(dst).sock.close()
            for number in self._under_way.pop(dst):
                self._known[dst, number] = "dead"


_links: weakref.WeakSet[TcpLink] = weakref.WeakSet()


def _close_inherited() -> None:
    """A forked child, a data loader's worker say, lets go of the connections: else they would outlive its parent, and
    the peers would not notice its death."""
    for link in _links:
        for connection in link.connections:
            connection.sock.close()


os.register_at_fork(after_in_child=_close_inherited)


class TcpLink:
    """One rank's ``Link`` over ``connections`` to all others, by rank, which it closes.

    Args:
        agree: publishes this rank's fingerprint; returns all that are known, by rank, 0 for the others.
    """

    def __init__(self, rank: int, connections: Mapping[int, Connection], agree: Callable[[int], Sequence[int]]) -> None:
        self.rank, self.updates = rank, 0
        self.table = Table.local(len(connections) + 1)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._carrier = TcpCarrier(connections, self._wake)
        self.inbox, self.outbox = Inbox(), Outbox(self._carrier, rank, epoch=1)
        self.connections = tuple(connections.values())
        self._agree, self._agreed = agree, 0
        self._others_updates = [0] * len(self.table.state)
        self._published_s = -NEWS_S
        self._rows_sent: dict[int, Frame] = {}
        self._closing_at_s: float | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        for peer, connection in connections.items():
            self._selector.register(connection.sock, selectors.EVENT_READ, peer)
        self._thread = threading.Thread(target=self._serve, name="gala link", daemon=True)
        self._thread.start()
        _links.add(self)

    def sent_updates(self, rank: int) -> int:
        return self._others_updates[rank]

    def acknowledge(self, src: int, epoch: int, number: int) -> None:
        if (connection := self._carrier.connections.get(src)) is not None:
            connection.queue(Frame(READ, number=number))
            self._wake()

    def agree(self, fingerprint: int) -> Sequence[int]:
        """Asks once: of two that differ, the later one finds out."""
        if fingerprint == self._agreed:
            return []
        found, self._agreed = self._agree(fingerprint), fingerprint
        return found

    def reaches(self, rank: int) -> bool:
        """A broken connection gives back what was under way, and one that is slow is worth the wait."""
        return True

    def stop_accepting(self) -> list[Message]:
        self.inbox.refuse()
        deadline_s = time.monotonic() + _CLOSING_S
        while self.inbox.holds_any() and time.monotonic() < deadline_s:
            time.sleep(1e-3)
        return self.inbox.close()

    def say_goodbye(self) -> None:
        self._closing_at_s = time.monotonic() + _CLOSING_S
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake, or gone for good
            self._waker.send(b"\0")

    def _serve(self) -> None:
        try:
            while self._closing_at_s is None or not self._said_goodbye(self._closing_at_s):
                for peer in list(self._carrier.connections):
                    self._guarded(peer, self._send)
                for key, events in self._selector.select(NEWS_S):
                    if key.data is None:
                        self._woken.recv(4096)
                    elif events & selectors.EVENT_READ:
                        self._guarded(key.data, self._receive)
                self.outbox.settle()
                self._publish()
        finally:  # also after an error of our own: peers notice, and what is under way comes back
            for peer in list(self._carrier.connections):
                self._remove(peer)
            self._selector.close()
            self._woken.close()
            self._waker.close()

    def _guarded(self, peer: int, serve: Callable[[int, Connection], None]) -> None:
        try:
            serve(peer, self._carrier.connections[peer])
        except OSError:
            self._remove(peer)

    def _send(self, peer: int, connection: Connection) -> None:
        connection.send_some()
        waits = selectors.EVENT_WRITE if connection.has_unsent else 0
        if self._selector.get_key(connection.sock).events != selectors.EVENT_READ | waits:
            self._selector.modify(connection.sock, selectors.EVENT_READ | waits, peer)

    def _receive(self, src: int, connection: Connection) -> None:
        received = connection.receive_some()
        if received is None:
            return
        frame, vector = received
        number = frame.number
        if frame.kind == ENVELOPE:
            kept = self.inbox.hold(self._envelope(src, frame, vector))
            connection.queue(Frame(ARRIVED if kept else REFUSED, number=number))
        elif frame.kind == ARRIVED:
            self._carrier.settle(src, number, "delivered")
            connection.queue(Frame(GIVEN, number=number))
        elif frame.kind == REFUSED:
            self._carrier.settle(src, number, "refused")
        elif frame.kind == GIVEN:
            self.inbox.release(src, number)
        elif frame.kind == READ:
            self.outbox.acknowledged(src, number)
        elif frame.kind == NEWS:
            self._hear(src, frame)

    @staticmethod
    def _envelope(src: int, frame: Frame, vector: NDArray | None) -> Envelope:
        assert vector is not None
        return Envelope(src, 1, frame.number, vector, frame.weight, frame.updates, bool(frame.flag))

    def _hear(self, src: int, row: Frame) -> None:
        table = self.table
        if row.updates != self._others_updates[src] or row.flag != table.state[src]:
            table.beat_ns[src] = time.monotonic_ns()
        self._others_updates[src] = row.updates
        table.state[src], table.weight[src], table.unread[src] = row.flag, row.weight, row.unread
        table.unit[src] = row.number

    def _publish(self) -> None:
        """This rank's row to all to whom it is news. Envelopes are queued before the row that counts them. A peer that
        does not read its connection gets the newest row when it does, and not all that were."""
        now_s = time.monotonic()
        if now_s - self._published_s < NEWS_S and self._closing_at_s is None:
            return
        self._published_s = now_s
        table, rank, updates = self.table, self.rank, self.updates
        table.unread[rank] = self.inbox.weight()
        state, unit = int(table.state[rank]), int(table.unit[rank])
        row = Frame(NEWS, state, unit, updates, float(table.weight[rank]), float(table.unread[rank]))
        for peer, connection in self._carrier.connections.items():
            if self._rows_sent.get(peer) != row and not connection.has_unsent:
                self._rows_sent[peer] = row
                connection.queue(row)

    def _said_goodbye(self, deadline_s: float) -> bool:
        """Finish each connection once the last row is sent. A peer that reads its end closes it: until then it is kept,
        since closing one with unread frames cuts off what was sent."""
        for peer, connection in list(self._carrier.connections.items()):
            row = self._rows_sent.get(peer)
            if row is not None and row.flag == FINISHED and not connection.has_unsent:
                self._guarded(peer, lambda _, finished: finished.finish())
        return not self._carrier.connections or time.monotonic() > deadline_s

    def _remove(self, peer: int) -> None:
        self._selector.unregister(self._carrier.connections[peer].sock)
        self._carrier.remove(peer)
        self.outbox.settle()
        self.inbox.discard(peer)
        self.table.unread[peer] = 0.0
        if self.table.state[peer] != FINISHED:
            self.table.state[peer], self.table.weight[peer] = DEAD, 0.0
