"""Webhooks over HTTP: what is posted arrives, signed; the log says so; and nobody is told who may not be."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pymongo.database import Database

from core.modules.webhooks_module.events import EVENT_TYPES
from core.modules.webhooks_module.schemas import WebhookBody
from core.web.routing import ADMIN, Principal
from tests.support.accounts import with_role
from tests.support.client import Client, assert_problem, unique
from tests.support.http_services import HttpServer, Received
from tests.support.in_process import booted
from tests.support.polling import eventually
from tools.error_handling.errors import Unprocessable
from tools.local_stack import LocalStack

Hook = Callable[..., dict[str, Any]]


@pytest.fixture
def service(admin: Client) -> Client:
    return with_role(admin, "service")


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def hook(service: Client, receiver: HttpServer) -> Iterator[Hook]:
    """`hook("transaction.posted")`: a webhook of the service that leads to the receiver; deleted afterwards."""
    made = []

    def make(*events: str, path: str = "/hook") -> dict[str, Any]:
        answer = service.call("POST", "/webhooks", {"url": receiver.url + path, "events": list(events)})
        assert answer.status_code == 201, answer.text
        made.append(answer.json())
        return made[-1]  # type: ignore[no-any-return]

    yield make
    for each in made:
        service.call("DELETE", f"/webhooks/{each['id']}")


def about(receiver: HttpServer, transaction_id: str) -> list[Received]:
    """The deliveries of one transaction: other tests move credits at the same time."""
    return [request for request in receiver.received if json.loads(request.body)["data"]["transaction"]["id"] == transaction_id]


def is_signed(request: Received, secret: str) -> bool:
    signed = f"{request.headers['X-Credit-Timestamp']}.".encode() + request.body
    return request.headers["X-Credit-Signature"] == f"v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def test_a_transfer_leads_to_a_delivery_that_can_be_looked_up_and_replayed(
    hook: Hook, receiver: HttpServer, service: Client, admin: Client, alice: Client, bob: Client
) -> None:
    webhook = hook("transaction.posted")
    admin.grant(alice.wallet()["id"], 10)
    transfer = alice.transfer(bob.wallet()["id"], 7, memo="for the Käse").json()
    [request] = eventually(lambda: about(receiver, transfer["id"]), 15)
    event = json.loads(request.body)
    assert is_signed(request, webhook["secret"])
    assert (event["id"], event["type"]) == (request.headers["X-Credit-Event-Id"], "transaction.posted")
    seen_by_admin = admin.get(f"/transactions/{transfer['id']}")
    assert event["data"]["transaction"] == seen_by_admin
    path = f"/webhooks/{webhook['id']}/deliveries"

    def logged() -> list[dict[str, Any]]:
        return [row for row in service.get(f"{path}?status=delivered&limit=100")["data"] if row["event_id"] == event["id"]]

    [delivery] = eventually(logged, 10)
    assert delivery["attempts"][0]["status_code"] == 200
    again = service.call("POST", f"{path}/{delivery['id']}/replay")
    assert (again.status_code, again.json()["replay_of"]) == (202, delivery["id"])
    first, second = eventually(lambda: len(about(receiver, transfer["id"])) == 2 and about(receiver, transfer["id"]), 10)
    assert (first.body, is_signed(second, webhook["secret"])) == (second.body, True)


def test_only_services_and_admins_have_webhooks_and_each_its_own(
    hook: Hook, service: Client, admin: Client, alice: Client, receiver: HttpServer
) -> None:
    webhook = hook("hold.*", "grant.created")
    path = f"/webhooks/{webhook['id']}"
    shown = service.get(path)
    assert shown == {key: value for key, value in webhook.items() if key != "secret"}
    assert (shown["status"], shown["events"]) == ("active", ["hold.*", "grant.created"])
    assert webhook["id"] in [row["id"] for row in service.get("/webhooks")["data"]]
    assert admin.get(path) == shown
    analyst = with_role(admin, "analyst")
    body = {"url": receiver.url, "events": ["*"]}
    for nobody in (alice, analyst):
        assert_problem(nobody.call("POST", "/webhooks", body), 403, "forbidden")
        assert_problem(nobody.call("GET", "/webhooks"), 403, "forbidden")
        assert_problem(nobody.call("GET", path), 403, "forbidden")
    other = with_role(admin, "service")
    for method, where, sent in (
        ("GET", path, None),
        ("PATCH", path, {"status": "disabled"}),
        ("DELETE", path, None),
        ("GET", f"{path}/deliveries", None),
        ("POST", f"{path}/deliveries/wd_x/replay", None),
    ):
        assert_problem(other.call(method, where, sent), 404, "not-found")
    assert_problem(service.call("POST", f"{path}/deliveries/wd_x/replay"), 404, "not-found")
    changed = service.call("PATCH", path, {"events": ["*"], "status": "disabled"})
    assert (changed.status_code, changed.json()["status"], changed.json()["disabled_reason"]) == (200, "disabled", "by-hand")
    assert service.call("DELETE", path).status_code == 204
    assert_problem(service.call("GET", path), 404, "not-found")
    assert_problem(service.call("DELETE", path), 404, "not-found")


def test_an_api_key_needs_the_scope(service: Client) -> None:
    def key(scope: str) -> dict[str, str]:
        answer = service.call("POST", "/auth/api-keys", {"name": unique("key"), "scopes": [scope]})
        assert answer.status_code == 201, answer.text
        return {"X-API-Key": answer.json()["key"]}

    assert requests.get(f"{service.url}/webhooks", headers=key("webhooks"), timeout=10).status_code == 200
    assert requests.get(f"{service.url}/webhooks", headers=key("wallets:read"), timeout=10).status_code == 403


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://user:password@127.0.0.1/",
        "file:///etc/passwd",
    ],
)
def test_where_nothing_may_be_sent_is_refused_by_name_of_the_field(service: Client, url: str) -> None:
    problem = assert_problem(service.call("POST", "/webhooks", {"url": url, "events": ["*"]}), 422, "validation-failed")
    assert [error["field"] for error in problem["errors"]] == ["url"]
    assert "169.254" not in json.dumps(problem)


def test_unknown_events_are_refused_and_the_known_ones_told(service: Client, receiver: HttpServer) -> None:
    problem = assert_problem(service.call("POST", "/webhooks", {"url": receiver.url, "events": ["money.*"]}), 422, "validation-failed")
    assert [error["field"] for error in problem["errors"]] == ["events"]
    assert all(event_type in problem["detail"] for event_type in EVENT_TYPES)


def test_an_owner_who_loses_the_role_is_told_nothing_more(
    hook: Hook, receiver: HttpServer, service: Client, admin: Client, alice: Client
) -> None:
    webhook = hook("transaction.posted")
    assert admin.call("PATCH", f"/users/{service.user['id']}", {"role": "user"}).status_code == 200
    granted = admin.grant(alice.wallet()["id"], 10)["transaction"]
    eventually(lambda: admin.get(f"/webhooks/{webhook['id']}")["disabled_reason"] == "owner-gone", 15)
    assert about(receiver, granted["id"]) == []
    assert admin.call("DELETE", f"/webhooks/{webhook['id']}").status_code == 204


def test_who_is_erased_leaves_no_url_behind(hook: Hook, service: Client, admin: Client, database: Database[dict[str, Any]]) -> None:
    webhook = hook("alert.crossed")
    assert service.call("DELETE", f"/users/{service.user['id']}").status_code == 204
    row = database["webhooks"].find_one({"_id": webhook["id"]})
    assert row is not None
    assert (row["status"], "url" in row, "secret" in row) == ("disabled", False, False)


def test_without_the_setting_nothing_is_sent_into_our_own_network_nor_over_http(servers: LocalStack, tmp_path: Path) -> None:
    with booted(servers.environ, tmp_path) as app_manager:
        service = app_manager.module_manager.get_module("webhooks_module").service
        for url in ("https://127.0.0.1:8443/", "https://10.0.0.1/", "http://example.com/", "https://localhost:8443/", "https://[::1]/"):
            with pytest.raises(Unprocessable):
                service.create(Principal("u_x", ADMIN, "s_x"), WebhookBody(url=url, events=["*"]))
