"""What may not stand in a log: tokens, passwords, keys, e-mail addresses; by field name, and by shape in any text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

_SENSITIVE_NAME = re.compile(r"password|passwd|secret|token|authorization|cookie|api[_-]?key|email|private|fingerprint", re.IGNORECASE)
_SENSITIVE_TEXT = re.compile(
    r"eyJ[\w-]{8,1024}(?:\.[\w-]*){1,2}"  # JSON Web Tokens; bounded, or a long text of many starts takes for ever
    r"|\$argon2\w*\$[\w$=,+/.-]+"  # password hashes
    r"|ck_[0-9a-f]{24}_\w{8,64}"  # API keys
    r"|gAAAA[\w-]{20,}={0,2}"  # Fernet tokens
    r"|(?i:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/]{1,1024}(?=@)"  # credentials in a URL
    r"|[\w.!#$%&'*+?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"
)
# Looking for these first is much cheaper than running the expression over every line.
_HINTS = ("eyj", "gaaaa", "ck_", "$argon2", "@", "bearer", "basic")


def may_be_sensitive(text: str) -> bool:
    """Whether there is anything in `text` that is worth a closer look."""
    lowered = text.lower()
    return any(hint in lowered for hint in _HINTS)


def redact_text(text: str) -> str:
    """`text` with everything that looks like a token, a credential or an e-mail address masked."""
    return _SENSITIVE_TEXT.sub(REDACTED, text) if may_be_sensitive(text) else text


def redact(value: Any, name: str = "") -> Any:
    """`value` with sensitive members masked, at any depth; `name` is the field under which it stands.

    What is no plain JSON becomes text, or its text would be seen when the line is written.
    """
    if name and _SENSITIVE_NAME.search(name) and value is not None:
        return REDACTED
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {redact_text(str(key)): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    return redact_text(str(value))
