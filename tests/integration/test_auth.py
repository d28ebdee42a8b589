"""Accounts, sessions and tokens over HTTP: what they answer, what they refuse, and what of them lies in the stores."""

from __future__ import annotations

import base64
import json
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from redis import Redis

from core.managers.jwt_keys import make_key
from tests.support.accounts import with_role
from tests.support.app_server import ACCESS_SECONDS, AppServer
from tests.support.at_once import at_once
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tests.support.polling import eventually
from tools.local_stack import LocalStack
from utils.keys import stretch


def new_account(**fields: Any) -> dict[str, Any]:
    """The body of a registration that works, but for `fields`."""
    name = unique("user")
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD, **fields}


def fullwidth(text: str) -> str:
    """`text` in the wide letters that NFKC turns into the usual ones."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


def in_bold(text: str) -> str:
    """`text` with its letters as mathematical bold ones, another spelling to NFKC."""
    return "".join(chr(0x1D41A + ord(c) - ord("a")) if "a" <= c <= "z" else c for c in text)


@pytest.fixture
def anyone(server: AppServer) -> Client:
    """A client that is not signed in."""
    return Client(server.url)


# Registration


def test_registration_answers_with_the_user_and_a_token_pair(anyone: Client) -> None:
    body = new_account()
    answer = anyone.call("POST", "/auth/register", body)
    assert answer.status_code == 201
    signed_in = answer.json()
    assert set(signed_in) == {"user", "access_token", "refresh_token", "token_type", "expires_in"}
    assert (signed_in["token_type"], signed_in["expires_in"]) == ("Bearer", ACCESS_SECONDS)
    user = signed_in["user"]
    assert set(user) == {"id", "username", "email", "role", "status", "created_at"}
    assert (user["username"], user["email"], user["role"], user["status"]) == (body["username"], body["email"], "user", "active")
    assert user["created_at"].endswith("Z")
    assert Client(anyone.url, token=signed_in["access_token"]).get("/auth/me") == user


def test_registration_opens_an_empty_default_wallet(alice: Client) -> None:
    wallet = alice.wallet()
    assert (wallet["owner_id"], wallet["asset"], wallet["settled"], wallet["status"]) == (alice.user["id"], "CREDIT", 0, "active")


@pytest.mark.parametrize("spell", [str, str.upper, str.title, fullwidth, in_bold])
def test_a_username_is_taken_in_every_spelling(anyone: Client, spell: Callable[[str], str]) -> None:
    taken = new_account()
    assert anyone.call("POST", "/auth/register", taken).status_code == 201
    answer = anyone.call("POST", "/auth/register", new_account(username=spell(taken["username"])))
    assert_problem(answer, 409, "username-taken")


@pytest.mark.parametrize(
    "spell",
    [
        str,
        str.upper,
        lambda email: email.replace("@example.com", "@EXAMPLE.Com"),
        lambda email: fullwidth(email.partition("@")[0]) + "@example.com",
        lambda email: "\u210c" + email[1:],  # a Fraktur H, which has no lower case of its own
    ],
    ids=["same", "upper case", "domain in upper case", "wide letters", "fraktur"],
)
def test_an_email_is_taken_in_every_spelling(anyone: Client, spell: Callable[[str], str]) -> None:
    taken = new_account(email=unique("h") + "@example.com")
    assert anyone.call("POST", "/auth/register", taken).status_code == 201
    answer = anyone.call("POST", "/auth/register", new_account(email=spell(taken["email"])))
    assert_problem(answer, 409, "email-taken")


def test_of_many_who_register_the_same_name_at_once_one_gets_it(server: AppServer, database: Database[dict[str, Any]]) -> None:
    users_before = database["users"].count_documents({})
    body = new_account()
    answers = at_once(10, lambda i: Client(server.url).call("POST", "/auth/register", {**body, "email": f"{i}{body['email']}"}))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert database["users"].count_documents({}) == users_before + 1


@pytest.mark.parametrize("name", ["admin", "Administrator", "ROOT", fullwidth("system"), "support"])
def test_reserved_names_cannot_be_registered(anyone: Client, name: str) -> None:
    assert_problem(anyone.call("POST", "/auth/register", new_account(username=name)), 409, "username-taken")


@pytest.mark.parametrize("password", ["elevenchars", "x" + "ab" * 64, "123456789012", "1234567890QWERTY", "aaaaaaaaaaaabbbb"])
def test_a_password_that_is_short_long_or_common_is_refused(anyone: Client, password: str) -> None:
    assert_refuses_field(anyone, "password", password)


def test_a_password_must_not_be_the_username_or_the_email(anyone: Client) -> None:
    body = new_account()
    for password in (body["username"].upper(), body["email"]):
        problem = assert_problem(anyone.call("POST", "/auth/register", {**body, "password": password}), 422, "validation-failed")
        assert [error["field"] for error in problem["errors"]] == ["password"]


@pytest.mark.parametrize("password", ["twelve chars", "pass word " * 12 + "12345678", "пароль из слов"])
def test_any_text_of_12_to_128_characters_can_be_a_password(anyone: Client, password: str) -> None:
    body = new_account(password=password)
    assert anyone.call("POST", "/auth/register", body).status_code == 201
    assert Client.login(anyone.url, body["username"], password).user["username"] == body["username"]


@pytest.mark.parametrize(
    "username", ["", "ab", "a" * 33, "a b c", "no/slash", "<script>", "a\tb\tc", "smile😀", "zero\u200bwidth", "x@y.z"]
)
def test_a_username_has_3_to_32_letters_digits_or_marks(anyone: Client, username: str) -> None:
    assert_refuses_field(anyone, "username", username)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "x",
        "@example.com",
        "a@",
        "a@b",
        "a b@example.com",
        "a@-example.com",
        "a@example..com",
        "a@exam_ple.com",
        "a" * 250 + "@example.com",
    ],
)
def test_what_is_no_email_address_is_refused(anyone: Client, email: str) -> None:
    assert_refuses_field(anyone, "email", email)


def assert_refuses_field(anyone: Client, field: str, value: str) -> None:
    answer = anyone.call("POST", "/auth/register", new_account(**{field: value}))
    problem = assert_problem(answer, 422, "validation-failed")
    assert [error["field"] for error in problem["errors"]] == [field]
    assert len(value) < 6 or value not in answer.text


# Log-in


@pytest.mark.parametrize("field", ["username", "email"])
@pytest.mark.parametrize("spell", [str, str.upper, fullwidth])
def test_login_takes_username_or_email_in_any_spelling(anyone: Client, field: str, spell: Callable[[str], str]) -> None:
    body = new_account()
    registered = anyone.call("POST", "/auth/register", body).json()
    login = spell(body["username"]) + ("@example.com" if field == "email" else "")
    answer = anyone.call("POST", "/auth/login", {"login": login, "password": PASSWORD})
    assert answer.status_code == 200
    assert set(answer.json()) == set(registered)
    assert answer.json()["user"] == registered["user"]


def test_a_wrong_password_and_an_unknown_user_look_the_same(alice: Client, anyone: Client) -> None:
    name = alice.user["username"]
    attempts = [
        (name, "not the passphrase"),
        (f"{name}@example.com", PASSWORD.upper()),
        (unique("nobody"), PASSWORD),
        ("no@body.example", "x"),
    ]
    answers = [anyone.call("POST", "/auth/login", {"login": login, "password": password}) for login, password in attempts]
    bodies = []
    for answer in answers:
        problem = assert_problem(answer, 401, "invalid-credentials")
        bodies.append({key: value for key, value in problem.items() if key != "request_id"})
    assert all(body == bodies[0] for body in bodies)
    assert len({tuple(sorted(answer.headers)) for answer in answers}) == 1
    assert len({len(answer.content) for answer in answers}) == 1


def test_a_suspended_and_an_erased_user_cannot_log_in(admin: Client, alice: Client, bob: Client, anyone: Client) -> None:
    assert admin.call("PATCH", f"/users/{alice.user['id']}", {"status": "suspended"}).status_code == 200
    assert bob.call("DELETE", f"/users/{bob.user['id']}").status_code == 204
    for user in (alice, bob):
        for login in (user.user["username"], user.user["email"]):
            assert_problem(anyone.call("POST", "/auth/login", {"login": login, "password": PASSWORD}), 401, "invalid-credentials")


# Refresh


def refresh(client: Client, token: str, **options: Any) -> requests.Response:
    return Client(client.url).call("POST", "/auth/refresh", {"refresh_token": token}, **options)


def test_refresh_hands_out_a_new_pair_of_the_same_session(alice: Client) -> None:
    answer = refresh(alice, alice.refresh_token)
    assert answer.status_code == 200
    pair = answer.json()
    assert set(pair) == {"user", "access_token", "refresh_token", "token_type", "expires_in"}
    assert pair["access_token"] != alice.token
    assert pair["refresh_token"] != alice.refresh_token
    assert Client(alice.url, token=pair["access_token"]).get("/auth/me")["id"] == alice.user["id"]
    assert len(alice.get("/auth/sessions")["data"]) == 1
    assert refresh(alice, pair["refresh_token"]).status_code == 200


def test_a_refresh_token_that_comes_again_ends_its_session(alice: Client) -> None:
    other = Client.login(alice.url, alice.user["username"])
    pair = refresh(alice, alice.refresh_token).json()
    assert_problem(refresh(alice, alice.refresh_token), 401, "refresh-reused")
    for token in (alice.token, pair["access_token"]):
        assert_token_is_dead(alice.url, token)
    assert_problem(refresh(alice, pair["refresh_token"]), 401, "session-revoked")
    assert other.call("GET", "/auth/me").status_code == 200


def test_of_twenty_uses_of_one_refresh_token_at_most_one_works(alice: Client) -> None:
    answers = at_once(20, lambda _: refresh(alice, alice.refresh_token))
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) <= 1
    for answer in answers:
        if answer not in won:
            assert answer.status_code == 401, answer.text
            assert answer.json()["code"] in ("refresh-reused", "session-revoked")
    assert_token_is_dead(alice.url, alice.token)
    for answer in won:
        assert_token_is_dead(alice.url, answer.json()["access_token"])
        assert refresh(alice, answer.json()["refresh_token"]).status_code == 401


def test_only_a_living_refresh_token_refreshes(alice: Client, bob: Client, admin: Client) -> None:
    for token in ("garbage", "a.b.c", alice.token):
        assert_problem(refresh(alice, token), 401, "token-invalid")
    assert alice.call("POST", "/auth/logout").status_code == 204
    assert_problem(refresh(alice, alice.refresh_token), 401, "session-revoked")
    assert admin.call("PATCH", f"/users/{bob.user['id']}", {"status": "suspended"}).status_code == 200
    assert_problem(refresh(bob, bob.refresh_token), 401, "session-revoked")


def assert_token_is_dead(url: str, token: str) -> None:
    """Refused by every worker, at once: each call is on a connection of its own."""
    for _ in range(6):
        assert_problem(Client(url, token=token).call("GET", "/auth/me"), 401, "session-revoked")


# Sessions


def test_logout_ends_this_session_at_once_and_no_other(alice: Client) -> None:
    other = Client.login(alice.url, alice.user["username"])
    assert alice.get("/auth/me")["id"] == alice.user["id"]
    answer = alice.call("POST", "/auth/logout")
    assert (answer.status_code, answer.content) == (204, b"")
    assert_token_is_dead(alice.url, alice.token)
    assert other.call("GET", "/auth/me").status_code == 200


def test_logout_all_ends_every_session_of_the_caller_only(alice: Client, bob: Client) -> None:
    other = Client.login(alice.url, alice.user["username"])
    assert other.call("POST", "/auth/logout-all").status_code == 204
    assert_token_is_dead(alice.url, alice.token)
    assert_token_is_dead(alice.url, other.token)
    assert bob.call("GET", "/auth/me").status_code == 200


def test_sessions_are_listed_and_ended_one_by_one(alice: Client) -> None:
    phone = Client(alice.url)
    credentials = {"login": alice.user["username"], "password": PASSWORD}
    signed_in = phone.call("POST", "/auth/login", credentials, headers={"User-Agent": "phone/1"}).json()
    rows = alice.get("/auth/sessions")["data"]
    assert all(set(row) == {"id", "current", "user_agent", "created_at", "last_used_at", "expires_at"} for row in rows)
    phones = [row["id"] for row in rows if row["user_agent"] == "phone/1"]
    own = [row["id"] for row in rows if row["current"]]
    assert len(rows) == 2
    assert len(phones) == len(own) == 1
    assert phones != own
    assert alice.call("DELETE", f"/auth/sessions/{phones[0]}").status_code == 204
    assert_token_is_dead(alice.url, signed_in["access_token"])
    assert [row["id"] for row in alice.get("/auth/sessions")["data"]] == own
    assert alice.call("DELETE", f"/auth/sessions/{phones[0]}").status_code == 204, "safe to repeat"


def test_the_session_list_has_pages(alice: Client) -> None:
    for _ in range(4):
        Client.login(alice.url, alice.user["username"])
    seen, cursor = [], None
    while True:
        page = alice.get("/auth/sessions", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 5


def test_nobody_ends_the_sessions_of_others(alice: Client, bob: Client) -> None:
    session_id = alice.get("/auth/sessions")["data"][0]["id"]
    assert_problem(bob.call("DELETE", f"/auth/sessions/{session_id}"), 404, "not-found")
    assert alice.call("GET", "/auth/me").status_code == 200


def test_a_new_password_ends_all_other_sessions(alice: Client) -> None:
    other = Client.login(alice.url, alice.user["username"])
    change = {"current_password": PASSWORD, "new_password": "quite another passphrase"}
    assert alice.call("PUT", "/auth/password", change).status_code == 204
    assert_token_is_dead(alice.url, other.token)
    assert alice.call("GET", "/auth/me").status_code == 200
    old = {"login": alice.user["username"], "password": PASSWORD}
    assert_problem(Client(alice.url).call("POST", "/auth/login", old), 401, "invalid-credentials")
    assert Client.login(alice.url, alice.user["username"], "quite another passphrase").user == alice.user


def test_a_new_password_needs_the_current_one_and_strength(alice: Client) -> None:
    wrong = {"current_password": "not the passphrase", "new_password": "quite another passphrase"}
    assert_problem(alice.call("PUT", "/auth/password", wrong), 401, "invalid-credentials")
    for weak in ("short", "123456789012", alice.user["email"]):
        answer = alice.call("PUT", "/auth/password", {"current_password": PASSWORD, "new_password": weak})
        problem = assert_problem(answer, 422, "validation-failed")
        assert [error["field"] for error in problem["errors"]] == ["new_password"]
    assert Client.login(alice.url, alice.user["username"]).user == alice.user


# Users


def test_users_read_themselves_admins_everyone_and_others_nobody(alice: Client, bob: Client, admin: Client) -> None:
    path = f"/users/{alice.user['id']}"
    assert alice.get(path) == admin.get(path) == alice.user
    for method, body in (("GET", None), ("PATCH", {"username": unique("stolen")}), ("DELETE", None)):
        foreign = assert_problem(bob.call(method, path, body), 404, "not-found")
        missing = assert_problem(bob.call(method, f"/users/{unique('u')}", body), 404, "not-found")
        assert foreign["detail"] == missing["detail"]
    assert alice.get("/auth/me") == alice.user


def test_users_change_their_own_names(alice: Client, bob: Client) -> None:
    path, name = f"/users/{alice.user['id']}", unique("Renamed")
    changed = alice.call("PATCH", path, {"username": name, "email": f"{name}@example.com"})
    assert changed.status_code == 200
    assert changed.json() == {**alice.user, "username": name, "email": f"{name}@example.com"} == alice.get("/auth/me")
    assert Client.login(alice.url, name.lower()).user["id"] == alice.user["id"]
    assert_problem(alice.call("PATCH", path, {"username": bob.user["username"].upper()}), 409, "username-taken")
    assert_problem(alice.call("PATCH", path, {"email": bob.user["email"].upper()}), 409, "email-taken")
    assert alice.call("PATCH", path, {"username": name.upper()}).json()["username"] == name.upper()


def test_only_an_admin_changes_role_and_status(alice: Client, admin: Client) -> None:
    path = f"/users/{alice.user['id']}"
    for patch in ({"role": "admin"}, {"status": "suspended"}, {"role": "user", "username": unique("x")}):
        assert_problem(alice.call("PATCH", path, patch), 403, "forbidden")
    assert alice.get("/auth/me") == alice.user
    assert admin.call("PATCH", path, {"role": "analyst"}).json()["role"] == "analyst"
    assert_token_is_dead(alice.url, alice.token)
    again = Client.login(alice.url, alice.user["username"])
    assert again.user["role"] == "analyst"
    assert admin.call("PATCH", path, {"status": "suspended"}).json()["status"] == "suspended"
    assert_token_is_dead(alice.url, again.token)


def test_only_an_admin_lists_and_makes_users(alice: Client, admin: Client) -> None:
    assert_problem(alice.call("GET", "/users"), 403, "forbidden")
    assert_problem(alice.call("POST", "/users", new_account(role="admin")), 403, "forbidden")
    made = [with_role(admin, "analyst").user["id"] for _ in range(3)]
    seen, cursor = [], None
    while True:
        page = admin.get("/users", params={"role": "analyst", "limit": 2, **({"cursor": cursor} if cursor else {})})
        assert all(user["role"] == "analyst" for user in page["data"])
        seen += [user["id"] for user in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert set(made) <= set(seen)
    assert len(seen) == len(set(seen))
    assert alice.user["id"] in [user["id"] for user in admin.get("/users?limit=100")["data"]]


def test_an_erased_user_leaves_only_a_bare_id(alice: Client, admin: Client, anyone: Client, database: Database[dict[str, Any]]) -> None:
    path = f"/users/{alice.user['id']}"
    wallet_id = alice.wallet()["id"]
    admin.grant(wallet_id, 5)
    assert alice.call("DELETE", path).status_code == 204
    assert_token_is_dead(alice.url, alice.token)
    assert_problem(refresh(alice, alice.refresh_token), 401, "session-revoked")
    assert_problem(anyone.call("POST", "/auth/login", {"login": alice.user["email"], "password": PASSWORD}), 401, "invalid-credentials")
    shown = admin.get(path)
    assert (shown["username"], shown["email"], shown["status"]) == (None, None, "deleted")
    stored = database["users"].find_one({"_id": alice.user["id"]})
    assert stored is not None
    assert not {"username", "email", "profile", "password_hash"} & set(stored)
    assert admin.wallet(wallet_id)["settled"] == 5
    assert_problem(admin.call("DELETE", path), 404, "not-found")
    assert_problem(admin.call("PATCH", path, {"status": "active"}), 404, "not-found")


def test_the_names_of_an_erased_user_are_free_again(alice: Client, anyone: Client) -> None:
    assert alice.call("DELETE", f"/users/{alice.user['id']}").status_code == 204
    body = {"username": alice.user["username"], "email": alice.user["email"], "password": PASSWORD}
    answer = anyone.call("POST", "/auth/register", body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["user"]["id"] != alice.user["id"]


def test_what_an_erased_user_could_never_spend_cannot_be_sent(admin: Client, alice: Client, bob: Client) -> None:
    wallet_id = bob.wallet()["id"]
    admin.grant(alice.wallet()["id"], 10)
    assert bob.call("DELETE", f"/users/{bob.user['id']}").status_code == 204
    assert_problem(alice.transfer(wallet_id, 10), 403, "wallet-frozen")
    assert alice.wallet()["settled"] == 10


def test_a_retry_is_answered_as_before_though_the_receiver_was_renamed_or_erased(admin: Client, alice: Client, bob: Client) -> None:
    admin.grant(alice.wallet()["id"], 10)
    by_name, key = {"username": bob.user["username"]}, unique("key")
    first = alice.transfer(by_name, 5, key=key)
    assert bob.call("PATCH", f"/users/{bob.user['id']}", {"username": unique("bob")}).status_code == 200
    renamed = alice.transfer(by_name, 5, key=key)
    assert bob.call("DELETE", f"/users/{bob.user['id']}").status_code == 204
    erased = alice.transfer(by_name, 5, key=key)
    assert [answer.status_code for answer in (first, renamed, erased)] == [201, 201, 201]
    assert first.content == renamed.content == erased.content
    assert_problem(alice.transfer(by_name, 5), 404, "not-found")
    assert alice.wallet()["settled"] == 5


def test_reserved_names_cannot_be_taken_by_renaming(alice: Client) -> None:
    assert_problem(alice.call("PATCH", f"/users/{alice.user['id']}", {"username": "Support"}), 409, "username-taken")


def test_the_last_admin_stays(admin: Client, anyone: Client) -> None:
    second = with_role(admin, "admin")
    path = f"/users/{admin.user['id']}"
    for user in admin.get("/users?role=admin&limit=100")["data"]:
        if user["id"] not in (admin.user["id"], second.user["id"]) and user["status"] == "active":
            assert admin.call("PATCH", f"/users/{user['id']}", {"role": "user"}).status_code == 200
    assert second.call("PATCH", f"/users/{second.user['id']}", {"role": "user"}).status_code == 200
    for change in ({"role": "user"}, {"status": "suspended"}):
        assert_problem(admin.call("PATCH", path, change), 409, "last-admin")
    assert_problem(admin.call("DELETE", path), 409, "last-admin")
    assert admin.get("/auth/me")["role"] == "admin"


def test_a_log_in_that_races_a_new_password_leaves_no_session_behind(server: AppServer) -> None:
    for _ in range(5):
        user = Client.register(server.url)
        credentials = {"login": user.user["username"], "password": PASSWORD}
        change = {"current_password": PASSWORD, "new_password": f"{PASSWORD} two"}

        def step(index: int, user: Client = user, credentials: dict[str, str] = credentials, change: dict[str, str] = change) -> Any:
            if index == 0:
                return user.call("PUT", "/auth/password", change)
            return Client(server.url).call("POST", "/auth/login", credentials)

        changed, *logins = at_once(5, step)
        assert changed.status_code == 204, changed.text
        for login in logins:
            if login.status_code == 200:
                assert_token_is_dead(server.url, login.json()["access_token"])
        assert len(user.get("/auth/sessions")["data"]) == 1


def test_the_token_of_an_ended_session_does_not_keep_anyone_from_signing_in(alice: Client) -> None:
    alice.call("POST", "/auth/logout")
    body = {"login": alice.user["username"], "password": PASSWORD}
    assert alice.call("POST", "/auth/login", body).status_code == 200


def test_an_admin_erases_others(admin: Client, alice: Client) -> None:
    assert admin.call("DELETE", f"/users/{alice.user['id']}").status_code == 204
    assert_token_is_dead(alice.url, alice.token)


# Tokens


@dataclass
class Forge:
    """Signs what the server itself would sign, with whatever is changed about it."""

    master: bytes
    sample: dict[str, Any]

    def key(self, kind: str) -> bytes:
        """The server's own key for tokens of `kind`."""
        key = make_key(self.master, kind).signing
        assert isinstance(key, bytes)
        return key

    def token(self, *, kind: str = "access", key: bytes | None = None, algorithm: str = "HS256", typ: str = "", **changes: Any) -> str:
        claims = {**self.sample, "typ": kind, **changes}
        named = next((other for other in ("access", "refresh") if key == self.key(other)), kind)
        headers = {"typ": typ or {"access": "at+jwt", "refresh": "rt+jwt"}[kind], "kid": make_key(self.master, named).id}
        secret = None if algorithm == "none" else key or self.key(kind)
        # The signature alone: PyJWT's encoder of claims refuses some of those that an attacker may send.
        with warnings.catch_warnings(action="ignore"):
            return jwt.PyJWS().encode(json.dumps(claims).encode(), secret, algorithm=algorithm, headers=headers)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def master(secrets_dir: Path) -> bytes:
    return stretch((secrets_dir / "jwt_secret").read_text().strip(), "credit-system/jwt")


