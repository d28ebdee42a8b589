"""Input that no client of ours would send: always refused with a problem, never a 5xx, and nothing moves."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from tests.support.app_server import ROOT, AppServer
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tests.support.ledger import assert_sound

JSON_TYPE = {"Content-Type": "application/json"}
AMOUNT, TEXT, NUMBER, DESTINATION, METADATA = "amount", "text", "number", "destination", "metadata"
MAYBE_AMOUNT, MAYBE_METADATA, LIMIT, MAYBE_LIMIT = "amount?", "metadata?", "limit", "limit?"
TIME, FLAG, ITEMS, SCOPES, LEVEL = "time", "flag", "items", "scopes", "level"
MAYBE_TEXT, MAYBE_SCOPES = "text?", "scopes?"


@dataclass(frozen=True)
class BodyRoute:
    """A route with a body: one that would be taken (but for the record that it names), and what each field is."""

    method: str
    path: str
    body: dict[str, Any]
    kinds: dict[str, str]
    as_admin: bool = False
    # Fields that may be null or left out.
    optional: frozenset[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


_MONEY_KINDS = {"amount": AMOUNT, "reference": TEXT, "metadata": METADATA}
_REASON = frozenset({"reason", "reference"})
ROUTES = (
    BodyRoute(
        "POST",
        "/auth/register",
        {"username": "bad-input", "email": "bad-input@example.com", "password": PASSWORD},
        dict.fromkeys(("username", "email", "password"), TEXT),
    ),
    BodyRoute("POST", "/auth/login", {"login": "bad-input", "password": PASSWORD}, dict.fromkeys(("login", "password"), TEXT)),
    BodyRoute("POST", "/auth/refresh", {"refresh_token": "a.b.c"}, {"refresh_token": TEXT}),
    BodyRoute(
        "PUT",
        "/auth/password",
        {"current_password": "wrong passphrase", "new_password": "quite another passphrase"},
        dict.fromkeys(("current_password", "new_password"), TEXT),
    ),
    BodyRoute(
        "POST",
        "/auth/api-keys",
        {"name": "bad-input", "scopes": ["no:scope"], "expires_in": 60},
        {"name": TEXT, "scopes": SCOPES, "expires_in": MAYBE_AMOUNT},
        optional=frozenset({"expires_in"}),
    ),
    BodyRoute(
        "POST",
        "/users",
        {"username": "bad-input", "email": "bad-input@example.com", "password": PASSWORD, "role": "user"},
        dict.fromkeys(("username", "email", "password", "role"), TEXT),
        as_admin=True,
    ),
    BodyRoute(
        "PATCH",
        "/users/{id}",
        {"username": "bad-input", "email": "bad-input@example.com", "role": "user", "status": "active"},
        dict.fromkeys(("username", "email", "role", "status"), TEXT),
        as_admin=True,
        optional=frozenset({"username", "email", "role", "status"}),
    ),
    BodyRoute(
        "POST",
        "/wallets/{id}/grants",
        {
            **{"amount": 1, "category": "paid", "priority": 50, "reason": "r", "reference": "bad-input", "metadata": {"k": "v"}},
            **{"effective_at": "2040-01-01T00:00:00Z", "expires_at": "2041-01-01T00:00:00Z"},
        },
        {**_MONEY_KINDS, "category": TEXT, "priority": NUMBER, "reason": TEXT, "effective_at": TIME, "expires_at": TIME},
        as_admin=True,
        optional=_REASON | {"effective_at", "expires_at"},
    ),
    BodyRoute("POST", "/wallets/{id}/grants/{gid}/void", {}, {}, as_admin=True),
    BodyRoute(
        "POST",
        "/wallets/{id}/holds",
        {"amount": 1, "expires_in": 60, "reason": "r"},
        {"amount": AMOUNT, "expires_in": AMOUNT, "reason": TEXT},
        optional=frozenset({"reason"}),
    ),
    BodyRoute(
        "POST",
        "/holds/{id}/capture",
        {"amount": 1, "final": False, "destination": "w_x"},
        {"amount": MAYBE_AMOUNT, "final": FLAG, "destination": TEXT},
        optional=frozenset({"amount", "final", "destination"}),
    ),
    BodyRoute("POST", "/holds/{id}/release", {}, {}),
    BodyRoute(
        "POST",
        "/holds/{id}/adjust",
        {"amount": 1, "expires_in": 60},
        {"amount": MAYBE_AMOUNT, "expires_in": MAYBE_AMOUNT},
        optional=frozenset({"amount", "expires_in"}),
    ),
    BodyRoute(
        "POST",
        "/transactions/{id}/reversals",
        {"amount": 1, "reason": "r"},
        {"amount": MAYBE_AMOUNT, "reason": TEXT},
        optional=frozenset({"amount", "reason"}),
    ),
    BodyRoute(
        "POST",
        "/batches",
        {"atomic": True, "items": [{"op": "debit", "wallet_id": "w_x", "amount": 1}]},
        {"atomic": FLAG, "items": ITEMS},
    ),
    BodyRoute(
        "POST",
        "/wallets",
        {"asset": "BAD_INPUT", "owner_id": "u_x", "credit_limit": 1, "metadata": {"k": "v"}},
        {"asset": TEXT, "owner_id": TEXT, "credit_limit": LIMIT, "metadata": METADATA},
        as_admin=True,
        optional=frozenset({"owner_id", "asset", "credit_limit", "metadata"}),
    ),
    BodyRoute(
        "POST",
        "/wallets/{id}/alerts",
        {"threshold": 1, "direction": "below", "on": "settled", "rearm_margin": 1},
        {"threshold": LEVEL, "direction": TEXT, "on": TEXT, "rearm_margin": LIMIT},
        optional=frozenset({"on", "rearm_margin"}),
    ),
    BodyRoute(
        "POST",
        "/webhooks",
        {"url": "https://hooks.example.com/", "events": ["*"], "description": "d"},
        {"url": TEXT, "events": SCOPES, "description": MAYBE_TEXT},
        as_admin=True,
        optional=frozenset({"description"}),
    ),
    BodyRoute(
        "PATCH",
        "/webhooks/{id}",
        {"url": "https://hooks.example.com/", "events": ["*"], "description": "d", "status": "active"},
        {"url": TEXT, "events": MAYBE_SCOPES, "description": MAYBE_TEXT, "status": TEXT},
        as_admin=True,
        optional=frozenset({"url", "events", "description", "status"}),
    ),
    BodyRoute(
        "PATCH",
        "/wallets/{id}",
        {"status": "active", "credit_limit": 1, "metadata": {"k": "v"}},
        {"status": TEXT, "credit_limit": MAYBE_LIMIT, "metadata": MAYBE_METADATA},
        as_admin=True,
        optional=frozenset({"status", "credit_limit", "metadata"}),
    ),
    BodyRoute(
        "POST",
        "/wallets/{id}/debits",
        {"amount": 1, "reason": "r", "reference": "bad-input", "metadata": {"k": "v"}},
        {**_MONEY_KINDS, "reason": TEXT},
        optional=_REASON,
    ),
    BodyRoute(
        "POST",
        "/schedules",
        {
            **{"source": "me", "destination": "w_x", "amount": 1, "memo": "m", "reference": "bad-input", "metadata": {"k": "v"}},
            **{"run_at": "2040-01-01T00:00:00Z", "rrule": "FREQ=DAILY"},
        },
        {**_MONEY_KINDS, "source": TEXT, "destination": DESTINATION, "memo": TEXT, "run_at": TIME, "rrule": TEXT},
        optional=frozenset({"memo", "reference", "rrule"}),
    ),
    BodyRoute(
        "POST",
        "/transfers",
        {"source": "me", "destination": "w_x", "amount": 1, "memo": "m", "reference": "bad-input", "metadata": {"k": "v"}},
        {**_MONEY_KINDS, "source": TEXT, "destination": DESTINATION, "memo": TEXT},
        optional=frozenset({"memo", "reference"}),
    ),
)
MONEY_ROUTES = tuple(route for route in ROUTES if "amount" in route.body and "amount" not in route.optional)


@dataclass
class World:
    """Whom the bad requests come from, and what must stay as it was."""

    owner: Client
    wallet_id: str
    admin: Client
    database: Database[dict[str, Any]]

    def send(self, route: BodyRoute, raw: bytes | Iterator[bytes], **options: Any) -> requests.Response:
        client = self.admin if route.as_admin else self.owner
        path = route.path.replace("{gid}", "g_x").replace(
            "{id}", self.owner.user["id"] if route.path.startswith("/users") else self.wallet_id
        )
        headers = {**JSON_TYPE, **options.pop("headers", {})}
        headers = {"Idempotency-Key": unique("key"), **headers}
        return client.call(route.method, path + options.pop("query", ""), data=raw, headers=headers, **options)

    def state(self) -> dict[str, Any]:
        """Everything that a request could have moved or made."""
        names = ("users", "wallets", "transactions", "entries", "grants", "holds", "audit_logs", "idempotency", "webhooks", "schedules")
        counts = {name: self.database[name].estimated_document_count() for name in names}
        user = self.database["users"].find_one({"_id": self.owner.user["id"]})
        return {**counts, "user": user, "wallet": self.database["wallets"].find_one({"_id": self.wallet_id})}


@pytest.fixture(scope="module")
def world(server: AppServer, admin: Client, database: Database[dict[str, Any]]) -> Iterator[World]:
    owner = Client.register(server.url)
    wallet_id = owner.wallet()["id"]
    admin.grant(wallet_id, 1000)
    yield World(owner, wallet_id, admin, database)
    assert_sound(database)


@pytest.fixture
def still(world: World) -> Iterator[World]:
    """The world, checked to be the same afterwards."""
    before = world.state()
    yield world
    assert world.state() == before


@pytest.fixture
def unmoved(world: World) -> Iterator[World]:
    """The same, but that a refusal may have been stored for a retry."""
    before = world.state()
    yield world
    assert {**world.state(), "idempotency": 0} == {**before, "idempotency": 0}


def assert_refused(response: requests.Response, *statuses: int) -> dict[str, Any]:
    """A 4xx (one of `statuses`, where given) with a whole problem document."""
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text[:500]}"
    assert not statuses or response.status_code in statuses, f"{response.status_code}: {response.text[:500]}"
    assert len(response.content) < 4096, "an answer must not grow with its request"
    return assert_problem(response, response.status_code, response.json()["code"])


def test_every_route_with_a_body_is_in_the_table(server: AppServer) -> None:
    """Asked from the application itself, so that a new route cannot be forgotten here."""
    ask = (
        "from core.managers.app_manager import AppManager\n"
        "manager = AppManager()\n"
        "manager.initialize()\n"
        "for route in manager.chain.routes:\n"
        "    if route.body is not None: print('BODY', route.method, route.path, *sorted(route.body.model_fields))\n"
        "manager.dispose()\n"
    )
    environ = {**server.environ, "LOG_DIR": str(server.folder / "asked")}
    listed = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60)
    found = {line.removeprefix("BODY ") for line in listed.stdout.splitlines() if line.startswith("BODY ")}
    assert found == {" ".join((route.method, route.path, *sorted(route.body))) for route in ROUTES}


# What is no JSON, or no object

NESTED = 10_000
MALFORMED = {
    "cut off": b'{"amount": 1',
    "single quotes": b"{'amount': 1}",
    "trailing comma": b'{"amount": 1,}',
    "trailing text": b"{} {}",
    "comment": b'{"amount": 1} // one',
    "bare word": b"amount",
    "NUL byte": b"\x00",
    "NUL inside": b'{"amount"\x00: 1}',
    "not UTF-8": b'{"memo": "\xff\xfe"}',
    "surrogate in UTF-8": b'{"memo": "\xed\xa0\x80"}',
    "UTF-16": '{"amount": 1}'.encode("utf-16"),
    "leading zero": b'{"amount": 01}',
    "hexadecimal": b'{"amount": 0x1}',
    "deep arrays": b"[" * NESTED + b"]" * NESTED,
    "deep open arrays": b"[" * NESTED,
    "deep objects": b'{"a":' * NESTED + b"1" + b"}" * NESTED,
    "deep unknown field": b'{"x":' + b"[" * NESTED + b"]" * NESTED + b"}",
}
NOT_AN_OBJECT = {
    "array": b"[]",
    "array of an object": b'[{"amount": 1}]',
    "text": b'"amount"',
    "number": b"1",
    "true": b"true",
    "null": b"null",
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "huge float": b"1e999",
    "huge integer": b"9" * 5000,
}


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_json_is_malformed(still: World, route: BodyRoute, name: str) -> None:
    assert assert_refused(still.send(route, MALFORMED[name]), 400)["code"] == "malformed-request"


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("name", NOT_AN_OBJECT)
def test_a_body_must_be_an_object(still: World, route: BodyRoute, name: str) -> None:
    assert_refused(still.send(route, NOT_AN_OBJECT[name]), 400, 422)


@pytest.mark.parametrize("route", [route for route in ROUTES if len(route.optional) < len(route.body)], ids=str)
def test_an_empty_body_lacks_what_is_needed(still: World, route: BodyRoute) -> None:
    for raw in (b"", b"{}", b" \n"):
        problem = assert_refused(still.send(route, raw), 400, 422)
        if problem["status"] == 422:
            assert set(route.body) >= {error["field"] for error in problem["errors"]}


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", ""]
)
def test_only_json_is_read(still: World, route: BodyRoute, content_type: str) -> None:
    answer = still.send(route, json.dumps(route.body).encode(), headers={"Content-Type": content_type})
    assert assert_refused(answer, 415)["code"] == "unsupported-media-type"


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_body_of_two_megabytes_is_too_large(still: World, route: BodyRoute) -> None:
    padded = json.dumps(route.body).encode() + b" " * 2_000_000
    assert_problem(still.send(route, padded), 413, "payload-too-large")
    # In chunks, without a Content-Length that would give it away.
    assert_problem(still.send(route, iter([padded])), 413, "payload-too-large")


@pytest.mark.parametrize("chunks", ["zz\r\n", "-1\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "5;\x00=1\r\nhello\r\n0\r\n\r\n"])
def test_chunks_that_cannot_be_read_are_malformed(server: AppServer, chunks: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as link:
        head = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        link.sendall((head + chunks).encode())
        answer = b""
        while piece := link.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"hello" not in answer
    assert b"zz" not in answer


# Objects that do not fit


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize(
    "unknown", ["unknown", "$where", "__proto__", "amount ", "Amount", "id", "", "a.b", "x" * 10_000, "\u0000", "is_admin"]
)
def test_unknown_fields_are_refused(still: World, route: BodyRoute, unknown: str) -> None:
    assert_refused(still.send(route, json.dumps({**route.body, unknown: 1}).encode()), 422)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_field_that_comes_twice_is_refused(still: World, route: BodyRoute) -> None:
    for name, value in route.body.items():
        twice = json.dumps(route.body)[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}"
        escaped = json.dumps(route.body)[:-1] + f', "\\u{ord(name[0]):04x}{name[1:]}": {json.dumps(value)}}}'
        for raw in (twice, escaped):
            assert_refused(still.send(route, raw.encode()), 400)


def test_a_nested_field_that_comes_twice_is_refused(still: World) -> None:
    transfer = ROUTES[-1]
    for nested in ('"destination": {"username": "abc", "username": "abd"}', '"destination": "w_x", "metadata": {"k": 1, "k": 2}'):
        assert_refused(still.send(transfer, f'{{"amount": 1, {nested}}}'.encode()), 400)


OPERATORS = ['{"$gt": ""}', '{"$ne": null}', '{"$where": "sleep(1)"}', '{"$regex": ".*"}', '["$in", []]']
WRONG_TEXT = [
    "1",
    "0",
    "1.5",
    "true",
    "false",
    "[]",
    "[1]",
    "{}",
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    '""',
    '"' + "x" * 5000 + '"',
    *OPERATORS,
]
WRONG_NUMBER = [
    '"1"',
    "1.0",
    "1.5",
    "1e1",
    "true",
    "null",
    "[]",
    "[1]",
    "{}",
    "NaN",
    "Infinity",
    "1e999",
    "-1e999",
    "-1",
    "101",
    '""',
    *OPERATORS,
]
WRONG_AMOUNT = [
    *WRONG_NUMBER,
    "0",
    "-0",
    "-1",
    "1e3",
    str(2**53),
    str(2**63 - 1),
    str(2**63),
    str(2**64),
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 400,
]
WRONG_METADATA = [
    *(
        "1",
        '"text"',
        "true",
        "null",
        "[]",
        "[1]",
        '{"a": {}}',
        '{"a": []}',
        '{"a": 1.5}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": {"$gt": ""}}',
    ),
    *(
        '{"$set": 1}',
        '{"a.b": 1}',
        '{"": 1}',
        '{"a\\u0000": 1}',
        '{"a": "\\u0000"}',
        '{"' + "k" * 41 + '": 1}',
        '{"a": "' + "v" * 501 + '"}',
    ),
    *(
        '{"a": ' + str(2**53) + "}",
        '{"a": ' + "9" * 5000 + "}",
        json.dumps({f"k{n}": n for n in range(51)}),
        '{"a":' * NESTED + "1" + "}" * NESTED,
    ),
]
WRONG_DESTINATION = [
    *WRONG_TEXT,
    *('{"username": 1}', '{"username": {"$gt": ""}}', '{"username": null}', '{"username": ""}', '{"username": "a\\u0000b"}'),
    *('{"username": "abc", "id": "x"}', '{"id": "x"}', '{"username": "' + "x" * 33 + '"}', "null"),
]
WRONG_SCOPES = [*OPERATORS, "1", "null", "[]", "{}", '"x"', "[1]", '[""]', '["no:scope"]', '["money", "money"]', "[[]]", "NaN"]
WRONG = {
    TEXT: WRONG_TEXT,
    NUMBER: WRONG_NUMBER,
    AMOUNT: [v for v in WRONG_AMOUNT if v != "101"],
    METADATA: WRONG_METADATA,
    DESTINATION: WRONG_DESTINATION,
    MAYBE_AMOUNT: [v for v in WRONG_AMOUNT if v not in ("101", "null")],
    LIMIT: [v for v in WRONG_AMOUNT if v not in ("101", "0", "-0")],
    MAYBE_LIMIT: [v for v in WRONG_AMOUNT if v not in ("101", "0", "-0", "null")],
    LEVEL: [v for v in WRONG_AMOUNT if v not in ("101", "0", "-0", "-1")],
    MAYBE_METADATA: [v for v in WRONG_METADATA if v != "null"],
    TIME: [*OPERATORS, "1", "1.5", "true", "[]", "{}", '""', '"yesterday"', '"2026-01-01"', '"2026-01-01T00:00:00"', "NaN", "9" * 5000],
    FLAG: [*OPERATORS, "1", "0", "null", "[]", "{}", '""', '"true"', "NaN"],
    SCOPES: WRONG_SCOPES,
    MAYBE_SCOPES: [v for v in WRONG_SCOPES if v != "null"],
    MAYBE_TEXT: [v for v in WRONG_TEXT if v != '""'],
    ITEMS: [
        *OPERATORS,
        "1",
        "null",
        "[]",
        "{}",
        '"x"',
        "[1]",
        "[{}]",
        "[[]]",
        '[{"op": "mint", "amount": 1}]',
        '[{"op": {"$gt": ""}}]',
        "NaN",
    ],
}
FIELDS = [(route, name) for route in ROUTES for name in route.body]


def with_field(route: BodyRoute, name: str, raw: str) -> bytes:
    """The route's body, with `raw` JSON text for one field."""
    others = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in route.body.items() if key != name)
    return f"{{{others}{', ' if others else ''}{json.dumps(name)}: {raw}}}".encode()


