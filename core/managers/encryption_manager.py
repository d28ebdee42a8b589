"""EncryptionManager: field encryption (Fernet, which is AES-128-CBC with HMAC-SHA256) and look-up fields (AES-SIV)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from core import metrics
from core.contracts import DecryptionError
from core.managers.base import Manager
from utils import green
from utils.fields import changed_at
from utils.keys import ENCRYPTION_RING, Stretcher, derive, fernet_key, key_fingerprint


class _Ring:
    """The keys of one value of ENCRYPTION_KEY, newest first. A new value makes a new ring; nobody sees half of one."""

    def __init__(self, masters: Sequence[bytes]) -> None:
        self.masters = tuple(masters)
        self.newest = Fernet(fernet_key(masters[0]))
        self.fernet = MultiFernet([self.newest, *(Fernet(fernet_key(master)) for master in masters[1:])])
        self._siv: dict[tuple[int, str], AESSIV] = {}
        self._derived: dict[tuple[str, int], tuple[bytes, ...]] = {}

    def siv(self, index: int, field: str) -> AESSIV:
        """The cipher of a look-up field under the key at `index`."""
        cipher = self._siv.get((index, field))
        if cipher is None:
            cipher = self._siv[index, field] = AESSIV(derive(self.masters[index], f"lookup:{field}", 64))
        return cipher

    def derived(self, purpose: str, length: int) -> tuple[bytes, ...]:
        """A key for `purpose` from each key."""
        keys = self._derived.get((purpose, length))
        if keys is None:
            keys = self._derived[purpose, length] = tuple(derive(master, purpose, length) for master in self.masters)
        return keys


class EncryptionManager(Manager):
    """Encrypts values for one owner: `collection/id/field`. The newest key encrypts, all of them decrypt."""

    name = "encryption"
    live_settings = frozenset({"ENCRYPTION_KEY"})

    def initialize(self) -> bool:
        self._stretcher = Stretcher(ENCRYPTION_RING)
        self._take(_Ring(self._stretcher.masters(self.app_manager.config["ENCRYPTION_KEY"])))
        self.initialized = True
        return True

    def reload(self) -> None:
        """Take over a new ring. Raises ValueError for one that cannot open what this worker wrote until now."""
        masters = green.run_native(self._stretcher.masters, self.app_manager.config["ENCRYPTION_KEY"])
        if self._ring.masters[0] not in masters:
            raise ValueError("ENCRYPTION_KEY: the key that encrypts now is not in the new ring")
        self._take(_Ring(masters))

    def encrypt(self, value: Any, owner: str) -> str:
        """`value` (JSON-able) as a Fernet token that only opens for the same `owner`."""
        envelope = json.dumps([owner, value], separators=(",", ":"), ensure_ascii=False)
        return self._ring.fernet.encrypt(envelope.encode()).decode()

    def decrypt(self, token: str, owner: str) -> Any:
        """The value inside `token`; raises DecryptionError when it is not ours or was moved from another owner."""
        try:
            found_owner, value = json.loads(self._ring.fernet.decrypt(token.encode()))
        except (InvalidToken, ValueError, AttributeError) as error:
            raise DecryptionError("cannot be decrypted") from error
        if found_owner != owner:
            raise DecryptionError("belongs to another record")
        return value

    # Look-up fields

    def encrypt_lookup(self, value: str, field: str) -> bytes:
        """`value` (normalised) encrypted so that equal inputs of one `field` give equal outputs (RFC 5297)."""
        return self._ring.siv(0, field).encrypt(value.encode(), [field.encode()])

    def lookup_candidates(self, value: str, field: str) -> list[bytes]:
        """What `value` looks like under each active key: a query must look for all of them."""
        ring = self._ring
        return [ring.siv(index, field).encrypt(value.encode(), [field.encode()]) for index in range(len(ring.masters))]

    def decrypt_lookup(self, ciphertext: bytes, field: str) -> str:
        """The value of a look-up field; raises DecryptionError."""
        ring = self._ring
        for index in range(len(ring.masters)):
            try:
                return ring.siv(index, field).decrypt(ciphertext, [field.encode()]).decode()
            except (InvalidTag, TypeError):
                continue
        raise DecryptionError("cannot be decrypted")

    # Fields of documents

    def encrypt_fields(self, document: dict[str, Any], fields: Sequence[str], owner: str) -> dict[str, Any]:
        """A copy of `document` with `fields` encrypted, each for `owner/field`; absent and null ones stay as they are.

        A field is a dotted path: `profile.email`, or `addresses.street` for that of every element. The owner is the path
        without positions, so that a list may be sorted and shortened; another field or document is another owner.
        """
        for field in fields:
            document = changed_at(document, field, partial(self.encrypt, owner=f"{owner}/{field}"))
        return document

    def decrypt_fields(self, document: dict[str, Any], fields: Sequence[str], owner: str) -> dict[str, Any]:
        """The reverse of `encrypt_fields`."""
        for field in fields:
            document = changed_at(document, field, partial(self.decrypt, owner=f"{owner}/{field}"))
        return document

    # Rotation

    @property
    def has_old_keys(self) -> bool:
        """Whether there is more than one key, so that equal look-up values may be stored under two forms."""
        return len(self._ring.masters) > 1

    def fingerprints(self) -> list[str]:
        """Of each key, newest first, what people may see of it."""
        return [key_fingerprint(master) for master in self._ring.masters]

    def renewed(self, token: str, owner: str) -> str | None:
        """`token` under the newest key, or None when that one wrote it; raises DecryptionError."""
        try:
            # Of a token of another key nothing but its HMAC is computed.
            self._ring.newest.decrypt(token)
        except (InvalidToken, ValueError, TypeError):
            return self.encrypt(self.decrypt(token, owner), owner)
        return None

    def renewed_lookup(self, ciphertext: bytes, field: str) -> bytes | None:
        """A look-up value under the newest key, or None when that one wrote it; raises DecryptionError."""
        renewed = self.encrypt_lookup(self.decrypt_lookup(ciphertext, field), field)
        return None if renewed == ciphertext else renewed

    # Other keys

    def derive_key(self, purpose: str, length: int = 32) -> bytes:
        """A key for one `purpose` (HKDF, RFC 5869) from the newest key."""
        return self._ring.derived(purpose, length)[0]

    def derive_keys(self, purpose: str, length: int = 32) -> Sequence[bytes]:
        """As `derive_key`, from every key, newest first: for what was signed before a rotation and is checked after it."""
        return self._ring.derived(purpose, length)

    def check(self) -> tuple[str, dict[str, Any]]:
        return "healthy", {"keys": len(self._ring.masters)}

    def dispose(self) -> None:
        self.initialized = False
        # No key outlives its manager.
        for name in ("_ring", "_stretcher"):
            vars(self).pop(name, None)

    def _take(self, ring: _Ring) -> None:
        self._ring = ring
        metrics.KEYS.labels("encryption").set(len(ring.masters))
