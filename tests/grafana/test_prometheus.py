"""A real Prometheus and a real Alertmanager at the running app: panels and rules return data, and faults are told to somebody."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from pymongo.database import Database

from tests.grafana.test_dashboards import DOCUMENTS, panels
from tests.support.app_server import AppServer
from tests.support.client import Client, unique
from tests.support.fail_points import fail_point
from tests.support.http_services import HttpServer
from tests.support.polling import eventually
from tests.support.prometheus import Watch
from tests.support.sockets import SocketClient
from tools.local_stack import LocalStack

# Grafana's variables, as it would fill them in.
VARIABLES = {"$__rate_interval": "30s", "$route": ".*"}
# No part of the product calls an external service by itself.
NEEDS_CALLS = {"Calls"}
ALERT_SECONDS = 30


@dataclass
class World:
    """Everything that is running, and a metrics token that the app asks for."""

    stack: LocalStack
    app: AppServer
    watch: Watch
    slack: HttpServer
    root: Database[dict[str, Any]]
    token: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers of our own, OpenBao too: what is done to them here is felt by nobody else."""
    folder = tmp_path_factory.mktemp("watched")
    token = secrets.token_urlsafe(32)
    quick = {"METRICS_SECONDS": 0.5, "SETTINGS_REFRESH": 0.5, "LEDGER_SWEEP_SECONDS": 0.5, "LEDGER_CHECK_SECONDS": 1}
    sealing = {"AUDIT_SEAL_SECONDS": 0.5, "AUDIT_SEAL_DELAY": 1}
    services = {"SERVICES": "payment=http://127.0.0.1:9", "SERVICES_PRIVATE": "payment"}
    with LocalStack(folder / "data", folder / "secrets", vault=True, test_commands=True) as stack, HttpServer() as slack:
        assert stack.mongod is not None
        (folder / "secrets" / "metrics_token").write_text(token)
        app = AppServer(stack.environ, folder / "app", **quick, **sealing, **services)
        with stack.mongod.client() as client, app, Watch(app, folder / "watch", slack.url + "/slack", token) as watch:
            yield World(stack, app, watch, slack, client[stack.environ["MONGODB_DATABASE"]], token)


@pytest.fixture(scope="module")
def admin(world: World) -> Client:
    return Client.admin(world.app.url, world.stack.secrets.directory)


@pytest.fixture(scope="module")
def load(world: World, admin: Client) -> Client:
    """Someone who has done a little of everything."""
    url = world.app.url
    alice, bob = Client.register(url), Client.register(url)
    socket = SocketClient.connected(url, alice.token)
    room = unique("room")
    socket.join(room)
    socket.call("send_message", {"room": room, "data": "hello"})
    admin.grant(alice.wallet()["id"], 100)
    key = unique("key")
    for _ in range(2):
        assert alice.transfer({"username": bob.user["username"]}, 10, key=key).status_code == 201
    alice.refused("/wallets/me/debits", {"amount": 1000}, 402, "insufficient-funds")
    alice.post("/wallets/me/holds", {"amount": 5})
    assert alice.call("GET", "/nothing").status_code == 404
    assert Client(url).call("POST", "/auth/login", {"login": "nobody", "password": "wrong " * 4}).status_code == 401
    socket.expect("wallet_updated")
    world.watch.wait_for_scrapes()
    return alice


# What is scraped


def test_the_metrics_are_for_who_knows_the_token(world: World) -> None:
    url = f"{world.app.url}/metrics"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {world.token}"}, {"Authorization": world.token}):
        refused = requests.get(url, headers=headers, timeout=10)
        assert (refused.status_code, refused.json()["code"]) == (401, "token-invalid")
        assert "credit_" not in refused.text
    assert requests.get(url, headers={"Authorization": f"Bearer {world.token}"}, timeout=10).status_code == 200


@pytest.mark.usefixtures("load")
def test_prometheus_scrapes_the_app_with_it(world: World) -> None:
    assert world.watch.value('up{job="credit-system"}') == 1
    assert world.watch.value("sum(credit_workers)") == 2


@pytest.mark.usefixtures("load")
def test_sums_of_the_whole_database_are_told_once(world: World) -> None:
    """Not once for each worker, and by no other asset."""
    sums = {(row["_id"], state): row[state] for row in _sums(world.root) for state in ("settled", "held")}
    for (asset, state), total in sums.items():
        query = f'credit_wallet_balance{{asset="{asset}", state="{state}"}}'
        eventually(lambda query=query, total=total: world.watch.value(query) == total, ALERT_SECONDS)  # type: ignore[misc]
    assert ("CREDIT", "held") in sums
    living = world.root["user_sessions"].count_documents({"revoked_at": None})
    eventually(lambda: world.watch.value("credit_sessions_active") == living, ALERT_SECONDS)
    assert world.watch.value('credit_users_active{window="15m"}') == len(world.root["user_sessions"].distinct("user_id"))