@pytest.mark.parametrize(("route", "name"), FIELDS, ids=[f"{route} {name}" for route, name in FIELDS])
def test_a_value_of_the_wrong_kind_is_refused_by_name(still: World, route: BodyRoute, name: str) -> None:
    wrong = WRONG[route.kinds[name]] + ([] if name in route.optional or route.kinds[name] != TEXT else ["null"])
    for raw in wrong:
        problem = assert_refused(still.send(route, with_field(route, name, raw)), 400, 422)
        if problem["status"] == 422:
            assert {error["field"].partition(".")[0] for error in problem["errors"]} == {name}, f"{raw[:60]}: {problem}"
        else:
            assert problem["code"] == "malformed-request"


@pytest.mark.parametrize("route", MONEY_ROUTES, ids=str)
@pytest.mark.parametrize("amount", ["0", "-1", str(2**53), str(-(2**63)), "1.5", "true", '"1"', "null"])
def test_an_impossible_amount_has_a_code_of_its_own(still: World, route: BodyRoute, amount: str) -> None:
    assert_problem(still.send(route, with_field(route, "amount", amount)), 422, "amount-invalid")


@pytest.mark.parametrize(("route", "name"), [f for f in FIELDS if f[0].kinds[f[1]] in (TEXT, DESTINATION)], ids=str)
@pytest.mark.parametrize(
    "raw", ['"a\\u0000bcdefghijklm"', '"\\ud800abcdefghijklm"', '"abcdefghijklm\\udc00"', '"a\x00bcdefghijklm"', '"a\nbcdefghijklm"']
)
def test_nul_lone_surrogates_and_raw_control_characters_are_refused(still: World, route: BodyRoute, name: str, raw: str) -> None:
    assert_refused(still.send(route, with_field(route, name, raw)), 400, 422)


