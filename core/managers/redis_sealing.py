"""The keys of what lies in Redis: values are sealed for the name they lie under, and names can be keyed hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from core.managers.redis_values import dumps, loads
from utils.keys import fernet_key


class Unreadable(Exception):
    """A value that none of our keys opens, or that was moved here from another name."""


class Sealer:
    """Seals with the newest key, opens with all. Names follow the oldest one, so that a new key renames nothing."""

    def __init__(self, masters: Sequence[bytes]) -> None:
        """`masters`: at least one, newest first."""
        self._fernet = MultiFernet([Fernet(fernet_key(master)) for master in masters])
        self._names_key = masters[-1]
        self.keys = len(masters)

    def names_like(self, other: Sealer) -> bool:
        """Whether both give the same names."""
        return self._names_key == other._names_key

    def seal(self, name: str, value: Any) -> bytes:
        """`value` encrypted, for `name` only; raises TypeError for a type that cannot be stored."""
        return self._fernet.encrypt(dumps([name, value]))

    def unseal(self, name: str, sealed: bytes) -> Any:
        """The value that was sealed for `name`; raises Unreadable."""
        try:
            found = loads(self._fernet.decrypt(sealed))
        except (InvalidToken, ValueError) as error:
            raise Unreadable from error
        if type(found) is not list or len(found) != 2 or found[0] != name:
            raise Unreadable
        return found[1]

    def pseudonym(self, value: str) -> str:
        """A keyed hash of `value` (BLAKE2b, 96 bits)."""
        return hashlib.blake2b(value.encode(), key=self._names_key, digest_size=12).hexdigest()
