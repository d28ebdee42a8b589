"""Keys from key material."""

from __future__ import annotations

import hashlib

from cryptography.fernet import Fernet

from utils.keys import PBKDF2_ITERATIONS, fernet_key, stretch


def test_stretching_is_pbkdf2_with_the_purpose_as_its_salt() -> None:
    assert stretch("material", "one") == hashlib.pbkdf2_hmac("sha256", b"material", b"one", PBKDF2_ITERATIONS)
    assert PBKDF2_ITERATIONS >= 600_000


def test_two_purposes_never_share_a_key() -> None:
    assert stretch("material", "one") != stretch("material", "two")


def test_a_stretched_key_is_one_that_fernet_takes() -> None:
    fernet = Fernet(fernet_key(b"k" * 32))
    assert fernet.decrypt(fernet.encrypt(b"hello")) == b"hello"