# Headers, query strings and paths


@pytest.mark.parametrize("route", MONEY_ROUTES, ids=str)
@pytest.mark.parametrize("key", ["", '""', '"', '"open', '"a"b"', "k" * 256, "two words", "tab\there", "schlüssel"])
def test_an_unusable_idempotency_key_is_refused(still: World, route: BodyRoute, key: str) -> None:
    answer = still.send(route, json.dumps(route.body).encode(), headers={"Idempotency-Key": key.encode()})
    assert assert_refused(answer, 400)["code"] == "idempotency-key-invalid"


LISTS = (
    ("/wallets", False),
    ("/wallets/me/alerts", False),
    ("/wallets/me/transactions", False),
    ("/wallets/me/grants", False),
    ("/holds", False),
    ("/schedules", False),
    ("/auth/sessions", False),
    ("/users", True),
    ("/webhooks", True),
)


def list_client(world: World, as_admin: bool) -> Client:
    return world.admin if as_admin else world.owner


@pytest.mark.parametrize(("path", "as_admin"), LISTS)
@pytest.mark.parametrize("limit", ["0", "-1", "101", "9" * 400, "1.5", "ten", "", " ", "NaN", "1e1", "true", "%00", "0x10", "null"])
def test_a_bad_limit_is_refused_by_name(still: World, path: str, as_admin: bool, limit: str) -> None:
    problem = assert_refused(list_client(still, as_admin).call("GET", f"{path}?limit={limit}"), 422)
    assert [error["field"] for error in problem["errors"]] == ["limit"]