@pytest.fixture(scope="module")
def holder(server: AppServer, admin: Client) -> Client:
    """A user with credits, so that a token that is let through could move some."""
    client = Client.register(server.url)
    admin.grant(client.wallet()["id"], 100)
    return client


@pytest.fixture
def forge(master: bytes, holder: Client) -> Forge:
    claims = jwt.decode(holder.token, options={"verify_signature": False})
    return Forge(master, {**claims, "jti": f"t_{uuid.uuid4().hex}"})


HOUR = 3600
REQUIRED = ("sub", "sid", "jti", "iat", "nbf", "exp", "iss", "aud", "role", "fpt")


def _without(claim: str) -> Callable[[Forge], str]:
    return lambda forge: Forge(forge.master, {name: value for name, value in forge.sample.items() if name != claim}).token()


BAD_TOKENS: dict[str, tuple[Callable[[Forge], str], str]] = {
    "empty": (lambda _: "", "token-invalid"),
    "garbage": (lambda _: "garbage", "token-invalid"),
    "three parts": (lambda _: "a.b.c", "token-invalid"),
    "not ASCII": (lambda _: "é.é.é", "token-invalid"),
    "cut off": (lambda f: f.token()[:-1], "token-invalid"),
    "two tokens": (lambda f: f"{f.token()} {f.token()}", "token-invalid"),
    "payload of another": (lambda f: _with_payload_of(f.token(), f.token(role="admin")), "token-invalid"),
    "expired": (lambda f: f.token(exp=int(time.time()) - HOUR), "token-expired"),
    "signed with another key": (lambda f: f.token(key=b"k" * 32), "token-invalid"),
    "signed with the refresh key": (lambda f: f.token(key=f.key("refresh")), "token-invalid"),
    "alg none": (lambda f: f.token(algorithm="none"), "token-invalid"),
    "alg HS512": (lambda f: f.token(algorithm="HS512"), "token-invalid"),
    "refresh token": (lambda f: f.token(kind="refresh"), "token-invalid"),
    "refresh token with the access key": (lambda f: f.token(kind="refresh", key=f.key("access")), "token-invalid"),
    "refresh claims in an access token": (lambda f: f.token(kind="refresh", key=f.key("access"), typ="at+jwt"), "token-invalid"),
    "any JWT": (lambda f: f.token(typ="JWT"), "token-invalid"),
    "wrong audience": (lambda f: f.token(aud="another-system"), "token-invalid"),
    "several audiences": (lambda f: f.token(aud=["credit-system", "another-system"]), "token-invalid"),
    "wrong issuer": (lambda f: f.token(iss="another-system"), "token-invalid"),
    "sub is a number": (lambda f: f.token(sub=1), "token-invalid"),
    "sub is an operator": (lambda f: f.token(sub={"$gt": ""}), "token-invalid"),
    "exp is text": (lambda f: f.token(exp="never"), "token-invalid"),
    "exp is infinite": (lambda f: f.token(exp=float("inf")), "token-invalid"),
    "not valid yet": (lambda f: f.token(nbf=int(time.time()) + HOUR), "token-invalid"),
    "issued in the future": (lambda f: f.token(iat=int(time.time()) + HOUR), "token-invalid"),
    "of another client": (lambda f: f.token(fpt="x" * 43), "token-invalid"),
    "of no session": (lambda f: f.token(sid="s_unknown"), "session-revoked"),
    **{f"no {claim}": (_without(claim), "token-invalid") for claim in REQUIRED},
}


