"""Field encryption: values that only open where they belong, look-ups that are found, keys that rotate."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contracts import DecryptionError
from core.managers.encryption_manager import EncryptionManager
from core.web.paging import Pager
from tests.core.conftest import Factory
from tests.support.app_server import ROOT
from tests.support.in_process import Managers
from utils.config.config import load_config

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
Owners = st.text(max_size=30)
# PBKDF2 takes a third of a second a key, so each set of keys is made once.
ORDERS = ((OLD, NEW), (NEW, OLD))
KEYS = {"old": [OLD], "new": [NEW], "both": [NEW, OLD], "other way round": [OLD, NEW]}


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory, rings: Callable[[list[str]], Path]) -> dict[str, EncryptionManager]:
    """By name of its keys: old, new, both (the new one is newest), other way round."""
    return {name: app_manager_factory("encryption", SECRETS_DIR=rings(keys)).encryption_manager for name, keys in KEYS.items()}


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


def test_nested_fields_are_encrypted_and_the_rest_stays_readable(encryption: EncryptionManager) -> None:
    document = {
        "profile": {"email": "ann@example.com", "language": "de"},
        "addresses": [{"street": "A", "city": "X"}, {"city": "Y"}, {"street": None}],
        "tags": ["one", "two"],
    }
    fields = ("profile.email", "addresses.street", "tags", "profile.absent", "tags.none")
    sealed = encryption.encrypt_fields(document, fields, "users/u_1")
    assert sealed["profile"]["language"] == "de"
    assert [address.get("city") for address in sealed["addresses"]] == ["X", "Y", None]
    assert "ann@example.com" not in str(sealed)
    assert "'one'" not in str(sealed)
    assert encryption.decrypt_fields(sealed, fields, "users/u_1") == document


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.recursive(
            Json, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2), max_leaves=6
        ),
    ),
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join), min_size=1, max_size=1),
)
def test_any_document_comes_back_as_it_was(encryption: EncryptionManager, document: dict[str, Any], fields: list[str]) -> None:
    sealed = encryption.encrypt_fields(document, fields, "c/1")
    assert encryption.decrypt_fields(sealed, fields, "c/1") == document


def test_a_nested_ciphertext_is_refused_in_every_other_field_and_document(encryption: EncryptionManager) -> None:
    fields = ("profile.email", "profile.phone", "addresses.street")
    document = {"profile": {"email": "e", "phone": "p"}, "addresses": [{"street": "A"}, {"street": "B"}]}
    sealed = encryption.encrypt_fields(document, fields, "users/u_1")
    other = encryption.encrypt_fields(document, fields, "users/u_2")
    swapped = {"email": sealed["profile"]["phone"], "phone": sealed["profile"]["email"]}
    for moved in (
        {**sealed, "profile": swapped},
        {**sealed, "profile": other["profile"]},
        {**sealed, "addresses": other["addresses"]},
        {**sealed, "addresses": [{"street": sealed["profile"]["email"]}]},
    ):
        with pytest.raises(DecryptionError, match="belongs to another record"):
            encryption.decrypt_fields(moved, fields, "users/u_1")


def test_a_list_may_be_sorted_and_shortened_by_the_database(encryption: EncryptionManager) -> None:
    sealed = encryption.encrypt_fields({"addresses": [{"street": "A"}, {"street": "B"}]}, ("addresses.street",), "users/u_1")
    turned = {"addresses": sealed["addresses"][::-1]}
    assert encryption.decrypt_fields(turned, ("addresses.street",), "users/u_1") == {"addresses": [{"street": "B"}, {"street": "A"}]}


# Rotation


def test_what_the_newest_key_wrote_is_told_from_the_rest(managers: dict[str, EncryptionManager]) -> None:
    both, new, old = managers["both"], managers["new"], managers["old"]
    assert both.renewed(new.encrypt("value", "o"), "o") is None
    renewed = both.renewed(old.encrypt("value", "o"), "o")
    assert renewed is not None
    assert new.decrypt(renewed, "o") == "value"
    assert both.renewed_lookup(new.encrypt_lookup("ann", "f"), "f") is None
    assert both.renewed_lookup(old.encrypt_lookup("ann", "f"), "f") == new.encrypt_lookup("ann", "f")
    with pytest.raises(DecryptionError):
        both.renewed(old.encrypt("value", "o"), "another")
    for stranger in ("plain", "", {"a": 1}, b"bytes", 7, None):
        with pytest.raises(DecryptionError):
            both.renewed(stranger, "o")  # type: ignore[arg-type]


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


def test_keys_of_other_uses_outlive_a_rotation_too(managers: dict[str, EncryptionManager]) -> None:
    old, new = (managers[name].derive_keys("cursor") for name in ("old", "new"))
    assert list(managers["both"].derive_keys("cursor")) == [*new, *old]
    page = Pager(lambda: old).page([{"id": number} for number in range(3)], 2, "list")
    both = Pager(lambda: managers["both"].derive_keys("cursor"))
    assert both.position(page["next_cursor"], "list") == 1
    assert Pager(lambda: new).position(both.page([{"id": 1}, {"id": 2}], 1, "list")["next_cursor"], "list") == 1


# New keys while it runs


@pytest.fixture
def running(app_manager_factory: Factory, rings: Callable[[list[str]], Path]) -> Managers:
    return app_manager_factory("encryption", SECRETS_DIR=rings([OLD]))


def give(managers: Managers, environ: dict[str, str], secrets: Path) -> None:
    """What the settings are from now on."""
    managers.config = load_config(None, {**environ, "SECRETS_DIR": str(secrets)})


def test_a_new_key_is_taken_over_without_a_restart(
    running: Managers, environ: dict[str, str], rings: Callable[[list[str]], Path], managers: dict[str, EncryptionManager]
) -> None:
    encryption = running.encryption_manager
    assert "ENCRYPTION_KEY" in encryption.live_settings
    before = encryption.encrypt("value", "o")
    give(running, environ, rings([OLD, NEW]))
    encryption.reload()
    assert encryption.decrypt(managers["new"].encrypt("theirs", "o"), "o") == "theirs"
    assert managers["old"].decrypt(encryption.encrypt("mine", "o"), "o") == "mine"
    give(running, environ, rings([NEW, OLD]))
    encryption.reload()
    assert managers["new"].decrypt(encryption.encrypt("mine", "o"), "o") == "mine"
    assert encryption.encrypt_lookup("ann", "f") == managers["new"].encrypt_lookup("ann", "f")
    assert encryption.derive_key("cursor") == managers["new"].derive_key("cursor")
    assert encryption.decrypt(before, "o") == "value"
    give(running, environ, rings([NEW]))
    encryption.reload()
    with pytest.raises(DecryptionError):
        encryption.decrypt(before, "o")


def test_a_ring_that_cannot_open_what_was_written_until_now_is_refused(
    running: Managers, environ: dict[str, str], rings: Callable[[list[str]], Path]
) -> None:
    encryption = running.encryption_manager
    before = encryption.encrypt("value", "o")
    give(running, environ, rings([NEW]))
    with pytest.raises(ValueError, match="ENCRYPTION_KEY") as refusal:
        encryption.reload()
    assert NEW not in str(refusal.value)
    assert encryption.decrypt(before, "o") == "value"
    assert encryption.health_check()["keys"] == 1


def test_whoever_encrypts_while_keys_are_exchanged_never_sees_half_a_ring(
    running: Managers, environ: dict[str, str], rings: Callable[[list[str]], Path]
) -> None:
    encryption, configs = (
        running.encryption_manager,
        [load_config(None, {**environ, "SECRETS_DIR": str(rings([*keys]))}) for keys in ORDERS],
    )
    running.config = configs[0]
    encryption.reload()
    ended = threading.Event()

    def work(_: int) -> int:
        done = 0
        while not ended.is_set():
            assert encryption.decrypt(encryption.encrypt("value", "o"), "o") == "value"
            assert encryption.decrypt_lookup(encryption.encrypt_lookup("ann", "f"), "f") == "ann"
            assert len(set(encryption.lookup_candidates("ann", "f"))) == 2
            done += 1
        return done

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work, index) for index in range(3)]
        for turn in range(60):
            running.config = configs[turn % 2]
            encryption.reload()
        ended.set()
        assert all(worker.result() for worker in workers)


BESIDE_THE_LOOP = """
import sys
from types import SimpleNamespace
from utils import green
green.patch(sys.argv[1])
import threading, time
from core.managers.encryption_manager import EncryptionManager
from core.managers.jwt_manager import JWTManager
settings = {"JWT_ACCESS_TTL": 9, "JWT_REFRESH_TTL": 9, "JWT_ISSUER": "i", "JWT_AUDIENCE": "a", "JWT_ALGORITHM": "HS256"}
names = ("JWT_SECRET", "ENCRYPTION_KEY")
app = SimpleNamespace(config={**settings, **dict.fromkeys(names, "k" * 32)})
managers = [JWTManager(app), EncryptionManager(app)]
assert all(manager.initialize() for manager in managers)
app.config.update(dict.fromkeys(names, "n" * 32 + chr(10) + "k" * 32))
ticks = []
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
time.sleep(0)
for manager in managers:
    before = len(ticks)
    manager.reload()
    assert len(ticks) - before > 5, f"the loop stood still: {len(ticks) - before}"
    assert manager.health_check()["keys"] == 2
print("ok")
"""


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_while_a_key_is_stretched_the_worker_goes_on_serving(mode: str) -> None:
    done = subprocess.run([sys.executable, "-c", BESIDE_THE_LOOP, mode], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr
