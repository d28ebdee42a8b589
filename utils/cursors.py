"""Signed page cursors: opaque to the client, bound to whoever asked and to the filters of the list."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

_MAC_BYTES = 16


def encode_cursor(position: Any, binding: str, key: bytes) -> str:
    """Seal `position` (JSON-able) for this `binding` (caller and filters) under `key`."""
    payload = json.dumps(position, separators=(",", ":")).encode()
    return _text(_mac(payload, binding, key) + payload)


def decode_cursor(cursor: str, binding: str, key: bytes) -> Any:
    """The position inside `cursor`; raises ValueError when it was altered or made for another caller or list."""
    try:
        sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not a cursor") from error
    # Base64 has several spellings of the same bytes; a cursor has one.
    if _text(sealed) != cursor:
        raise ValueError("not a cursor")
    mac, payload = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(payload, binding, key)):
        raise ValueError("not a cursor of this list")
    return json.loads(payload)


def _text(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def _mac(payload: bytes, binding: str, key: bytes) -> bytes:
    return hmac.digest(key, binding.encode() + b"\x1f" + payload, hashlib.sha256)[:_MAC_BYTES]