def _with_payload_of(token: str, other: str) -> str:
    header, _, signature = token.split(".")
    return ".".join((header, other.split(".")[1], signature))


def test_a_token_made_like_the_servers_own_is_accepted(holder: Client, forge: Forge) -> None:
    """Without this the refusals below would prove nothing."""
    assert Client(holder.url, token=forge.token()).get("/auth/me") == holder.user


def test_a_token_that_was_accepted_before_still_expires(holder: Client, forge: Forge) -> None:
    # Our own leeway is 30 seconds; this token has a few of them left.
    token = forge.token(exp=int(time.time()) - 27)
    assert Client(holder.url, token=token).call("GET", "/auth/me").status_code == 200
    eventually(lambda: Client(holder.url, token=token).call("GET", "/auth/me").status_code == 401, 20)
    assert_problem(Client(holder.url, token=token).call("GET", "/auth/me"), 401, "token-expired")


@pytest.mark.parametrize("name", BAD_TOKENS)
@pytest.mark.parametrize("target", ["read", "transfer"])
def test_a_bad_token_is_refused_everywhere(holder: Client, bob: Client, forge: Forge, name: str, target: str) -> None:
    make, code = BAD_TOKENS[name]
    assert_authorization_refused(holder, bob, f"Bearer {make(forge)}", code, target)


