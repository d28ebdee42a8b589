"""Identifiers: opaque strings with a prefix that says what they name."""

from __future__ import annotations

import hashlib
import os
import time


def new_id(prefix: str) -> str:
    """A new unique id such as `tx_019aa5...`: 48 bits of milliseconds, then 48 random ones (the idea of RFC 9562's UUIDv7).

    It grows with time over all processes, so that lists can be sorted by it and its index stays compact.
    """
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"


def derived_id(prefix: str, *parts: str) -> str:
    """An id that follows from `parts` alone, for things of which there can only be one (BLAKE2b, 96 bits)."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=12)
    return f"{prefix}_{digest.hexdigest()}"
