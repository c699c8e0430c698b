"""A socket that this machine alone can reach."""

from __future__ import annotations

import socket


def listening_socket() -> socket.socket:
    """Bound to a free port of 127.0.0.1, and listening: for servers that would else listen on all interfaces."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener
