"""Keys from key material: PBKDF2 for secrets from files, and the form that Fernet wants."""

from __future__ import annotations

import base64
import hashlib

PBKDF2_ITERATIONS = 600_000  # OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256


def stretch(material: str, purpose: str) -> bytes:
    """256 bits from `material` by PBKDF2 (RFC 8018); `purpose` is the salt, so that two uses never share a key."""
    return hashlib.pbkdf2_hmac("sha256", material.encode(), purpose.encode(), PBKDF2_ITERATIONS)


def fernet_key(master: bytes) -> bytes:
    """A 256-bit key in the encoding of Fernet."""
    return base64.urlsafe_b64encode(master)
