"""What may not stand in a log: tokens, passwords, keys, e-mail addresses; by field name, and by shape in any text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
_TOO_DEEP = "[too deep]"
_DEPTH = 16
# Python refuses to print integers that are much longer.
_LARGE_BITS, _TOO_LARGE = 4096, "[too large]"

_SENSITIVE_NAME = re.compile(r"password|passwd|secret|token|authorization|cookie|api[_-]?key|email|private|fingerprint", re.IGNORECASE)
_SENSITIVE_TEXT = re.compile(
    r"eyJ[\w-]{8,1024}+(?:\.[\w-]*){1,2}"  # JSON Web Tokens; bounded, or a long text of many starts takes for ever
    r"|\$argon2\w*\$[\w$=,+/.-]+"  # password hashes
    r"|ck_[0-9a-f]{24}_\w{8,64}"  # API keys
    r"|gAAAA[\w-]{20,}={0,2}"  # Fernet tokens
    r"|(?i:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/]{1,1024}(?=@)"  # credentials in a URL
    r"|[\w.!#$%&'*+?^`{|}~-]{1,64}+@[\w-]{1,63}(?:\.[\w-]{1,63})+"
    # password=value, 'token': 'value'; not the mask that stands in our own lines about settings
    r"|(?i:password|passwd|secret|token|api[_-]?key|authorization|cookie|fingerprint)(?:[\"'\\]{0,4}\s?=|[\"'\\]{1,4}\s?:)\s?"
    r"(?!\*{8})(?:\\{0,3}\"[^\"]{0,1024}|\\{0,3}'[^']{0,1024}|[^\s\"'&]{1,1024})"
)


def may_be_sensitive(text: str) -> bool:
    """Whether there is anything in `text` that is worth a closer look; much cheaper than the look itself."""
    lowered = text.lower()
    return (
        "@" in lowered
        or "eyj" in lowered
        or "ck_" in lowered
        or "gaaaa" in lowered
        or "$argon2" in lowered
        or "bearer" in lowered
        or "basic" in lowered
        or "pass" in lowered
        or "secret" in lowered
        or "token" in lowered
        or "key" in lowered
        or "authorization" in lowered
        or "cookie" in lowered
        or "fingerprint" in lowered
    )


def redact_text(text: str) -> str:
    """`text` with everything that looks like a token, a credential or an e-mail address masked."""
    return _SENSITIVE_TEXT.sub(REDACTED, text) if may_be_sensitive(text) else text


def redact(value: Any, name: str = "") -> Any:
    """`value` with sensitive members masked, at any depth; `name` is the field under which it stands.

    What is no plain JSON becomes text, or its text would be seen when the line is written.
    """
    return _redact(value, name, _DEPTH)


def text_of(value: object) -> str:
    """What `str` makes of a value; of one that cannot be shown, its type."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  any class may have a __str__ that fails
        return f"<{type(value).__name__}>"


def _redact(value: Any, name: str, depth: int) -> Any:
    if name and _SENSITIVE_NAME.search(name) and value is not None:
        return REDACTED
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < _LARGE_BITS else _TOO_LARGE
    if isinstance(value, float) and math.isfinite(value):
        return value
    if not depth:
        return _TOO_DEEP
    if isinstance(value, Mapping):
        items = ((text_of(key), item) for key, item in value.items())
        return {redact_text(key): _redact(item, key, depth - 1) for key, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redact(item, "", depth - 1) for item in value]
    return redact_text(text_of(value))