@pytest.mark.parametrize(("path", "as_admin"), LISTS)
@pytest.mark.parametrize("cursor", ["", "x", "===", "A" * 24, "A" * 1024, "%00", "%ff", "%F0%9F%98%80", "..%2F", "null", "e30="])
def test_a_made_up_cursor_is_refused(still: World, path: str, as_admin: bool, cursor: str) -> None:
    assert_problem(list_client(still, as_admin).call("GET", f"{path}?cursor={cursor}"), 400, "invalid-cursor")


@pytest.mark.parametrize(("path", "as_admin"), LISTS)
def test_a_cursor_that_is_too_long_is_refused(still: World, path: str, as_admin: bool) -> None:
    assert_refused(list_client(still, as_admin).call("GET", f"{path}?cursor={'A' * 1025}"), 422)


@pytest.mark.parametrize(("path", "as_admin"), LISTS)
def test_unknown_and_repeated_parameters_are_refused(still: World, path: str, as_admin: bool) -> None:
    client = list_client(still, as_admin)
    for unknown in ("unknown=1", "limit[$gt]=1", "$where=1", "Limit=1", "=1", "limit=1&access_token=x"):
        assert_refused(client.call("GET", f"{path}?{unknown}"), 422)
    for repeated in ("limit=1&limit=1", "limit=1&limit=2", "cursor=a&cursor=b", "unknown=1&unknown=1"):
        assert_refused(client.call("GET", f"{path}?{repeated}"), 400)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_routes_with_a_body_take_no_parameters_that_they_do_not_know(still: World, route: BodyRoute) -> None:
    body = json.dumps(route.body).encode()
    assert_refused(still.send(route, body, query="?unknown=1"), 422)
    assert_refused(still.send(route, body, query="?dry_run=true&dry_run=true"), 400)
    if route in MONEY_ROUTES:
        for value in ("maybe", "2", "", "%00", "null"):
            assert_refused(still.send(route, body, query=f"?dry_run={value}"), 422)