@pytest.mark.parametrize("target", ["read", "transfer"])
def test_another_scheme_or_none_is_refused(holder: Client, bob: Client, forge: Forge, target: str) -> None:
    assert_authorization_refused(holder, bob, None, "unauthenticated", target)
    basic = base64.b64encode(f"{holder.user['username']}:{PASSWORD}".encode()).decode()
    for header in (f"Basic {basic}", f"Token {forge.token()}", forge.token(), "Bearer", "Bearer: " + forge.token(), ""):
        assert_authorization_refused(holder, bob, header, "token-invalid", target)


def assert_authorization_refused(holder: Client, bob: Client, header: str | None, code: str, target: str) -> None:
    before = holder.wallet()
    headers = {} if header is None else {"Authorization": header.encode()}
    anonymous = Client(holder.url)
    if target == "read":
        answer = anonymous.call("GET", "/auth/me", headers=headers)
    else:
        answer = anonymous.call("POST", "/transfers", _payment(bob), key=unique("key"), headers=headers)
    assert_problem(answer, 401, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert holder.wallet() == before


def _payment(to: Client) -> dict[str, Any]:
    return {"destination": {"username": to.user["username"]}, "amount": 1}


def test_the_refresh_token_of_a_log_in_is_no_access_token_nor_the_reverse(alice: Client) -> None:
    assert_problem(Client(alice.url, token=alice.refresh_token).call("GET", "/auth/me"), 401, "token-invalid")
    assert_problem(refresh(alice, alice.token), 401, "token-invalid")
    assert refresh(alice, alice.refresh_token).status_code == 200


def test_the_role_inside_a_token_cannot_be_changed(alice: Client, master: bytes) -> None:
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    forged = _with_payload_of(alice.token, Forge(master, claims).token(role="admin"))
    assert_problem(Client(alice.url, token=forged).call("GET", "/users"), 401, "token-invalid")


def test_a_fingerprint_binds_tokens_to_their_client(alice: Client) -> None:
    mine, theirs = {"X-Client-Fingerprint": unique("device")}, {"X-Client-Fingerprint": unique("device")}
    credentials = {"login": alice.user["username"], "password": PASSWORD}
    pair = Client(alice.url).call("POST", "/auth/login", credentials, headers=mine).json()
    bound = Client(alice.url, token=pair["access_token"])
    assert bound.call("GET", "/auth/me", headers=mine).status_code == 200
    for headers in (theirs, {}):
        assert_problem(bound.call("GET", "/auth/me", headers=headers), 401, "token-invalid")
        assert_problem(refresh(alice, pair["refresh_token"], headers=headers), 401, "token-invalid")
    renewed = refresh(alice, pair["refresh_token"], headers=mine)
    assert renewed.status_code == 200
    still_bound = Client(alice.url, token=renewed.json()["access_token"])
    assert_problem(still_bound.call("GET", "/auth/me", headers=theirs), 401, "token-invalid")


def test_a_token_without_a_fingerprint_works_from_any_client(alice: Client) -> None:
    assert alice.call("GET", "/auth/me", headers={"X-Client-Fingerprint": unique("device")}).status_code == 200


# What a thief of the stores would see


def test_a_dump_of_the_stores_shows_no_name_no_password_and_no_token(
    server: AppServer, admin: Client, bob: Client, servers: LocalStack, database: Database[dict[str, Any]]
) -> None:
    name, password = f"Canary.{uuid.uuid4().hex[:12]}", f"canary passphrase {uuid.uuid4().hex}"
    email = f"{name}@canary-{uuid.uuid4().hex[:8]}.example.com"
    secrets = {name, email, password, *live_a_little(server.url, name, email, password, admin, bob)}
    dump = mongo_dump(database) + redis_dump(servers)
    assert bob.user["id"].encode() in dump, "the dump is not one"
    lowered = dump.lower()
    for secret in secrets:
        for form in (secret.encode(), base64.b64encode(secret.encode())[:-4], secret.encode().hex().encode()):
            assert form.lower() not in lowered


def live_a_little(url: str, name: str, email: str, password: str, admin: Client, bob: Client) -> set[str]:
    """Register, log in, refresh, move credits, change things; all tokens that were handed out meanwhile."""
    new_password = password[::-1]
    tokens: list[str] = []
    client = Client(url)

    def signed_in(path: str, body: dict[str, str], status: int) -> dict[str, Any]:
        answer = client.call("POST", path, body, headers={"X-Client-Fingerprint": "device"})
        assert answer.status_code == status, answer.text
        tokens.extend((answer.json()["access_token"], answer.json()["refresh_token"]))
        client.token = answer.json()["access_token"]
        signed: dict[str, Any] = answer.json()
        return signed

    client.user = signed_in("/auth/register", {"username": name, "email": email, "password": password}, 201)["user"]
    first = signed_in("/auth/login", {"login": email, "password": password}, 200)
    signed_in("/auth/refresh", {"refresh_token": first["refresh_token"]}, 200)
    client.http.headers["X-Client-Fingerprint"] = "device"
    assert Client(url).call("POST", "/auth/login", {"login": name, "password": new_password}).status_code == 401
    admin.grant(client.wallet()["id"], 50)
    assert client.transfer({"username": bob.user["username"]}, 10).status_code == 201
    admin.grant(bob.wallet()["id"], 10)
    assert bob.transfer({"username": name}, 5).status_code == 201
    assert client.call("PATCH", f"/users/{client.user['id']}", {"username": name.upper()}).status_code == 200
    assert client.call("PUT", "/auth/password", {"current_password": password, "new_password": new_password}).status_code == 204
    assert client.call("GET", "/auth/sessions").status_code == 200
    return {new_password, *tokens}


def mongo_dump(database: Database[dict[str, Any]]) -> bytes:
    """Every document of our database and of the replication log, as the bytes that are stored."""
    raw = database.client.codec_options.with_options(document_class=RawBSONDocument)
    names = [name for name in database.list_collection_names(filter={"type": "collection"}) if not name.startswith("system.")]
    ours: list[Any] = [database.get_collection(name, codec_options=raw) for name in names]
    log = database.client["local"].get_collection("oplog.rs", codec_options=raw)
    return b"\n".join(document.raw for collection in (*ours, log) for document in collection.find())


def redis_dump(servers: LocalStack) -> bytes:
    """Every key and every value."""
    assert servers.redis is not None
    with servers.redis.client() as client:
        return b"\n".join(key + b"=" + _redis_value(client, key) for key in client.scan_iter(count=1000))


def _redis_value(client: Redis, key: bytes) -> bytes:
    kind = client.type(key)
    if kind == b"string":
        return bytes(client.get(key) or b"")
    readers = {
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda k: client.lrange(k, 0, -1),
        b"zset": lambda k: client.zrange(k, 0, -1),
    }
    return b"" if kind == b"none" else repr(readers[kind](key)).encode()


# Public keys


def test_there_are_no_public_keys_while_a_shared_one_signs(server: AppServer) -> None:
    answer = requests.get(f"{server.url}/.well-known/jwks.json", timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"keys": []})
    assert "max-age" in answer.headers["Cache-Control"]


def test_under_eddsa_others_can_verify_access_tokens_and_everything_else_works(servers: LocalStack, tmp_path: Path) -> None:
    with AppServer(servers.environ, tmp_path, WORKERS=1, JWT_ALGORITHM="EdDSA") as signing:
        user = Client.register(signing.url)
        published = requests.get(f"{signing.url}/.well-known/jwks.json", timeout=10).json()
        key = jwt.PyJWKSet.from_dict(published)[jwt.get_unverified_header(user.token)["kid"]]
        assert jwt.decode(user.token, key, algorithms=["EdDSA"], audience="credit-system")["sub"] == user.user["id"]
        newer = user.call("POST", "/auth/refresh", {"refresh_token": user.refresh_token}).json()
        assert Client(signing.url, newer["access_token"]).get("/auth/me")["id"] == user.user["id"]
        reused = user.call("POST", "/auth/refresh", {"refresh_token": user.refresh_token})
        assert (reused.status_code, reused.json()["code"]) == (401, "refresh-reused")
