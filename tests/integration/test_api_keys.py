"""API keys over HTTP: what they open, what they never do, and how they end."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pymongo.database import Database

from plugins.main_plugin.modules.connection_api.key_format import key_id_of, make_key
from tests.integration.test_auth import mongo_dump, redis_dump
from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.at_once import at_once
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tests.support.polling import eventually
from tests.support.sockets import refusal_of
from tools.local_stack import LocalStack
from utils.ids import new_id

EVERY_SCOPE = ["users:read", "wallets:read", "money"]


class KeyClient(Client):
    """A program that has nothing but an API key. Each call is on a connection of its own, so that any worker may answer."""

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        self.http = requests.Session()
        headers = {"X-API-Key": self.key, **options.pop("headers", {})}
        return super().call(method, path, body, headers=headers, **options)

    @property
    def key(self) -> str:
        key: str = self.user["key"]
        return key

    @property
    def path(self) -> str:
        return f"/auth/api-keys/{self.user['id']}"


def key_of(owner: Client, *scopes: str, **fields: Any) -> KeyClient:
    answer = owner.call("POST", "/auth/api-keys", {"name": "a back end", "scopes": list(scopes or EVERY_SCOPE), **fields})
    assert answer.status_code == 201, answer.text
    return KeyClient(owner.url, user=answer.json())


def assert_works(key: KeyClient, path: str = "/auth/me") -> None:
    """In every worker."""
    for _ in range(4):
        assert key.call("GET", path).status_code == 200


def assert_is_dead(key: KeyClient) -> None:
    """In every worker, at once."""
    for _ in range(6):
        assert_problem(key.call("GET", "/auth/me"), 401, "api-key-invalid")


# Making, listing, deleting


def test_a_key_is_shown_once_and_listed_without_its_text(alice: Client) -> None:
    made = key_of(alice, "wallets:read", "money").user
    assert set(made) == {"id", "name", "scopes", "key", "created_at", "expires_at", "last_used_at"}
    assert (made["name"], made["scopes"]) == ("a back end", ["money", "wallets:read"])
    assert (made["expires_at"], made["last_used_at"]) == (None, None)
    assert made["id"] == key_id_of(made["key"])
    shown = {name: value for name, value in made.items() if name != "key"}
    assert alice.get("/auth/api-keys") == {"data": [shown], "next_cursor": None}
    assert alice.get(f"/auth/api-keys/{made['id']}") == shown


def test_the_list_has_pages_newest_first(alice: Client) -> None:
    made = [key_of(alice).user["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = alice.get("/auth/api-keys", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_nobody_sees_the_keys_of_others_and_only_an_admin_ends_them(alice: Client, bob: Client, admin: Client) -> None:
    key = key_of(alice)
    for other in (bob, admin):
        assert key.user["id"] not in [row["id"] for row in other.get("/auth/api-keys?limit=100")["data"]]
        assert_problem(other.call("GET", key.path), 404, "not-found")
    assert_problem(bob.call("DELETE", key.path), 404, "not-found")
    assert_works(key)
    # As for one that was found in a public place: its id is in its text.
    assert admin.call("DELETE", key.path).status_code == 204
    assert_is_dead(key)
    assert_problem(admin.call("DELETE", "/auth/api-keys/k_unknown"), 404, "not-found")


def test_a_user_has_twenty_keys_at_the_most_also_when_they_are_made_at_once(alice: Client) -> None:
    for _ in range(17):
        key_of(alice)
    body = {"name": "one more", "scopes": ["money"]}
    answers = at_once(8, lambda _: Client(alice.url, token=alice.token).call("POST", "/auth/api-keys", body))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5
    problem = assert_problem(alice.call("POST", "/auth/api-keys", body), 409, "too-many-api-keys")
    assert problem["limit"] == 20
    assert alice.call("DELETE", f"/auth/api-keys/{alice.get('/auth/api-keys')['data'][0]['id']}").status_code == 204
    assert alice.call("POST", "/auth/api-keys", body).status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["money"]}, "name"),
        ({"name": "", "scopes": ["money"]}, "name"),
        ({"name": "n" * 65, "scopes": ["money"]}, "name"),
        ({"name": "a\u0000b", "scopes": ["money"]}, "name"),
        ({"name": "n"}, "scopes"),
        ({"name": "n", "scopes": []}, "scopes"),
        ({"name": "n", "scopes": "money"}, "scopes"),
        ({"name": "n", "scopes": ["money", "money"]}, "scopes"),
        ({"name": "n", "scopes": ["money", "everything"]}, "scopes.1"),
        ({"name": "n", "scopes": [{"$ne": ""}]}, "scopes.0"),
        ({"name": "n", "scopes": ["money"], "expires_in": 0}, "expires_in"),
        ({"name": "n", "scopes": ["money"], "expires_in": "60"}, "expires_in"),
        ({"name": "n", "scopes": ["money"], "expires_in": 10**12}, "expires_in"),
        ({"name": "n", "scopes": ["money"], "key": "mine"}, "key"),
    ],
)
def test_what_is_wrong_with_a_new_key_names_its_field(holder: Client, body: dict[str, Any], field: str) -> None:
    problem = assert_problem(holder.call("POST", "/auth/api-keys", body), 422, "validation-failed")
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.fixture(scope="module")
def holder(server: AppServer) -> Client:
    """A user for tests that leave nothing behind."""
    return Client.register(server.url)


# What a key may do


def test_a_key_opens_what_its_scopes_name_and_nothing_else(alice: Client, bob: Client, admin: Client) -> None:
    admin.grant(alice.wallet()["id"], 10)
    reader, payer = key_of(alice, "wallets:read"), key_of(alice, "money")
    assert reader.wallet()["settled"] == 10
    assert_scope_missing(reader.transfer({"username": bob.user["username"]}, 1), "money")
    assert payer.transfer({"username": bob.user["username"]}, 1).status_code == 201
    assert_scope_missing(payer.call("GET", "/wallets/me"), "wallets:read")
    assert_scope_missing(payer.call("GET", "/auth/me"), "users:read")
    assert alice.wallet()["settled"] == 9


def assert_scope_missing(answer: requests.Response, scope: str | None) -> None:
    assert assert_problem(answer, 403, "scope-missing")["scope"] == scope


CREDENTIAL_ROUTES = [
    ("POST", "/auth/logout", None),
    ("POST", "/auth/logout-all", None),
    ("PUT", "/auth/password", {"current_password": PASSWORD, "new_password": "quite another passphrase"}),
    ("GET", "/auth/sessions", None),
    ("DELETE", "/auth/sessions/s_1", None),
    ("POST", "/auth/api-keys", {"name": "another", "scopes": ["money"]}),
    ("GET", "/auth/api-keys", None),
    ("GET", "/auth/api-keys/k_1", None),
    ("DELETE", "/auth/api-keys/k_1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CREDENTIAL_ROUTES, ids=[f"{m} {p}" for m, p, _ in CREDENTIAL_ROUTES])
def test_a_key_never_touches_credentials(admin: Client, method: str, path: str, body: Any) -> None:
    key = key_of(admin, *EVERY_SCOPE, "admin")
    try:
        assert_scope_missing(key.call(method, path, body), None)
    finally:
        assert admin.call("DELETE", key.path).status_code == 204


def test_a_key_can_do_no_more_than_its_owner(alice: Client, bob: Client) -> None:
    key = key_of(alice)
    answer = key.call("POST", f"/wallets/{alice.wallet()['id']}/grants", {"amount": 5}, key=unique("key"))
    assert_problem(answer, 403, "forbidden")
    assert_problem(key.call("GET", f"/wallets/{bob.wallet()['id']}"), 404, "not-found")
    assert_problem(key.call("GET", "/users"), 403, "forbidden")


def test_only_an_admins_key_can_be_an_admins(alice: Client, admin: Client) -> None:
    body = {"name": "powers", "scopes": ["admin"]}
    assert_problem(alice.call("POST", "/auth/api-keys", body), 403, "forbidden")
    key = key_of(admin, "admin")
    assert_works(key, "/modules/status")
    assert key.get(f"/rate-limits/user/{alice.user['id']}")["type"] == "user"
    assert key.call("PATCH", f"/users/{alice.user['id']}", {"status": "suspended"}).status_code == 200
    assert_problem(alice.call("GET", "/auth/me"), 401, "session-revoked")
    assert admin.call("DELETE", key.path).status_code == 204


def test_a_back_end_of_role_service_does_its_whole_job_with_a_key(admin: Client, alice: Client, bob: Client) -> None:
    backend = key_of(with_role(admin, "service"), "money", "wallets:read")
    wallet_id = alice.wallet()["id"]
    key = unique("key")
    granted = backend.call("POST", f"/wallets/{wallet_id}/grants", {"amount": 100, "reason": "level 3"}, key=key)
    assert granted.status_code == 201, granted.text
    replayed = backend.call("POST", f"/wallets/{wallet_id}/grants", {"amount": 100, "reason": "level 3"}, key=key)
    assert replayed.headers["Idempotency-Replayed"] == "true"
    assert replayed.json() == granted.json()
    spent = backend.call("POST", f"/wallets/{wallet_id}/debits", {"amount": 30, "reason": "a sword"}, key=unique("key"))
    assert spent.status_code == 201, spent.text
    moved = backend.transfer({"username": bob.user["username"]}, 20, source=wallet_id)
    assert moved.status_code == 201, moved.text
    assert backend.wallet(wallet_id)["available"] == alice.wallet()["available"] == 50
    assert [row["delta"] for row in backend.get(f"/wallets/{wallet_id}/transactions")["data"]] == [-20, -30, 100]
    refused = backend.call("POST", f"/wallets/{wallet_id}/debits", {"amount": 51}, key=unique("key"))
    assert assert_problem(refused, 402, "insufficient-funds")["available"] == 50


# Bad keys


def _changed(key: str) -> str:
    return key[:-1] + ("0" if key[-1] != "0" else "1")


BAD_KEYS = {
    "empty": lambda key: "",
    "garbage": lambda key: "garbage",
    "a typing error": _changed,
    "another secret": lambda key: make_key(f"k_{key[3:27]}"),
    "an unknown id": lambda key: make_key(new_id("k")),
    "cut off": lambda key: key[:-1],
    "twice": lambda key: f"{key}, {key}",
    "not ASCII": lambda key: "ck_\xe9",
    "very long": lambda key: key + "0" * 4000,
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_bad_key_is_refused_everywhere_with_one_answer(holder_key: KeyClient, name: str) -> None:
    bad = BAD_KEYS[name](holder_key.key)
    for path in ("/auth/me", "/wallets/me", "/auth/api-keys"):
        answer = requests.get(holder_key.url + path, headers={"X-API-Key": bad.encode("latin-1")}, timeout=20)
        problem = assert_problem(answer, 401, "api-key-invalid")
        assert problem["detail"] == "The API key is not valid: unknown, expired or revoked."
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "RateLimit" in answer.headers, "it counts against the address"
    assert_works(holder_key)


@pytest.fixture(scope="module")
def holder_key(holder: Client) -> Iterator[KeyClient]:
    key = key_of(holder)
    yield key
    holder.call("DELETE", key.path)


def test_a_bad_key_keeps_nobody_from_signing_in(alice: Client) -> None:
    body = {"login": alice.user["username"], "password": PASSWORD}
    answer = Client(alice.url).call("POST", "/auth/login", body, headers={"X-API-Key": "garbage"})
    assert answer.status_code == 200


def test_a_key_and_a_token_together_are_ambiguous(alice: Client, bob: Client) -> None:
    key = key_of(alice)
    for token in (alice.token, bob.token, "garbage"):
        headers = {"Authorization": f"Bearer {token}"}
        assert_problem(key.call("GET", "/auth/me", headers=headers), 400, "ambiguous-credentials")


def test_a_key_is_no_token_and_opens_no_socket(alice: Client) -> None:
    key = key_of(alice)
    assert_problem(Client(alice.url, token=key.key).call("GET", "/auth/me"), 401, "token-invalid")
    for auth in ({"token": key.key}, {"api_key": key.key}):
        assert refusal_of(alice.url, auth)["code"] == "token-invalid"


# The end of a key


def test_a_deleted_key_fails_at_once_in_every_worker(alice: Client) -> None:
    key, other = key_of(alice), key_of(alice)
    assert_works(key)
    answer = alice.call("DELETE", key.path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert_is_dead(key)
    assert_works(other)
    assert alice.call("DELETE", key.path).status_code == 204, "safe to repeat"
    assert_problem(alice.call("GET", key.path), 404, "not-found")
    assert [row["id"] for row in alice.get("/auth/api-keys")["data"]] == [other.user["id"]]


def test_a_key_that_is_revoked_while_it_is_used_works_no_more_once_that_is_answered(alice: Client) -> None:
    for _ in range(3):
        key = key_of(alice)
        stop, late = threading.Event(), threading.Event()
        wrong: list[str] = []

        def use(key: KeyClient = key, stop: threading.Event = stop, late: threading.Event = late, wrong: list[str] = wrong) -> None:
            while not stop.is_set():
                revoked_before = late.is_set()
                answer = requests.get(f"{key.url}/auth/me", headers={"X-API-Key": key.key}, timeout=20)
                if answer.status_code not in (200, 401) or (revoked_before and answer.status_code != 401):
                    wrong.append(answer.text)

        users = [threading.Thread(target=use) for _ in range(4)]
        for user in users:
            user.start()
        assert_works(key)
        assert alice.call("DELETE", key.path).status_code == 204
        late.set()
        assert_is_dead(key)
        stop.set()
        for user in users:
            user.join()
        assert wrong == []


def test_a_key_expires(alice: Client) -> None:
    key = key_of(alice, expires_in=2)
    assert key.user["expires_at"] is not None
    assert_works(key)
    eventually(lambda: key.call("GET", "/auth/me").status_code == 401, 10)
    assert_is_dead(key)
    assert alice.get("/auth/api-keys")["data"] == []


def test_a_suspended_owners_keys_fail_at_once_and_work_again_with_the_owner(admin: Client, alice: Client) -> None:
    key, path = key_of(alice), f"/users/{alice.user['id']}"
    assert_works(key)
    assert admin.call("PATCH", path, {"status": "suspended"}).status_code == 200
    assert_is_dead(key)
    assert admin.call("PATCH", path, {"status": "active"}).status_code == 200
    assert_works(key)


def test_a_key_loses_and_gains_rights_with_its_owners_role_at_once(admin: Client, alice: Client) -> None:
    owner = with_role(admin, "admin")
    key, path = key_of(owner, "admin", "money", "users:read"), f"/users/{owner.user['id']}"
    grants = f"/wallets/{alice.wallet()['id']}/grants"
    assert_works(key, "/modules/status")
    assert key.call("POST", grants, {"amount": 1}, key=unique("key")).status_code == 201
    assert admin.call("PATCH", path, {"role": "user"}).status_code == 200
    for _ in range(4):
        assert_problem(key.call("GET", "/modules/status"), 403, "forbidden")
        assert_problem(key.call("POST", grants, {"amount": 1}, key=unique("key")), 403, "forbidden")
        assert_scope_missing(key.call("PATCH", path, {"username": unique("x")}), "admin")
        assert key.get("/auth/me")["role"] == "user"
    assert admin.call("PATCH", path, {"role": "service"}).status_code == 200
    for _ in range(4):
        assert key.call("POST", grants, {"amount": 1}, key=unique("key")).status_code == 201
        assert_problem(key.call("GET", "/modules/status"), 403, "forbidden")


def test_an_erased_owners_keys_are_gone(admin: Client, alice: Client, database: Database[dict[str, Any]]) -> None:
    key = key_of(alice)
    assert_works(key)
    assert alice.call("DELETE", f"/users/{alice.user['id']}").status_code == 204
    assert_is_dead(key)
    stored = database["api_keys"].find_one({"_id": key.user["id"]})
    assert stored is None or "name" not in stored


def test_a_new_password_and_a_log_out_everywhere_leave_the_keys(alice: Client) -> None:
    key = key_of(alice)
    change = {"current_password": PASSWORD, "new_password": "quite another passphrase"}
    assert alice.call("PUT", "/auth/password", change).status_code == 204
    assert alice.call("POST", "/auth/logout-all").status_code == 204
    assert_works(key)


# What is kept of a key


def test_the_last_use_is_noted(alice: Client) -> None:
    key = key_of(alice)
    assert_works(key)
    used_at = eventually(lambda: alice.get(key.path)["last_used_at"], 15)
    assert used_at >= key.user["created_at"]


def test_no_store_and_no_log_shows_a_key_or_its_name(
    server: AppServer, alice: Client, servers: LocalStack, database: Database[dict[str, Any]]
) -> None:
    name = unique("canary")
    key = key_of(alice, name=name)
    assert_works(key)
    assert key.call("GET", f"/users/{key.key}").status_code == 404
    requests.get(f"{server.url}/auth/me?key={key.key}", headers={"Authorization": f"Bearer {key.key}"}, timeout=20)
    assert alice.call("DELETE", key.path).status_code == 204
    assert_is_dead(key)
    dump = mongo_dump(database) + redis_dump(servers) + server.log_text().encode()
    assert key.user["id"].encode() in dump, "the dump is not one"
    secret = key.key.rpartition("_")[2]
    for text in (key.key, secret, secret[:43], name):
        for form in (text.encode(), base64.b64encode(text.encode())[:-4], text.encode().hex().encode()):
            assert form not in dump