BAD_TIMES = (
    *(
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01",
        "25:00",
        "",
        "%00",
        "NaN",
        "Infinity",
        "1e20",
        "9" * 400,
        "{}",
    ),
    *("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z"),
)


@pytest.mark.parametrize("parameter", ["balance?at", "transactions?from", "transactions?to"])
@pytest.mark.parametrize("moment", BAD_TIMES)
def test_what_is_no_time_is_refused_by_name(still: World, parameter: str, moment: str) -> None:
    problem = assert_refused(still.owner.call("GET", f"/wallets/me/{parameter}={moment}"), 422)
    assert [error["field"] for error in problem["errors"]] == [parameter.partition("?")[2]]


@pytest.mark.parametrize(
    "query",
    [
        *(
            "type=gift",
            "type=",
            "type[$ne]=grant",
            "reference=",
            "reference=%00",
            "reference=" + "r" * 129,
            "counterparty=",
            "counterparty=a%00",
        ),
        *(
            "counterparty=" + "w" * 65,
            "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
            "from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z",
        ),
    ],
)
def test_a_bad_filter_is_refused(still: World, query: str) -> None:
    assert_refused(still.owner.call("GET", f"/wallets/me/transactions?{query}"), 422)


BAD_IDS = (
    *(
        "unknown",
        "%00",
        "a%00b",
        "%ff",
        "%ed%a0%80",
        "$gt",
        "%7B%22$gt%22:%22%22%7D",
        "%20",
        "%F0%9F%98%80",
        "me%00",
        "ME",
        "null",
    ),
    *("system:issuance", "system:revenue", "system:issuance:CREDIT", "0", "-1", "NaN", "x" * 3900, "*", "w_%0d%0aX-Injected:%201"),
)
WITH_ID = (
    *(("GET", "/wallets/{}", None), ("GET", "/wallets/{}/balance", None), ("GET", "/wallets/{}/transactions", None)),
    *(("GET", "/wallets/{}/grants", None), ("GET", "/transactions/{}", None), ("GET", "/users/{}", None), ("DELETE", "/users/{}", None)),
    *(("PATCH", "/users/{}", {"username": "bad-input"}), ("DELETE", "/auth/sessions/{}", None)),
    *(("GET", "/schedules/{}", None), ("GET", "/schedules/{}/runs", None), ("DELETE", "/schedules/{}", None)),
    *(("POST", "/wallets/{}/debits", {"amount": 1}), ("POST", "/wallets/{}/grants", {"amount": 1})),
)


