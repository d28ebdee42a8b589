"""The forms of usernames and e-mail addresses: as they are shown, and as they are compared."""

from __future__ import annotations

import unicodedata

from email_validator import EmailNotValidError, validate_email

_PUNCTUATION = frozenset("_.-")
# Names that would let their owner pose as one of us, and the path segment that stands for the caller.
RESERVED = frozenset({"admin", "administrator", "root", "system", "support", "me"})


def shown_username(text: str) -> str:
    """`text` in its composed form; raises ValueError for what may not stand in a username."""
    name = unicodedata.normalize("NFKC", text)
    if not 3 <= len(name) <= 32:
        raise ValueError("must have 3 to 32 characters")
    if not all(character.isalnum() or character in _PUNCTUATION for character in name):
        raise ValueError("may contain letters, digits, underscore, dot and hyphen")
    return name


def compared_username(text: str) -> str:
    """Two usernames are the same when this is."""
    return _folded(text)


def shown_email(text: str) -> str:
    """`text` as a normalised address; raises ValueError when it is none."""
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError:
        raise ValueError("is not an e-mail address") from None


def compared_email(text: str) -> str:
    """Two addresses are the same when this is."""
    return _folded(text.strip())


def _folded(text: str) -> str:
    # Composed first too: of some characters (a Fraktur H, say) casefold only knows what they are composed to.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
