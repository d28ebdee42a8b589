"""EncryptionManager: field encryption (Fernet, which is AES-128-CBC with HMAC-SHA256) and look-up fields (AES-SIV)."""

from __future__ import annotations

import json
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.managers.base import Manager
from utils.keys import fernet_key, stretch


class DecryptionError(Exception):
    """A ciphertext that no key opens, or that belongs to another place than the one it was read from."""


class EncryptionManager(Manager):
    """Encrypts values for one owner: `collection/field/id`. The newest key encrypts, all of them decrypt."""

    name = "encryption"

    def initialize(self) -> bool:
        materials = [line.strip() for line in self.app_manager.config["ENCRYPTION_KEY"].splitlines() if line.strip()]
        masters = [stretch(material, "credit-system/encryption") for material in materials]
        self._fernet = MultiFernet([Fernet(fernet_key(master)) for master in masters])
        self._masters = masters
        self._siv: dict[tuple[int, str], AESSIV] = {}
        self.initialized = True
        return True

    def encrypt(self, value: Any, owner: str) -> str:
        """`value` (JSON-able) as a Fernet token that only opens for the same `owner`."""
        envelope = json.dumps([owner, value], separators=(",", ":"), ensure_ascii=False)
        return self._fernet.encrypt(envelope.encode()).decode()

    def decrypt(self, token: str, owner: str) -> Any:
        """The value inside `token`; raises DecryptionError when it is not ours or was moved from another owner."""
        try:
            found_owner, value = json.loads(self._fernet.decrypt(token.encode()))
        except (InvalidToken, ValueError) as error:
            raise DecryptionError("cannot be decrypted") from error
        if found_owner != owner:
            raise DecryptionError("belongs to another record")
        return value

    def encrypt_lookup(self, value: str, field: str) -> bytes:
        """`value` (normalised) encrypted so that equal inputs of one `field` give equal outputs (RFC 5297)."""
        return self._siv_for(0, field).encrypt(value.encode(), [field.encode()])

    def lookup_candidates(self, value: str, field: str) -> list[bytes]:
        """What `value` looks like under each active key: a query must look for all of them."""
        return [self._siv_for(index, field).encrypt(value.encode(), [field.encode()]) for index in range(len(self._masters))]

    def decrypt_lookup(self, ciphertext: bytes, field: str) -> str:
        """The value of a look-up field; raises DecryptionError."""
        for index in range(len(self._masters)):
            try:
                return self._siv_for(index, field).decrypt(ciphertext, [field.encode()]).decode()
            except InvalidTag:
                continue
        raise DecryptionError("cannot be decrypted")

    def encrypt_fields(self, document: dict[str, Any], fields: tuple[str, ...], owner: str) -> dict[str, Any]:
        """A copy of `document` with `fields` encrypted, each for `owner/field`; absent and null ones stay as they are."""
        sealed = {f: self.encrypt(document[f], f"{owner}/{f}") for f in fields if document.get(f) is not None}
        return {**document, **sealed}

    def decrypt_fields(self, document: dict[str, Any], fields: tuple[str, ...], owner: str) -> dict[str, Any]:
        """The reverse of `encrypt_fields`."""
        opened = {f: self.decrypt(document[f], f"{owner}/{f}") for f in fields if document.get(f) is not None}
        return {**document, **opened}

    def derive_key(self, purpose: str, length: int = 32) -> bytes:
        """A key for one `purpose` (HKDF, RFC 5869) from the newest key."""
        return _hkdf(self._masters[0], purpose, length)

    def check(self) -> tuple[str, dict[str, Any]]:
        return "healthy", {"keys": len(self._masters)}

    def dispose(self) -> None:
        self._masters, self._siv = [], {}
        self.initialized = False

    def _siv_for(self, index: int, field: str) -> AESSIV:
        cipher = self._siv.get((index, field))
        if cipher is None:
            cipher = self._siv[index, field] = AESSIV(_hkdf(self._masters[index], f"lookup:{field}", 64))
        return cipher


def _hkdf(master: bytes, purpose: str, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=purpose.encode()).derive(master)