def _sums(root: Database[dict[str, Any]]) -> list[dict[str, Any]]:
    group = {"_id": "$asset", "settled": {"$sum": "$settled"}, "held": {"$sum": "$held"}}
    return list(root["wallets"].aggregate([{"$group": group}]))


@pytest.mark.usefixtures("load")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_panel_returns_data(world: World, name: str) -> None:
    empty = []
    for panel in panels(DOCUMENTS[name]):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, expression
            if not world.watch.query(expression) and panel["title"] not in NEEDS_CALLS:
                empty.append((panel["title"], expression))
    assert empty == []


@pytest.mark.usefixtures("load")
def test_every_variable_of_a_dashboard_has_values(world: World) -> None:
    for document in DOCUMENTS.values():
        for variable in document["templating"]["list"][1:]:
            metric, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").split(", ")
            assert world.watch.query(f"count by ({label}) ({metric})"), variable["name"]


@pytest.mark.usefixtures("load")
def test_every_rule_can_be_evaluated_and_nothing_fires_while_all_is_well(world: World) -> None:
    eventually(lambda: all(rule["health"] == "ok" for rule in world.watch.rules()), ALERT_SECONDS)
    # How full a disk is depends on the machine.
    assert {name for name in world.watch.firing() if not name.startswith("CreditDisk")} == set()


# Faults, each in its turn; what fires fires on, for most of them cannot be undone.


def expect_alert(world: World, *names: str) -> None:
    eventually(lambda: set(names) <= world.watch.firing(), ALERT_SECONDS)


def test_a_tampered_ledger_fires(world: World, load: Client) -> None:
    world.root["wallets"].update_one({"_id": load.wallet()["id"]}, {"$inc": {"settled": 7}})
    expect_alert(world, "CreditLedgerChainBroken", "CreditLedgerImbalance")


@pytest.mark.usefixtures("load")
def test_a_tampered_audit_log_fires(world: World) -> None:
    seal = eventually(lambda: world.root["audit_seals"].find_one({}), ALERT_SECONDS)
    row = world.root["audit_logs"].find_one({"_id": seal["ids"][0]}) if "ids" in seal else world.root["audit_logs"].find_one({})
    assert row is not None
    world.root["audit_logs"].update_one({"_id": row["_id"]}, {"$set": {"action": "nothing"}})
    expect_alert(world, "CreditAuditChainBroken")


def test_a_secret_that_cannot_be_used_fires(world: World) -> None:
    (world.stack.secrets.directory / "metrics_token").write_text("short")
    expect_alert(world, "CreditSettingsRefused")


def test_a_database_that_fails_fires(world: World, load: Client) -> None:
    failing = {"failCommands": ["find", "aggregate"], "errorCode": 11600, "closeConnection": False}
    with fail_point(world.root.client["admin"], "alwaysOn", **failing):
        until = time.monotonic() + ALERT_SECONDS
        wanted = {"CreditHighErrorRate", "CreditErrorBudgetBurnFast"}
        while not wanted <= world.watch.firing():
            assert load.call("GET", "/wallets/me").status_code >= 500
            assert time.monotonic() < until, world.watch.firing()


def test_a_redis_that_is_away_fires(world: World) -> None:
    assert world.stack.redis is not None
    world.stack.redis.stop()
    eventually(lambda: _ask(world) and {"CreditLimiterDegraded", "CreditSocketQueueDown"} <= world.watch.firing(), ALERT_SECONDS)


def _ask(world: World) -> bool:
    """A request, for who asks Redis notices that it is away."""
    return requests.get(f"{world.app.url}/auth/me", timeout=10).status_code > 0


def test_an_app_that_is_away_fires_and_somebody_is_told_what_to_do(world: World) -> None:
    world.app.stop()
    expect_alert(world, "CreditServiceDown", "CreditInstanceDown")
    told = eventually(lambda: [text for text in _told(world.slack) if "CreditServiceDown" in text], ALERT_SECONDS)
    assert "docs/runbooks/CreditServiceDown.md" in told[0]
    assert "No copy of the credit system answers." in told[0]
    assert any("docs/runbooks/CreditLedgerImbalance.md" in text for text in _told(world.slack))


def _told(slack: HttpServer) -> list[str]:
    return [json.dumps(json.loads(message.body)) for message in slack.received if message.body]
