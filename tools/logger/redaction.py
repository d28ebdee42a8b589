"""What may not stand in a log: tokens, passwords, keys, e-mail addresses; by field name, and by shape in any text."""

from __future__ import annotations

import re
from typing import Any

REDACTED = "[redacted]"

_SENSITIVE_NAME = re.compile(r"password|passwd|secret|token|authorization|cookie|api[_-]?key|email|private|fingerprint", re.IGNORECASE)
_SENSITIVE_TEXT = re.compile(
    r"eyJ[\w-]{8,}(?:\.[\w-]*){1,2}"  # JSON Web Tokens
    r"|gAAAA[\w-]{20,}={0,2}"  # Fernet tokens
    r"|(?i:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|(?i:mongodb|redis|https?)(?:\+srv|s)?://[^\s/@:]*:[^\s/@]*@"  # credentials in a URL
    r"|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"
)
# Looking for these first is much cheaper than running the expression over every line.
_HINTS = ("eyJ", "gAAAA", "@", "earer", "EARER", "asic", "ASIC")


def redact_text(text: str) -> str:
    """`text` with everything that looks like a token, a credential or an e-mail address masked."""
    if any(hint in text for hint in _HINTS):
        return _SENSITIVE_TEXT.sub(REDACTED, text)
    return text


def redact(value: Any, name: str = "") -> Any:
    """`value` with sensitive members masked, at any depth; `name` is the field under which it stands."""
    if name and _SENSITIVE_NAME.search(name) and value is not None:
        return REDACTED
    if isinstance(value, dict):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value
