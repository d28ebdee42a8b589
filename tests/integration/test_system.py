"""The system itself over HTTP: health, metrics, headers, CORS, rate limits and bans, logs, and the audit log."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from pymongo.database import Database
from requests.adapters import HTTPAdapter
from socketio.exceptions import ConnectionError as SocketRefused

from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.at_once import at_once
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tests.support.polling import eventually
from tests.support.sockets import SocketClient
from tools.local_stack import LocalStack

MANAGERS = {
    *("vault", "database", "redis", "jwt", "encryption", "rate_limiter"),
    *("hooks", "services", "websocket", "plugin", "module"),
}
MODULES = {"wallet", "transactions", "connection_api"}


# Health


def test_health_names_every_manager_and_module(server: AppServer) -> None:
    answer = requests.get(f"{server.url}/health", timeout=20)
    assert answer.status_code == 200
    report = answer.json()
    assert set(report) == {"status", "managers", "modules", "last_check"}
    assert report["status"] == "healthy"
    assert set(report["managers"]) == MANAGERS
    assert set(report["modules"]) >= MODULES
    parts = {**report["managers"], **report["modules"]}
    assert {part["status"] for part in parts.values()} == {"healthy"}
    assert all("last_check" in part for part in parts.values())
    for name in ("database", "redis"):
        assert report["managers"][name]["connection"] == "ok"


def test_health_shows_no_address_and_no_secret(server: AppServer, servers: LocalStack, secrets_dir: Path) -> None:
    text = requests.get(f"{server.url}/health", timeout=20).text
    assert servers.mongod is not None
    assert servers.redis is not None
    for word in (str(servers.mongod.port), str(servers.redis.port), "127.0.0.1", str(secrets_dir)):
        assert word not in text
    for path in secrets_dir.iterdir():
        if path.is_file() and len(path.read_text().strip()) > 20:
            assert path.read_text().strip() not in text


def test_live_and_ready_are_two_questions(server: AppServer) -> None:
    live = requests.get(f"{server.url}/health/live", timeout=20)
    assert (live.status_code, live.json()["status"]) == (200, "alive")
    ready = requests.get(f"{server.url}/health/ready", timeout=20)
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["checks"] == {"database": "healthy", "redis": "healthy"}


def test_modules_are_shown_to_admins_only(server: AppServer, admin: Client, alice: Client) -> None:
    modules = admin.get("/modules/status")["modules"]
    assert set(modules) >= {"wallet_module", "transactions_module", "connection_api"}
    assert modules["transactions_module"]["dependencies"] == ["wallet_module"]
    for name, status in modules.items():
        assert status["status"] == "healthy"
        assert admin.get(f"/modules/{name}/health")["status"] == "healthy"
    assert_problem(admin.call("GET", "/modules/unknown/health"), 404, "not-found")
    for path in ("/modules/status", "/modules/wallet_module/health", "/rate-limits/ip/127.0.0.1"):
        assert_problem(alice.call("GET", path), 403, "forbidden")
        assert_problem(Client(server.url).call("GET", path), 401, "unauthenticated")


# Metrics


def samples(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of /metrics by name and labels."""
    answer = requests.get(f"{url}/metrics", timeout=20)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def counted(url: str, name: str, **labels: str) -> float:
    return samples(url).get((name, frozenset(labels.items())), 0.0)


def test_requests_are_counted_over_all_workers(server: AppServer, alice: Client) -> None:
    labels = {"method": "GET", "route": "/transactions/{id}", "status": "404"}
    before = counted(server.url, "credit_http_requests_total", **labels)
    answers = at_once(60, lambda n: Client(server.url, alice.token).call("GET", f"/transactions/tx_{n}"))
    assert {answer.status_code for answer in answers} == {404}
    for _ in range(4):  # whichever worker answers
        assert counted(server.url, "credit_http_requests_total", **labels) - before == 60
    seconds = {name: labels[name] for name in ("method", "route")}
    assert counted(server.url, "credit_http_request_duration_seconds_count", **seconds) >= 60


def test_money_is_counted(server: AppServer, admin: Client, alice: Client, bob: Client) -> None:
    admin.grant(alice.wallet()["id"], 123)
    before = samples(server.url)
    assert alice.transfer(bob.wallet()["id"], 123).status_code == 201
    assert alice.transfer(bob.wallet()["id"], 1).status_code == 402
    after = samples(server.url)
    for name, labels, more in (
        ("credit_transactions_total", {"type": "transfer"}, 1),
        ("credit_transactions_amount_total", {"type": "transfer", "asset": "CREDIT"}, 123),
        ("credit_transaction_refusals_total", {"code": "insufficient-funds"}, 1),
    ):
        sample = (name, frozenset(labels.items()))
        assert after[sample] - before.get(sample, 0) == more, name