@pytest.mark.parametrize("bad_id", BAD_IDS, ids=lambda value: value[:30])
@pytest.mark.parametrize(("method", "path", "body"), WITH_ID, ids=[f"{method} {path}" for method, path, _ in WITH_ID])
def test_an_id_of_nothing_is_not_found(unmoved: World, bad_id: str, method: str, path: str, body: Any) -> None:
    for client in (unmoved.owner, unmoved.admin):
        answer = client.call(method, path.format(bad_id), body, key=unique("key"))
        if path.endswith("/grants") and method == "POST" and client is unmoved.owner:
            assert_problem(answer, 403, "forbidden")
        else:
            assert_problem(answer, 404, "not-found")
        assert "X-Injected" not in answer.headers


@pytest.mark.parametrize("bad_id", BAD_IDS, ids=lambda value: value[:30])
def test_operators_who_ask_for_what_is_no_identifier_are_told(still: World, bad_id: str) -> None:
    for path in (f"/modules/{bad_id}/health", f"/rate-limits/{bad_id}/x", f"/bans/{bad_id}/x"):
        method = "DELETE" if path.startswith("/bans") else "GET"
        assert_problem(still.admin.call(method, path), 404, "not-found")
    for kind in ("ip", "user", "api_key"):
        answer = still.admin.call("GET", f"/rate-limits/{kind}/{bad_id}")
        if kind == "ip" or answer.status_code != 200:
            assert [error["field"] for error in assert_problem(answer, 422, "validation-failed")["errors"]] == ["id"]


