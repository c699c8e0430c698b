"""Boxes between processes on several hosts that share nothing but a store of ``torch.distributed``.

The store is where they find each other; messages go over TCP connections of their own, from any process to any other.
They do not go through gloo's isend and irecv, for three reasons that were measured with torch 2.13: an irecv cannot be
called off, and a process that ends while a thread waits for one is aborted (5 of 12 did, signal 6); a wait that runs
into its time limit closes the connections to all peers, healthy ones too; and an isend never says that it is complete
unless somebody waits for it. A peer that is stopped, or dead for all we know, would take the others along. NCCL's are
worse off: they wait on the GPU.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

from gala.gossip.transport.connection import Connection
from gala.gossip.transport.remote import RemoteEndpoint
from gala.gossip.transport.tcp import TcpLink

_TOKEN_BYTES = 16
_GREETING_S = 10.0
"""How long a process that was accepted has for its greeting."""


def open_mailbox(
    store: Any,
    rank: int,
    world_size: int,
    numel: int,
    *,
    host: str = "127.0.0.1",
    silent_after_s: float = 30.0,
    timeout_s: float = 300.0,
) -> RemoteEndpoint:
    """Connect to all other ranks, which call this too; returns this rank's end of all edges, for ``numel`` float32.

    Args:
        store: a ``torch.distributed`` store that all ranks see, under a prefix that no other mailbox uses.
        host: address of this machine at which the others reach it.
        silent_after_s: a rank that makes no update for so long is left out of the graph until it does.
        timeout_s: how long the ranks wait for each other here.

    Raises:
        ValueError: ``host`` is not this machine's, or another rank has another number of parameters.
        ConnectionError: another rank cannot be reached at its address.
        TimeoutError: a rank did not come. (Or torch's DistStoreError, a RuntimeError, where the store has less time.)
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        listener = socket.create_server((host, 0), family=_family(host), backlog=world_size)
    except OSError as error:
        raise ValueError(f"rank {rank} cannot listen at {host} ({error}): host is this machine's address") from None
    with listener:
        token = secrets.token_bytes(_TOKEN_BYTES)
        store.set(f"address/{rank}", json.dumps([host, listener.getsockname()[1], token.hex(), numel]))
        sockets = {peer: _connect(store, rank, peer, numel, timeout_s) for peer in range(rank)}
        while len(sockets) < world_size - 1:
            peer, sock = _accept(listener, rank, token, deadline_s, [r for r in range(world_size) if r not in sockets])
            sockets[peer] = sock
    connections = {peer: Connection(sock, numel) for peer, sock in sockets.items()}
    link = TcpLink(rank, connections, lambda fingerprint: _agree(store, rank, world_size, fingerprint))
    return RemoteEndpoint(link, numel, silent_after_s)


def own_address(master: str, port: int) -> str:
    """This machine's address on the way to ``master``: loopback if that is the way."""
    family, _, _, _, address = socket.getaddrinfo(master, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # of datagrams: chooses the route, sends nothing
        return str(probe.getsockname()[0])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _connect(store: Any, rank: int, peer: int, numel: int, timeout_s: float) -> socket.socket:
    host, port, token, others_numel = json.loads(store.get(f"address/{peer}"))
    if others_numel != numel:
        raise ValueError(
            f"rank {peer} has {others_numel} parameters and rank {rank} has {numel}: all need the same model"
        )
    try:
        sock = socket.create_connection((host, port), timeout=timeout_s)
        sock.sendall(bytes.fromhex(token) + rank.to_bytes(4, "little"))
    except OSError as error:
        raise ConnectionError(
            f"rank {rank} cannot reach rank {peer} at {host}:{port} ({error}): give host=, the address at which other "
            "machines reach each of yours"
        ) from None
    return sock


def _accept(
    listener: socket.socket, rank: int, token: bytes, deadline_s: float, missing: Sequence[int]
) -> tuple[int, socket.socket]:
    """The next peer that knows the token. Who does not is not heard."""
    others = [r for r in missing if r != rank]
    while True:
        listener.settimeout(max(deadline_s - time.monotonic(), 1e-3))
        try:
            sock, _ = listener.accept()
        except TimeoutError:
            raise TimeoutError(f"rank {rank} has waited in vain for ranks {others}: see whether they started") from None
        try:
            sock.settimeout(_GREETING_S)
            greeting = _read(sock, _TOKEN_BYTES + 4)
        except OSError:
            greeting = b""
        peer = int.from_bytes(greeting[_TOKEN_BYTES:], "little")
        if hmac.compare_digest(greeting[:_TOKEN_BYTES], token) and peer in others:
            return peer, sock
        sock.close()


def _read(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer at the end of the connection."""
    found = b""
    while len(found) < size and (more := sock.recv(size - len(found))):
        found += more
    return found


def _agree(store: Any, rank: int, world_size: int, fingerprint: int) -> list[int]:
    store.set(f"fingerprint/{rank}", str(fingerprint))
    names = [f"fingerprint/{r}" for r in range(world_size)]
    return [int(store.get(name)) if store.check([name]) else 0 for name in names]
