"""Identifiers: opaque strings with a prefix that says what they name."""

from __future__ import annotations

import hashlib

from bson import ObjectId


def new_id(prefix: str) -> str:
    """A new unique id such as `tx_65f...`; it grows with time, so that its index stays compact."""
    return f"{prefix}_{ObjectId()}"


def derived_id(prefix: str, *parts: str) -> str:
    """An id that follows from `parts` alone, for things of which there can only be one (BLAKE2b, 96 bits)."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=12)
    return f"{prefix}_{digest.hexdigest()}"