def test_labels_never_hold_what_a_client_made_up(server: AppServer, alice: Client) -> None:
    made_up = uuid.uuid4().hex
    alice.call("GET", f"/{made_up}")
    alice.call("GET", f"/wallets/{made_up}")
    alice.call(made_up[:10].upper(), "/wallets")
    alice.call("GET", f"/wallets?{made_up}=1")
    text = requests.get(f"{server.url}/metrics", timeout=20).text
    assert made_up not in text
    assert made_up[:10].upper() not in text
    assert alice.user["id"] not in text


# Headers and methods

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "/", 200), ("GET", "/auth/me", 200), ("GET", "/health", 200), ("GET", "/metrics", 200), ("GET", "/nothing", 404)),
        *(("GET", "/users", 403), ("DELETE", "/transfers", 405), ("POST", "/transfers", 422), ("OPTIONS", "/transfers", 200)),
        *(("HEAD", "/wallets/me", 200), ("GET", "/wallets?limit=0", 422)),
    ],
)
def test_every_answer_carries_the_security_headers(alice: Client, method: str, path: str, status: int) -> None:
    answer = alice.call(method, path, {} if method == "POST" else None)
    assert answer.status_code == status
    for name, value in SECURITY_HEADERS.items():
        assert answer.raw.headers.getlist(name) == [value]
    for directive in ("default-src", "base-uri", "frame-ancestors"):
        assert f"{directive} 'none'" in answer.headers["Content-Security-Policy"]
    assert len(answer.raw.headers.getlist("X-Request-ID")) == 1


@pytest.mark.parametrize("request_id", ["12345678", "a.B-c_9" * 3, "x" * 64, "c0a78479-68eb-49b2-9070-e6f7e33ce574"])
def test_a_well_formed_request_id_is_echoed(alice: Client, request_id: str) -> None:
    assert alice.call("GET", "/auth/me", headers={"X-Request-ID": request_id}).headers["X-Request-ID"] == request_id
    problem = assert_problem(alice.call("GET", "/nothing", headers={"X-Request-ID": request_id}), 404, "not-found")
    assert problem["request_id"] == request_id


@pytest.mark.parametrize(
    "request_id", ["", "short", "x" * 65, "with space", "new\tline", 'quote"quote', "<script>alert</script>", "ünïcödé-id", "a,b,c,d,e"]
)
def test_a_malformed_request_id_is_replaced(alice: Client, request_id: str) -> None:
    answers = [alice.call("GET", "/nothing", headers={"X-Request-ID": request_id.encode()}) for _ in range(2)]
    given = [assert_problem(answer, 404, "not-found")["request_id"] for answer in answers]
    assert given[0] != given[1]
    assert all(len(own) >= 16 and own.isalnum() for own in given)


