"""Ports for those that listen only later."""

from __future__ import annotations

import socket


def hold_port(host: str) -> socket.socket:
    """Take a free port of an address, for as long as the socket is open.

    It is bound and never listened on: nobody else is given the port, and whoever reuses addresses,
    as our processes do, can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return held
