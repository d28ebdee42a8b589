"""The text of an API key: `ck_<id>_<secret><checksum>`; made and read without any I/O."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
# 62^43 is a little more than 2^256.
_SECRET, _CHECKSUM = 43, 6
_FORM = re.compile(rf"ck_([0-9a-f]{{24}})_[0-9A-Za-z]{{{_SECRET + _CHECKSUM}}}")


def make_key(key_id: str) -> str:
    """A new key of that id (`k_...`). Its form and its checksum let scanners find it in texts where it must not be."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET))
    body = f"ck_{key_id.removeprefix('k_')}_{secret}"
    return body + _checksum(body)


def key_id_of(text: str) -> str | None:
    """The id inside a key; None for what is none, or is one with a typing error."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM]) != text[-_CHECKSUM:]:
        return None
    return f"k_{match[1]}"


def key_digest(text: str) -> bytes:
    """What is stored of a key: its SHA-256. Of 256 random bits nothing can be guessed, so a slow hash would add nothing."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    """CRC-32 in base 62."""
    rest = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