def test_an_unknown_path_is_a_problem(server: AppServer, alice: Client) -> None:
    for client in (alice, Client(server.url)):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert_problem(client.call(method, "/nothing"), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/transfers", {"POST", "OPTIONS"}),
        ("GET", "/auth/login", {"POST", "OPTIONS"}),
        ("PUT", "/users/u_1", {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"}),
        ("TRACE", "/wallets", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("BREW", "/wallets", {"GET", "HEAD", "POST", "OPTIONS"}),
    ],
)
def test_another_method_is_a_problem_that_names_the_right_ones(alice: Client, method: str, path: str, allowed: set[str]) -> None:
    answer = alice.call(method, path)
    assert_problem(answer, 405, "method-not-allowed")
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed


def test_head_answers_as_get_without_the_body(alice: Client) -> None:
    head, get = alice.call("HEAD", "/wallets/me"), alice.call("GET", "/wallets/me")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert head.headers[name] == get.headers[name]
    # The connection can be used on: nothing was left in it.
    assert alice.call("GET", "/wallets/me").json() == get.json()
    assert Client(alice.url).call("HEAD", "/wallets/me").status_code == 401


def test_options_answers_with_the_methods_and_needs_no_token(server: AppServer) -> None:
    answer = Client(server.url).call("OPTIONS", "/users/u_1")
    assert (answer.status_code, answer.content) == (200, b"")
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == {"GET", "HEAD", "PATCH", "DELETE", "OPTIONS"}


@pytest.mark.parametrize("accept", ["text/html", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"])
def test_the_root_is_a_page_for_people(server: AppServer, accept: str) -> None:
    answer = requests.get(server.url, headers={"Accept": accept}, timeout=20)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.text.lstrip().lower().startswith("<!doctype html>")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/json, text/html;q=0.5", "image/png"])
def test_the_root_is_json_for_programs(server: AppServer, accept: str) -> None:
    answer = requests.get(server.url, headers={"Accept": accept}, timeout=20)
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"name", "version", "docs"}
    assert answer.json()["name"] == "credit-system"


# A server of its own: origins that may call it, and limits that a test can reach

ORIGIN = "https://app.example.com"
# So long that no test sees two windows.
WINDOW = 10_000_000
IP, USER, AUTH, MONEY, BAN_THRESHOLD, BAN_SECONDS = 14, 9, 4, 3, 3, 600


@pytest.fixture(scope="module")
def strict(servers: LocalStack, server: AppServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """On the same database (so tokens of `server` work here), with counters of its own."""
    settings = {
        "REDIS_URL": servers.environ["REDIS_URL"].replace("/0", "/1"),
        "CORS_ORIGINS": f"{ORIGIN},http://localhost:3000",
        "RATE_LIMIT_SCALE": 1,
        "RATE_LIMIT_IP": f"{IP}/{WINDOW}",
        "RATE_LIMIT_USER": f"{USER}/{WINDOW}",
        "RATE_LIMIT_AUTH": f"{AUTH}/{WINDOW}",
        "RATE_LIMIT_MONEY": f"{MONEY}/{WINDOW}",
        "BAN_THRESHOLD": BAN_THRESHOLD,
        "BAN_SECONDS": BAN_SECONDS,
    }
    with AppServer(servers.environ, tmp_path_factory.mktemp("strict"), **settings) as running:
        yield running


class _From(HTTPAdapter):
    """Connections that come from one address of ours; 127.0.0.0/8 has enough of them."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **options)  # type: ignore[no-untyped-call]


_numbers = itertools.count(1)


def new_address() -> str:
    """An address that no other test calls from."""
    number = next(_numbers)
    return f"127.77.{number // 200}.{number % 200 + 1}"


def calling(strict: AppServer, user: Client | None = None, address: str | None = None) -> Client:
    """A client of the strict server at an address of its own; with the token of `user`, if one is given."""
    http = requests.Session()
    http.mount("http://", _From(address or new_address()))
    return Client(strict.url, user.token if user is not None else "", http=http)


def address_of(client: Client) -> str:
    adapter = client.http.get_adapter(client.url)
    assert isinstance(adapter, _From)
    return adapter.address


def spend(client: Client, times: int, path: str = "/") -> list[int]:
    return [client.call("GET", path).status_code for _ in range(times)]


# CORS


def test_only_the_listed_origins_may_call(strict: AppServer) -> None:
    client = calling(strict)
    for origin in (ORIGIN, "http://localhost:3000"):
        answer = client.call("GET", "/", headers={"Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in answer.headers["Vary"]
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    [
        *("https://app.example.com.evil.example", "https://app.example.co", "http://app.example.com", "https://app.example.com:8443"),
        *("https://xapp.example.com", "https://app-example.com", "https://evil.example/https://app.example.com", "null", "*"),
    ],
)
def test_an_origin_that_only_looks_alike_may_not(strict: AppServer, origin: str) -> None:
    client = calling(strict)
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for answer in (client.call("GET", "/", headers={"Origin": origin}), client.call("OPTIONS", "/transfers", headers=preflight)):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_preflight_of_a_listed_origin_is_allowed(strict: AppServer) -> None:
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
    }
    answer = calling(strict).call("OPTIONS", "/transfers", headers=preflight)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "idempotency-key" in answer.headers["Access-Control-Allow-Headers"].lower()


def test_a_listed_origin_can_read_refusals_too(strict: AppServer) -> None:
    client = calling(strict)
    answer = client.call("GET", "/auth/me", headers={"Origin": ORIGIN})
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    spend(client, IP)
    answer = client.call("GET", "/", headers={"Origin": ORIGIN})
    assert_problem(answer, 429, "rate-limited")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_without_a_list_no_origin_may_call(server: AppServer) -> None:
    answer = Client(server.url).call("GET", "/", headers={"Origin": ORIGIN})
    assert "Access-Control-Allow-Origin" not in answer.headers


# Rate limits


def test_every_answer_says_how_the_limit_stands(strict: AppServer) -> None:
    client = calling(strict)
    for used, (method, path) in enumerate(
        (("GET", "/"), ("GET", "/nothing"), ("GET", "/auth/me"), ("PUT", "/"), ("OPTIONS", "/")), start=1
    ):
        answer = client.call(method, path)
        assert answer.headers["RateLimit-Policy"] == f'"ip";q={IP};w={WINDOW}'
        policy, left, reset = answer.headers["RateLimit"].split(";")
        assert (policy, left) == ('"ip"', f"r={IP - used}")
        assert 0 < int(reset.removeprefix("t=")) <= WINDOW


def test_an_address_is_limited_over_all_workers(strict: AppServer) -> None:
    address = new_address()
    answers = at_once(IP + 2, lambda _: calling(strict, address=address).call("GET", "/"))
    assert sorted(answer.status_code for answer in answers) == [200] * IP + [429] * 2
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(refused, 429, "rate-limited")
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["RateLimit"].startswith('"ip";r=0;t=')
    # Another address is not concerned, and a prober neither.
    assert calling(strict).call("GET", "/").status_code == 200
    assert spend(calling(strict, address=address), 3, "/health/live") == [200] * 3


def test_a_client_cannot_choose_its_address(strict: AppServer) -> None:
    client = calling(strict)
    for number in range(IP):
        headers = {"X-Forwarded-For": f"198.51.100.{number}", "X-Real-IP": f"198.51.100.{number}", "Forwarded": f"for=198.51.100.{number}"}
        assert client.call("GET", "/", headers=headers).status_code == 200
    assert_problem(client.call("GET", "/", headers={"X-Forwarded-For": "198.51.100.99"}), 429, "rate-limited")


def test_a_user_is_limited_over_all_addresses(strict: AppServer, alice: Client, bob: Client) -> None:
    here, there = calling(strict, alice), calling(strict, alice)
    assert spend(here, USER // 2, "/auth/me") + spend(there, USER - USER // 2, "/auth/me") == [200] * USER
    for client in (here, there):
        answer = client.call("GET", "/auth/me")
        assert_problem(answer, 429, "rate-limited")
        assert answer.headers["RateLimit-Policy"] == f'"user";q={USER};w={WINDOW}'
        assert int(answer.headers["Retry-After"]) >= 1
    assert calling(strict, bob, address_of(here)).call("GET", "/auth/me").status_code == 200


def test_money_verbs_have_a_limit_of_their_own(strict: AppServer, admin: Client, alice: Client, bob: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    client, destination = calling(strict, alice), bob.wallet()["id"]
    for _ in range(MONEY):
        assert client.transfer(destination, 1).status_code == 201
    key = unique("key")
    refused = client.transfer(destination, 1, key=key)
    assert_problem(refused, 429, "rate-limited")
    assert refused.headers["RateLimit-Policy"] == f'"money";q={MONEY};w={WINDOW}'
    assert bob.wallet()["settled"] == MONEY
    assert client.call("GET", "/wallets/me").status_code == 200
    # The refusal was not stored under the key: where there is room, the same request goes through.
    retried = alice.transfer(destination, 1, key=key)
    assert retried.status_code == 201
    assert "Idempotency-Replayed" not in retried.headers


def test_log_ins_of_an_address_have_a_limit_of_their_own(strict: AppServer, alice: Client) -> None:
    client = calling(strict)
    attempts = [client.call("POST", "/auth/login", {"login": alice.user["username"], "password": "guess"}) for _ in range(AUTH)]
    assert [attempt.status_code for attempt in attempts] == [401] * AUTH
    right = client.call("POST", "/auth/login", {"login": alice.user["username"], "password": PASSWORD})
    assert_problem(right, 429, "rate-limited")
    for path, body in (("/auth/register", {}), ("/auth/refresh", {"refresh_token": alice.refresh_token})):
        assert_problem(client.call("POST", path, body), 429, "rate-limited")
    # The user is not locked out elsewhere.
    elsewhere = calling(strict).call("POST", "/auth/login", {"login": alice.user["username"], "password": PASSWORD})
    assert elsewhere.status_code == 200


def test_repeated_violations_lead_to_a_ban(strict: AppServer, alice: Client) -> None:
    client = banned_address(strict)
    for address_user in (client, calling(strict, alice, address_of(client))):
        answer = address_user.call("GET", "/auth/me")
        assert_problem(answer, 403, "banned")
        assert 0 < int(answer.headers["Retry-After"]) <= BAN_SECONDS
    assert spend(client, 2, "/health/live") == [200, 200]
    assert calling(strict, alice).call("GET", "/auth/me").status_code == 200


def banned_address(strict: AppServer) -> Client:
    """A client whose address was banned just now, for asking too often."""
    client = calling(strict)
    assert spend(client, IP + BAN_THRESHOLD + 1) == [200] * IP + [429] * BAN_THRESHOLD + [403]
    return client


def banned_user(strict: AppServer, user: Client) -> None:
    """`user` is banned, by requests from addresses that are not."""
    assert spend(calling(strict, user), USER, "/auth/me") == [200] * USER
    assert spend(calling(strict, user), BAN_THRESHOLD + 1, "/auth/me") == [429] * BAN_THRESHOLD + [403]


def test_a_banned_user_is_refused_everywhere_and_nobody_else_is(strict: AppServer, alice: Client, bob: Client) -> None:
    banned_user(strict, alice)
    client = calling(strict, alice)
    answer = client.call("GET", "/auth/me")
    assert_problem(answer, 403, "banned")
    assert 0 < int(answer.headers["Retry-After"]) <= BAN_SECONDS
    assert calling(strict, bob, address_of(client)).call("GET", "/auth/me").status_code == 200
    assert calling(strict, address=address_of(client)).call("GET", "/").status_code == 200


def test_an_admin_sees_lifts_and_clears(strict: AppServer, admin: Client) -> None:
    client = banned_address(strict)
    path, operator = f"ip/{address_of(client)}", calling(strict, with_role(admin, "admin"))
    shown = operator.get(f"/rate-limits/{path}")
    assert (shown["type"], shown["violations"]) == ("ip", 0)
    assert 0 < shown["banned_for"] <= BAN_SECONDS
    counts = {row["policy"]: row for row in shown["policies"]}
    assert (counts["ip"]["used"], counts["ip"]["quota"], counts["ip"]["remaining"], counts["ip"]["window"]) == (IP, IP, 0, WINDOW)
    assert (shown["ban"]["policy"], shown["ban"]["level"]) == ("ip", 1)
    assert shown["ban"]["since"] < shown["ban"]["until"]

    assert operator.call("DELETE", f"/bans/{path}").status_code == 204
    assert operator.get(f"/rate-limits/{path}")["banned_for"] == 0
    assert spend(client, 1) == [429]
    assert operator.call("DELETE", f"/rate-limits/{path}").status_code == 204
    assert spend(client, 1) == [200]
    assert operator.get(f"/rate-limits/{path}")["violations"] == 0


def test_an_admin_lifts_the_ban_of_a_user(strict: AppServer, admin: Client, alice: Client) -> None:
    banned_user(strict, alice)
    operator = calling(strict, with_role(admin, "admin"))
    assert operator.get(f"/rate-limits/user/{alice.user['id']}")["banned_for"] > 0
    for resource in ("bans", "rate-limits"):
        assert operator.call("DELETE", f"/{resource}/user/{alice.user['id']}").status_code == 204
    assert calling(strict, alice).call("GET", "/auth/me").status_code == 200


def test_running_bans_are_listed_page_by_page(strict: AppServer, admin: Client) -> None:
    banned = {address_of(banned_address(strict)) for _ in range(2)}
    operator = calling(strict, with_role(admin, "admin"))
    first = operator.get("/bans?limit=1")
    rest = operator.get(f"/bans?limit=100&cursor={first['next_cursor']}")
    rows = [*first["data"], *rest["data"]]
    assert rest["next_cursor"] is None
    assert banned <= {row["id"] for row in rows}
    assert set(rows[0]) == {"name", "type", "id", "policy", "level", "since", "until"}
    assert_problem(operator.call("GET", "/bans?cursor=bogus"), 400, "invalid-cursor")


def test_identifiers_in_paths_are_checked_and_ipv6_is_understood(strict: AppServer, admin: Client) -> None:
    operator = calling(strict, with_role(admin, "admin"))
    assert operator.get("/rate-limits/ip/2001:db8::7")["type"] == "ip"
    assert operator.call("DELETE", "/rate-limits/ip/2001:db8::7").status_code == 204
    assert operator.call("DELETE", "/bans/ip/::ffff:198.51.100.9").status_code == 204
    for method, path in [
        ("GET", "/rate-limits/ip/localhost"),
        ("DELETE", "/rate-limits/user/a%20b"),
        ("DELETE", f"/bans/api_key/{'k' * 129}"),
    ]:
        problem = assert_problem(operator.call(method, path), 422, "validation-failed")
        assert problem["errors"][0]["field"] == "id"
    assert_problem(calling(strict, with_role(admin, "admin")).call("GET", "/rate-limits/planet/mars"), 404, "not-found")


def test_the_policies_are_listed(strict: AppServer, admin: Client) -> None:
    told = calling(strict, with_role(admin, "admin")).get("/rate-limits")
    assert {row["policy"]: row["quota"] for row in told["policies"]} == {
        "ip": IP,
        "user": USER,
        "api_key": 1200,
        "auth": AUTH,
        "money": MONEY,
    }


def test_a_socket_counts_its_address_once_and_again_for_each_token_that_fails(strict: AppServer, admin: Client, alice: Client) -> None:
    operator = calling(strict, with_role(admin, "admin"))

    def used() -> int:
        return int(operator.get("/rate-limits/ip/127.0.0.1")["policies"][0]["used"])

    assert operator.call("DELETE", "/rate-limits/ip/127.0.0.1").status_code == 204
    SocketClient.connected(strict.url, alice.token).close()
    assert used() == 1
    with pytest.raises(SocketRefused):
        SocketClient.connected(strict.url, "garbage")
    assert used() == 3


def test_only_an_admin_lifts_and_clears(strict: AppServer, alice: Client, admin: Client) -> None:
    for client in (calling(strict, alice), calling(strict, with_role(admin, "service"))):
        for method, path in (("DELETE", "/bans/ip/198.51.100.1"), ("DELETE", "/rate-limits/ip/198.51.100.1")):
            assert_problem(client.call(method, path), 403, "forbidden")


def test_an_anonymous_client_cannot_get_a_user_banned(strict: AppServer, admin: Client, alice: Client) -> None:
    header, payload, signature = alice.token.split(".")
    forged = f"{header}.{payload}.{signature[::-1]}"
    attempts: list[Callable[[Client], requests.Response]] = [
        lambda client: client.call("GET", "/auth/me", headers={"Authorization": f"Bearer {forged}"}),
        lambda client: client.call("GET", "/auth/me", headers={"Authorization": "Bearer garbage"}),
        lambda client: client.call("POST", "/auth/login", {"login": alice.user["username"], "password": "guess"}),
        lambda client: client.call("POST", "/auth/refresh", {"refresh_token": forged}),
    ]
    for attempt in attempts:
        attacker = calling(strict)
        answers = [attempt(attacker).status_code for _ in range(IP + BAN_THRESHOLD + 1)]
        assert answers[-1] == 403
    operator = calling(strict, with_role(admin, "admin"))
    shown = operator.get(f"/rate-limits/user/{alice.user['id']}")
    assert (shown["violations"], shown["banned_for"], [row["used"] for row in shown["policies"]]) == (0, 0, [0, 0])
    assert calling(strict, alice).call("GET", "/auth/me").status_code == 200


def test_a_revoked_token_cannot_get_its_user_banned(strict: AppServer, alice: Client) -> None:
    thief = Client.login(alice.url, alice.user["username"])
    assert calling(strict, alice).call("DELETE", f"/auth/sessions/{other_session(alice)}").status_code == 204
    client = calling(strict, thief)
    assert_problem(client.call("GET", "/auth/me"), 401, "session-revoked")
    spend(client, IP + BAN_THRESHOLD, "/auth/me")
    assert spend(client, 1, "/auth/me") == [403]
    assert calling(strict, alice).call("GET", "/auth/me").status_code == 200


def other_session(client: Client) -> str:
    return str(next(row["id"] for row in client.get("/auth/sessions")["data"] if not row["current"]))


def test_bans_outlive_the_memory_of_redis(
    strict: AppServer, servers: LocalStack, alice: Client, database: Database[dict[str, Any]]
) -> None:
    address = banned_address(strict)
    banned_user(strict, alice)
    assert servers.redis is not None
    with servers.redis.client() as redis:
        redis.flushall()
    assert_problem(address.call("GET", "/"), 403, "banned")
    assert_problem(calling(strict, alice).call("GET", "/auth/me"), 403, "banned")
    # Their names are in no record.
    for ban in database["bans"].find():
        assert address_of(address) not in str(ban)
        assert alice.user["id"] not in str(ban)


def test_revocations_outlive_the_memory_of_redis(server: AppServer, servers: LocalStack, alice: Client) -> None:
    assert alice.call("POST", "/auth/logout").status_code == 204
    assert servers.redis is not None
    with servers.redis.client() as redis:
        redis.flushall()
    for _ in range(4):
        assert_problem(Client(server.url, alice.token).call("GET", "/auth/me"), 401, "session-revoked")


# Logs


def request_lines(server: AppServer, request_id: str) -> list[dict[str, Any]]:
    """The structured lines about one request."""
    lines = [json.loads(line) for line in (server.log_dir / "server.log").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("request_id") == request_id]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "route"),
    [
        ("GET", "/auth/me", None, 200, "/auth/me"),
        ("HEAD", "/wallets/me", None, 200, "/wallets/{id}"),
        ("GET", "/wallets/w_unknown?x=1", None, 422, "/wallets/{id}"),
        ("POST", "/transfers", {"destination": "w_unknown", "amount": 1}, 404, "/transfers"),
        ("POST", "/transfers", {"amount": -1}, 422, "/transfers"),
        ("GET", "/users", None, 403, "/users"),
        ("GET", "/nothing/at/all", None, 404, "unmatched"),
        ("DELETE", "/transfers", None, 405, "unmatched"),
        ("OPTIONS", "/transfers", None, 200, "unmatched"),
        ("GET", "/health", None, 200, "/health"),
    ],
)
def test_each_request_leaves_exactly_one_line(
    server: AppServer, alice: Client, method: str, path: str, body: Any, status: int, route: str
) -> None:
    request_id = unique("line")
    answer = alice.call(method, path, body, key=unique("key"), headers={"X-Request-ID": request_id})
    assert answer.status_code == status
    eventually(lambda: request_lines(server, request_id), 10)
    # Whatever comes after it would have been written by then.
    marker = unique("marker")
    Client(server.url).call("GET", "/health/live", headers={"X-Request-ID": marker})
    eventually(lambda: request_lines(server, marker), 10)
    lines = request_lines(server, request_id)
    assert len(lines) == 1, lines
    line = lines[0]
    assert (line["message"], line["level"], line["method"], line["route"], line["status"]) == ("request", "INFO", method, route, status)
    assert line["duration_ms"] >= 0
    assert line["timestamp"].endswith("Z")
    assert line["user_id"] == (None if route in ("/health",) else alice.user["id"])


def test_every_line_of_the_logs_is_one_json_object(server: AppServer, alice: Client) -> None:
    for path in ("/%0aforged", "/wallets/%0d%0a%7B%22message%22:%22forged%22%7D", "/wallets?x=%0a"):
        alice.call("GET", path, headers={"User-Agent": "line\tbreak", "X-Request-ID": "a\tb\tc\td\te"})
    for file in server.log_dir.glob("*.log"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert isinstance(json.loads(line), dict), file.name


def test_no_secret_and_no_name_is_in_any_log(server: AppServer, admin: Client, bob: Client) -> None:
    name, password = f"canary.{uuid.uuid4().hex[:12]}", f"canary passphrase {uuid.uuid4().hex}"
    email = f"{name}@canary.example.com"
    client = Client(server.url)
    registered = client.call("POST", "/auth/register", {"username": name, "email": email, "password": password}).json()
    client.token, client.user = registered["access_token"], registered["user"]
    tokens = [registered["access_token"], registered["refresh_token"]]
    for login in (name, email):
        signed_in = client.call("POST", "/auth/login", {"login": login, "password": password}).json()
        tokens += [signed_in["access_token"], signed_in["refresh_token"]]
        client.call("POST", "/auth/login", {"login": login, "password": password[:-1]})
    client.call("POST", "/auth/register", {"username": name, "email": email, "password": password})
    admin.grant(client.wallet()["id"], 10)
    bob.transfer({"username": name}, 1)
    # Where secrets do not belong, and a log might repeat them.
    everything = [name, email, password, *tokens]
    for secret in everything:
        client.call("GET", f"/{secret}")
        client.call("GET", "/wallets", params={"cursor": secret})
        client.call("GET", "/wallets", params={secret: "1"})
        client.call("GET", f"/users/{secret}")
        client.call("POST", "/transfers", {"destination": secret, "amount": 1, "memo": secret[:100]}, key=unique("key"))
        client.call("POST", "/auth/login", data=f'{{"login": "{secret}"', headers={"Content-Type": "application/json"})
        client.call("POST", "/auth/login", {"login": name, "password": password, secret: secret})
        client.call("GET", "/auth/me", headers={"Authorization": f"Bearer {secret}", "User-Agent": secret, "Cookie": f"x={secret}"})
        client.call("POST", "/auth/refresh", {"refresh_token": secret})
    marker = unique("marker")
    client.call("GET", "/health/live", headers={"X-Request-ID": marker})
    eventually(lambda: request_lines(server, marker), 10)
    text = server.log_text()
    assert registered["user"]["id"] in text
    for secret in everything:
        assert secret not in text
        assert secret.upper() not in text.upper()


# The audit log


def audited(database: Database[dict[str, Any]], request_id: str) -> list[tuple[str, str, str | None]]:
    """(actor, action, target) of the rows that one request has left."""
    rows = database["audit_logs"].find({"request_id": request_id}).sort("_id", 1)
    return [(row["actor_id"], row["action"], row["target"]) for row in rows]


def test_every_write_is_in_the_audit_log(
    server: AppServer, admin: Client, alice: Client, bob: Client, database: Database[dict[str, Any]]
) -> None:
    admin.grant(alice.wallet()["id"], 100)
    alice_id, wallet_id = alice.user["id"], alice.wallet()["id"]
    name = unique("audited")
    refresh_token = Client.login(server.url, alice.user["username"]).refresh_token
    credentials = {"login": alice.user["username"], "password": PASSWORD}
    account = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    anyone = Client(server.url)
    # Client, method, path, body, who is named as the actor, what was done.
    writes: list[tuple[Client, str, str, Any, str, set[str]]] = [
        (anyone, "POST", "/auth/register", account, "anonymous", {"users.insert", "wallets.insert", "user_sessions.insert"}),
        (anyone, "POST", "/auth/login", credentials, "anonymous", {"user_sessions.insert"}),
        (anyone, "POST", "/auth/refresh", {"refresh_token": refresh_token}, "anonymous", {"user_sessions.update"}),
        (admin, "POST", f"/wallets/{wallet_id}/grants", {"amount": 5}, admin.user["id"], {"transactions.grant"}),
        (alice, "POST", "/wallets/me/debits", {"amount": 5}, alice_id, {"transactions.debit"}),
        (alice, "POST", "/transfers", {"destination": bob.wallet()["id"], "amount": 5}, alice_id, {"transactions.transfer"}),
        (alice, "PATCH", f"/users/{alice_id}", {"username": unique("new")}, alice_id, {"users.update"}),
        (alice, "PUT", "/auth/password", {"current_password": PASSWORD, "new_password": PASSWORD[::-1]}, alice_id, {"users.update"}),
        (admin, "PATCH", f"/users/{bob.user['id']}", {"role": "analyst"}, admin.user["id"], {"users.update", "user_sessions.update"}),
        (alice, "POST", "/auth/logout", None, alice_id, {"user_sessions.update"}),
        (admin, "DELETE", f"/users/{alice_id}", None, admin.user["id"], {"users.update"}),
    ]
    for client, method, path, body, actor, actions in writes:
        request_id = unique("audit")
        answer = client.call(method, path, body, key=unique("key"), headers={"X-Request-ID": request_id})
        assert answer.ok, answer.text
        rows = audited(database, request_id)
        assert {action for _, action, _ in rows} >= actions, f"{method} {path}: {rows}"
        assert {row[0] for row in rows} == {actor}, f"{method} {path}: {rows}"
        if "transactions" in next(iter(actions)):
            shown = answer.json()
            assert rows == [(actor, next(iter(actions)), shown.get("transaction", shown)["id"])]


def test_what_writes_nothing_is_not_in_the_audit_log(alice: Client, bob: Client, database: Database[dict[str, Any]]) -> None:
    request_id = unique("audit")
    headers = {"X-Request-ID": request_id}
    assert alice.call("GET", "/wallets/me", headers=headers).status_code == 200
    body = {"destination": bob.wallet()["id"], "amount": 1}
    assert alice.call("POST", "/transfers", body, key=unique("key"), headers=headers).status_code == 402
    assert alice.call("POST", "/transfers?dry_run=true", body, key=unique("key"), headers=headers).status_code == 402
    assert alice.call("PATCH", f"/users/{bob.user['id']}", {"username": "x-y-z"}, headers=headers).status_code == 404
    assert audited(database, request_id) == []


def test_a_ban_is_in_the_audit_log(strict: AppServer, database: Database[dict[str, Any]]) -> None:
    before = {row["_id"] for row in database["audit_logs"].find({"action": "bans.insert"})}
    client = banned_address(strict)
    rows = [row for row in database["audit_logs"].find({"action": "bans.insert"}) if row["_id"] not in before]
    assert len(rows) == 1
    assert rows[0]["target"].startswith("ip:")
    assert address_of(client) not in str(rows[0])


def test_the_audit_log_holds_no_values(alice: Client, database: Database[dict[str, Any]]) -> None:
    name = unique("valuable")
    assert alice.call("PATCH", f"/users/{alice.user['id']}", {"username": name, "email": f"{name}@example.com"}).status_code == 200
    text = str(list(database["audit_logs"].find({"actor_id": alice.user["id"]})))
    assert text != "[]"
    assert name not in text