def test_a_path_of_100_kilobytes_is_refused(still: World) -> None:
    answer = still.owner.call("GET", f"/wallets/{'x' * 100_000}")
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("path", ["/wallets//balance", "/wallets/me/", "/.%2e/users", "/wallets/..%2F..", "/%00", "/WALLETS", "/%ff"])
def test_a_path_of_nothing_is_not_found(still: World, path: str) -> None:
    assert_problem(still.owner.call("GET", path), 404, "not-found")


# Cursors of others


@pytest.fixture(scope="module")
def paged(world: World) -> World:
    """Enough of everything that each list has a second page."""
    for number in range(3):
        world.admin.grant(world.wallet_id, 1, reason=f"page {number}")
        Client.login(world.owner.url, world.owner.user["username"])
    return world


def cursor_of(client: Client, path: str) -> str:
    cursor = client.get(path + ("&" if "?" in path else "?") + "limit=1")["next_cursor"]
    assert isinstance(cursor, str)
    return cursor


@pytest.mark.parametrize("path", ["/wallets/me/transactions", "/wallets/me/grants", "/auth/sessions"])
def test_an_altered_cursor_is_refused(paged: World, path: str) -> None:
    cursor = cursor_of(paged.owner, path)
    assert paged.owner.get(f"{path}?cursor={cursor}")["data"]
    for at in range(0, len(cursor), 5):
        altered = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        assert_problem(paged.owner.call("GET", f"{path}?cursor={altered}"), 400, "invalid-cursor")
    for altered in (cursor[:-1], cursor[1:], cursor + cursor):
        assert_problem(paged.owner.call("GET", f"{path}?cursor={altered}"), 400, "invalid-cursor")


