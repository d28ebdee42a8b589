"""Field encryption: values that only open where they belong, look-ups that are found, keys that rotate."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.managers.encryption_manager import DecryptionError, EncryptionManager
from tests.core.conftest import Factory

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
Owners = st.text(max_size=30)
# PBKDF2 takes a third of a second a key, so each set of keys is made once.
KEYS = {"old": [OLD], "new": [NEW], "both": [NEW, OLD], "other way round": [OLD, NEW]}


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory, secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, EncryptionManager]:
    """By name of its keys: old, new, both (the new one is newest), other way round."""
    made: dict[str, EncryptionManager] = {}
    for name, keys in KEYS.items():
        folder = tmp_path_factory.mktemp("keys") / "secrets"
        shutil.copytree(secrets_dir, folder)
        (folder / "encryption_key").write_text("\n".join(keys) + "\n\n")
        made[name] = app_manager_factory("encryption", SECRETS_DIR=folder).encryption_manager
    return made


@pytest.fixture(scope="module")
def encryption(managers: dict[str, EncryptionManager]) -> EncryptionManager:
    return managers["new"]


@given(Json, Owners)
def test_what_was_encrypted_for_an_owner_opens_for_it(encryption: EncryptionManager, value: Any, owner: str) -> None:
    assert encryption.decrypt(encryption.encrypt(value, owner), owner) == value


@given(Json, Owners, Owners)
def test_a_value_that_was_moved_to_another_owner_is_refused(encryption: EncryptionManager, value: Any, owner: str, other: str) -> None:
    token = encryption.encrypt(value, owner)
    if owner != other:
        with pytest.raises(DecryptionError, match="belongs to another record"):
            encryption.decrypt(token, other)


def test_the_same_value_is_never_the_same_token_and_never_readable(encryption: EncryptionManager) -> None:
    tokens = {encryption.encrypt("canary", "o") for _ in range(5)}
    assert len(tokens) == 5
    assert not any(b"canary" in base64.urlsafe_b64decode(token) for token in tokens)


@pytest.mark.parametrize("token", ["", "plain", "gAAAAA", "é", "\ud800"])
def test_what_is_no_token_is_refused(token: str, encryption: EncryptionManager) -> None:
    with pytest.raises(DecryptionError):
        encryption.decrypt(token, "o")


def test_an_altered_token_is_refused(encryption: EncryptionManager) -> None:
    raw = bytearray(base64.urlsafe_b64decode(encryption.encrypt("value", "o")))
    for place in range(len(raw)):
        raw[place] ^= 1
        with pytest.raises(DecryptionError):
            encryption.decrypt(base64.urlsafe_b64encode(raw).decode(), "o")
        raw[place] ^= 1


# Look-up fields


@given(st.text(max_size=60))
def test_a_look_up_is_deterministic_and_opens_again(encryption: EncryptionManager, value: str) -> None:
    one = encryption.encrypt_lookup(value, "users.email")
    assert one == encryption.encrypt_lookup(value, "users.email")
    assert encryption.decrypt_lookup(one, "users.email") == value
    assert encryption.lookup_candidates(value, "users.email") == [one]


@given(st.text(min_size=1, max_size=60))
def test_the_same_value_looks_different_in_another_field_and_does_not_open_there(encryption: EncryptionManager, value: str) -> None:
    email = encryption.encrypt_lookup(value, "users.email")
    assert email != encryption.encrypt_lookup(value, "users.username")
    with pytest.raises(DecryptionError):
        encryption.decrypt_lookup(email, "users.username")


def test_a_look_up_does_not_show_its_value(encryption: EncryptionManager) -> None:
    assert b"canary" not in encryption.encrypt_lookup("canary@example.com", "users.email")


@pytest.mark.parametrize("ciphertext", [b"", b"short", b"x" * 40])
def test_what_is_no_look_up_is_refused(ciphertext: bytes, encryption: EncryptionManager) -> None:
    with pytest.raises(DecryptionError):
        encryption.decrypt_lookup(ciphertext, "users.email")


# Fields of documents


def test_fields_are_encrypted_each_for_its_place_and_the_rest_stays(encryption: EncryptionManager) -> None:
    document = {"_id": "u_1", "profile": {"name": "Ann"}, "note": None, "role": "user"}
    sealed = encryption.encrypt_fields(document, ("profile", "note", "absent"), "users/u_1")
    assert document["profile"] == {"name": "Ann"}
    assert (sealed["_id"], sealed["note"], sealed["role"]) == ("u_1", None, "user")
    assert "absent" not in sealed
    assert encryption.decrypt(sealed["profile"], "users/u_1/profile") == {"name": "Ann"}
    assert encryption.decrypt_fields(sealed, ("profile", "note", "absent"), "users/u_1") == document
    with pytest.raises(DecryptionError):
        encryption.decrypt_fields(sealed, ("profile",), "users/u_2")
    with pytest.raises(DecryptionError):
        encryption.decrypt_fields({**sealed, "note": sealed["profile"]}, ("note",), "users/u_1")


@pytest.mark.parametrize("value", [False, 0, "", [], {}])
def test_empty_values_are_encrypted_too(value: Any, encryption: EncryptionManager) -> None:
    sealed = encryption.encrypt_fields({"profile": value}, ("profile",), "o")
    assert sealed["profile"] != value
    assert encryption.decrypt_fields(sealed, ("profile",), "o") == {"profile": value}


# Rotation


def test_the_newest_key_encrypts_and_the_old_one_still_opens(managers: dict[str, EncryptionManager]) -> None:
    before = managers["old"].encrypt("value", "o")
    assert managers["both"].decrypt(before, "o") == "value"
    after = managers["both"].encrypt("value", "o")
    assert managers["new"].decrypt(after, "o") == "value"
    with pytest.raises(DecryptionError):
        managers["old"].decrypt(after, "o")


def test_look_ups_are_written_under_the_newest_key_and_found_under_all(managers: dict[str, EncryptionManager]) -> None:
    old, new = (managers[name].encrypt_lookup("ann", "users.username") for name in ("old", "new"))
    both = managers["both"]
    assert both.encrypt_lookup("ann", "users.username") == new != old
    assert both.lookup_candidates("ann", "users.username") == [new, old]
    assert both.decrypt_lookup(old, "users.username") == both.decrypt_lookup(new, "users.username") == "ann"
    assert managers["other way round"].lookup_candidates("ann", "users.username") == [old, new]


def test_health_tells_how_many_keys_there_are_and_nothing_of_them(managers: dict[str, EncryptionManager]) -> None:
    health = managers["both"].health_check()
    assert health["keys"] == 2
    assert OLD not in str(health)


def test_derived_keys_differ_by_purpose_and_key(managers: dict[str, EncryptionManager]) -> None:
    one = managers["new"].derive_key("cursor")
    assert len(one) == 32
    assert one == managers["both"].derive_key("cursor")
    assert one != managers["new"].derive_key("webhook") != managers["old"].derive_key("cursor")
    assert len(managers["new"].derive_key("cursor", 64)) == 64
