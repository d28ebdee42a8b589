"""Redaction: canaries of everything that may not stand in a log, in text and at any depth."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from tools.logger.redaction import REDACTED, redact, redact_text

WORD = "s3cretCanary"
NAMES = [
    "password",
    "new_password",
    "PASSWD",
    "jwt_secret",
    "refresh_token",
    "Authorization",
    "Set-Cookie",
    "api_key",
    "X-API-Key",
    "apikey",
]
NAMES += ["email", "private_key", "fingerprint", "secret_id", "admin_email"]
HARMLESS = ["user_id", "amount", "status", "message", "room", "request_id", "duration_ms", "error"]
Around = st.text(max_size=20)
Secrets = st.binary(min_size=1, max_size=40)


@given(Around, Around, st.dictionaries(st.sampled_from(["sub", "sid", "role"]), st.text(max_size=30)))
def test_a_jwt_never_stays(before: str, after: str, claims: dict[str, str]) -> None:
    token = jwt.encode(claims, "k" * 32, algorithm="HS256")
    header, payload, signature = token.split(".")
    shown = redact_text(f"{before} {token} {after}")
    assert payload not in shown
    assert signature not in shown
    assert header not in shown


@given(Around, Around, Secrets)
def test_a_fernet_token_never_stays(before: str, after: str, secret: bytes) -> None:
    token = Fernet(Fernet.generate_key()).encrypt(secret).decode()
    shown = redact_text(f"{before} {token} {after}")
    assert token not in shown
    assert token[10:40] not in shown


@given(Around, st.from_regex(r"[a-z0-9._+-]{1,20}@[a-z0-9-]{1,12}\.(com|org|co\.uk|museum)", fullmatch=True), Around)
def test_an_e_mail_address_never_stays(before: str, address: str, after: str) -> None:
    assert address not in redact_text(f"{before} {address} {after}")


@pytest.mark.parametrize("address", ["alice@example.com", "Ünicode.Person@exämple.de", "a+b@mail.example.co.uk", "'quoted'@example.com"])
def test_common_forms_of_addresses_never_stay(address: str) -> None:
    assert "@" not in redact_text(f"mail to <{address}>, please")


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv", "redis", "rediss", "http", "https", "postgres", "amqp", "HTTPS"])
@pytest.mark.parametrize("userinfo", [f"app:{WORD}", f":{WORD}", f"app:{WORD}@more", f"{WORD}", f"app:{WORD}%40x"])
def test_credentials_in_an_address_never_stay(scheme: str, userinfo: str) -> None:
    shown = redact_text(f"cannot reach {scheme}://{userinfo}@db.internal:27017/credits?w=majority, retrying")
    assert WORD not in shown
    assert "more" not in shown
    assert shown.startswith("cannot reach ")
    assert shown.endswith("db.internal:27017/credits?w=majority, retrying")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "BeArEr", "Basic", "basic", "bASIC"])
def test_an_authorization_header_never_stays(scheme: str) -> None:
    assert WORD not in redact_text(f"header was {scheme}  {WORD}.abc/def+ghi==")


@pytest.mark.parametrize(
    "name", ["password", "Passwd", "client_secret", "refresh_token", "x-api-key", "apikey", "Cookie", "X-Client-Fingerprint"]
)
@pytest.mark.parametrize(
    "form",
    [
        "{}={}",
        "/x?{}={}&y=1",
        '{{"{}": "{} and more words"}}',
        "{{'{}': '{}'}}",
        '{{\\"{}\\": \\"{}\\"}}',
        "{} = {}",
        '{}="{} x"',
        '"{}":"{}',
    ],
)
def test_a_value_behind_a_sensitive_name_never_stays_in_a_text(name: str, form: str) -> None:
    shown = redact_text(f"cannot do {form.format(name, WORD)}")
    assert WORD not in shown
    assert "more words" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "setting JWT_SECRET = ******** (secret file)",
        "SECRETS_DIR = /secrets",
        "/auth/password",
        "the token: none",
        "secret jwt_secret: too short",
    ],
)
def test_names_without_values_stay(text: str) -> None:
    assert redact_text(text) == text


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**5000, "[too large]"),
        (Unprintable(), "<Unprintable>"),
        ({Unprintable(): 1}, {"<Unprintable>": 1}),
        (b"x", "b'x'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_becomes_text(value: Any, shown: Any) -> None:
    assert redact({"value": value}) == {"value": shown}


def test_what_has_no_end_is_cut_off() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = [endless]
    assert "[too deep]" in json.dumps(redact(endless))


@pytest.mark.parametrize(
    "text",
    ["", "plain", "2 @ 3", "user@", "@home", "http://127.0.0.1:5000/health", "mongodb://a,b:27017/?replicaSet=rs0", "the basic idea"],
)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [WORD, [WORD], {"deeper": WORD}, ("x", [{"y": WORD}]), 12345678, WORD.encode()])
def test_a_member_with_a_sensitive_name_is_masked_whatever_it_holds(name: str, value: Any) -> None:
    assert redact({name: value}) == {name: REDACTED}


@pytest.mark.parametrize("name", NAMES)
def test_that_there_is_none_may_be_seen(name: str) -> None:
    assert redact({name: None}) == {name: None}


@given(
    st.recursive(
        st.sampled_from(NAMES).map(lambda name: {name: WORD}),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.sampled_from(HARMLESS), inner, min_size=1, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_a_sensitive_member_is_masked_at_any_depth(value: Any) -> None:
    shown = redact({"fields": value})
    assert WORD not in json.dumps(shown)
    assert REDACTED in json.dumps(shown)


@pytest.mark.parametrize(
    "value",
    [f"alice@{WORD}.com", {f"alice@{WORD}.com": 1}, ValueError(f"alice@{WORD}.com"), {f"alice@{WORD}.com"}, frozenset({f"a@{WORD}.com"})],
)
def test_text_is_searched_wherever_it_comes_from(value: Any) -> None:
    assert WORD not in json.dumps(redact({"error": value}))


@given(
    st.dictionaries(
        st.sampled_from(HARMLESS), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=5
    )
)
def test_harmless_fields_keep_their_types(fields: dict[str, Any]) -> None:
    assert redact(fields) == fields


def test_the_original_is_not_changed() -> None:
    fields = {"deep": [{"password": WORD}]}
    redact(fields)
    assert fields == {"deep": [{"password": WORD}]}


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000 + "@",
        "a@" * 50_000,
        "eyJ" * 30_000,
        "://" * 30_000,
        "http://" + "a:" * 50_000,
        "bearer " * 20_000,
        "'token':" * 30_000,
        "secret='" * 30_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.perf_counter()
    redact_text(text)
    assert time.perf_counter() - began < 2


def test_paths_are_no_addresses(tmp_path: Path) -> None:
    assert redact({"file": tmp_path}) == {"file": str(tmp_path)}
