"""Keys from key material: rings of it, PBKDF2 for secrets from files, HKDF for each use, and the form that Fernet wants."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# What each ring is stretched for: two rings never share a key, even when they share a line.
JWT_RING, ENCRYPTION_RING, REDIS_RING = "credit-system/jwt", "credit-system/encryption", "credit-system/redis"
PBKDF2_ITERATIONS = 600_000  # OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256


def ring_lines(text: str) -> list[str]:
    """The key material of a ring, newest first: one key a line, each counted once. Raises ValueError when there is none."""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise ValueError("a key ring without a key")
    return lines


def stretch(material: str, purpose: str) -> bytes:
    """256 bits from `material` by PBKDF2 (RFC 8018); `purpose` is the salt, so that two uses never share a key."""
    return hashlib.pbkdf2_hmac("sha256", material.encode(), purpose.encode(), PBKDF2_ITERATIONS)


def derive(master: bytes, purpose: str, length: int = 32) -> bytes:
    """A key of `length` bytes for one `purpose` (HKDF, RFC 5869) from a stretched `master`."""
    return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(master)


def key_fingerprint(master: bytes) -> str:
    """Eight hexadecimal digits by which people tell keys apart; they lead back to nothing."""
    return derive(master, "fingerprint", 4).hex()


def fernet_key(master: bytes) -> bytes:
    """A 256-bit key in the encoding of Fernet."""
    return base64.urlsafe_b64encode(master)


class Stretcher:
    """Makes the masters of a ring. Each is stretched once while it is in use, since that takes a fifth of a second."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._known: dict[str, bytes] = {}

    def masters(self, text: str) -> list[bytes]:
        """The masters of the ring in `text`, newest first; ValueError when it has no key."""
        self._known = {line: self._known.get(line) or stretch(line, self._purpose) for line in ring_lines(text)}
        return list(self._known.values())
