"""Sockets by which the processes of a run find each other: of this machine alone, or of a cluster's network."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915
"""Linux's request for the IPv4 address of an interface, netdevice(7)."""


class Address(NamedTuple):
    """Where a server of the parent's listens; no server without a port."""

    host: str = LOOPBACK
    port: int = 0


NO_STORE = Address()


def listening_socket(host: str = LOOPBACK) -> socket.socket:
    """Bound to a free port of ``host`` and listening: for servers that would else listen on all interfaces."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen(128)
    return listener


def interface_to(address: Address) -> str:
    """Name of the network interface by which packets leave for ``address``; empty if that cannot be told.

    Nothing is sent: connecting a datagram socket only looks the route up.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(found[20:24]) == own:
                return name
    return "lo" if own.startswith("127.") else ""
