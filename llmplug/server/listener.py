"""The socket that the server listens on, which may be older than its process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmplug.server.supervisor import Supervisor


def open_listener(host: str, port: int, supervisor: Supervisor | None) -> socket.socket:
    """Open a listening socket, or go on with the one of the process before this one.

    Args:
        port: 0 takes any that is free.
        supervisor: keeps the socket for the process after this one; None: there will be none.
    Raises:
        OSError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if supervisor is None:
        return _bind(family, host, port)
    kept = supervisor.listener
    if kept is not None:
        if _is_at(kept, family, host, port):
            kept.setblocking(False)
            return kept
        kept.close()
    listener = _bind(family, host, port)
    supervisor.keep(listener)
    return listener


def _is_at(listener: socket.socket, family: int, host: str, port: int) -> bool:
    """Whether a socket is where the config, which may have changed meanwhile, wants it."""
    here, at = listener.getsockname()[:2]
    wanted = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    return here in {address[4][0] for address in wanted} and port in {0, at}


def _bind(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
