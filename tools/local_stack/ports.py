"""Ports of the loopback interface: which are free, and which one a server had before."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the range that Linux gives to outgoing connections: none can take a server's port while it restarts.
PORTS = range(20_000, 32_000)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether nobody listens on `port`."""
    try:
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


def is_listening(port: int, host: str = LOOPBACK) -> bool:
    """Whether a connection to `port` is accepted."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def kept_port(memory: Path) -> int:
    """The port in the file `memory` where it is still free, else a new one, which is then kept there."""
    before = memory.read_text() if memory.exists() else ""
    if before.isdecimal() and is_free(int(before)):
        return int(before)
    port = next(port for port in random.sample(PORTS, len(PORTS)) if is_free(port))
    memory.write_text(str(port))
    return port