def test_a_cursor_belongs_to_its_list_its_filters_and_its_caller(paged: World) -> None:
    history = "/wallets/me/transactions"
    cursor = cursor_of(paged.owner, history)
    for other in ("/wallets/me/grants?", "/auth/sessions?", "/wallets?", f"{history}?type=grant&", f"{history}?reference=x&"):
        assert_problem(paged.owner.call("GET", f"{other}cursor={cursor}"), 400, "invalid-cursor")
    of_wallet = f"/wallets/{paged.wallet_id}/transactions"
    assert paged.owner.get(f"{of_wallet}?cursor={cursor}") == paged.owner.get(f"{history}?cursor={cursor}")
    assert_problem(paged.admin.call("GET", f"{of_wallet}?cursor={cursor}"), 400, "invalid-cursor")
    filtered = cursor_of(paged.owner, f"{history}?type=grant")
    assert_problem(paged.owner.call("GET", f"{history}?cursor={filtered}"), 400, "invalid-cursor")


# Anything at all

ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def close_to(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Anything, or an object with most of `fields`, some of them as they should be."""
    return ANY_JSON | st.fixed_dictionaries({}, optional={name: ANY_JSON | good for name, good in fields.items()})


TRANSFERS = close_to(
    source=st.sampled_from(["me", "w_x", "system:issuance"]),
    destination=ANY_TEXT | st.sampled_from(["me", "system:revenue"]) | st.fixed_dictionaries({"username": ANY_JSON}),
    amount=st.integers(1, 2000),
    memo=ANY_TEXT,
    reference=ANY_TEXT,
    metadata=st.dictionaries(ANY_TEXT, ANY_JSON, max_size=3),
)
REGISTRATIONS = close_to(username=ANY_TEXT, email=st.emails() | ANY_TEXT, password=ANY_TEXT | st.just("a long passphrase"))


@FUZZ
@given(body=TRANSFERS)
def test_no_transfer_of_anything_breaks_the_server(unmoved: World, body: Any) -> None:
    assert_refused(unmoved.send(ROUTES[-1], json.dumps(body).encode()))


@FUZZ
@given(body=REGISTRATIONS)
def test_no_registration_of_anything_breaks_the_server(world: World, body: Any) -> None:
    answer = world.send(ROUTES[0], json.dumps(body).encode())
    if answer.status_code != 201:
        assert_refused(answer, 400, 409, 422)


@FUZZ
@given(raw=st.binary(max_size=200))
def test_no_bytes_break_the_server(still: World, raw: bytes) -> None:
    assert_refused(still.send(ROUTES[-1], raw), 400, 422)
