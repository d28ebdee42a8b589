"""Alerts over HTTP: set, seen, fired once, forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pymongo.database import Database

from tests.support.at_once import at_once
from tests.support.client import Client, assert_problem
from tests.support.polling import eventually

pytestmark = pytest.mark.usefixtures("sound_ledger")
LOW = {"threshold": 50, "direction": "below", "on": "settled", "rearm_margin": 20}


@pytest.fixture
def rich(alice: Client, admin: Client) -> Client:
    admin.grant(alice.wallet()["id"], 100)
    return alice


def told(database: Database[dict[str, Any]], alert: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(previous, current) of each crossing of `alert` in the outbox."""
    rows = database["outbox"].find({"events.id": alert["id"]}).sort("_id", 1)
    return [(e["data"]["previous"], e["data"]["current"]) for row in rows for e in row["events"] if e["id"] == alert["id"]]


def test_an_alert_fires_once_and_again_after_the_balance_came_back(rich: Client, admin: Client, database: Database[dict[str, Any]]) -> None:
    alert = rich.post("/wallets/me/alerts", LOW)
    assert {**LOW, "status": "armed", "fired_at": None}.items() <= alert.items()
    for amount in (40, 20, 10):
        rich.post("/wallets/me/debits", {"amount": amount})
    assert told(database, alert) == [(60, 40)]
    (shown,) = rich.get("/wallets/me/alerts")["data"]
    assert (shown["id"], shown["status"], shown["fired_at"] is not None) == (alert["id"], "fired", True)
    admin.grant(rich.wallet()["id"], 39)
    assert rich.get("/wallets/me/alerts")["data"][0]["status"] == "fired"
    admin.grant(rich.wallet()["id"], 1)
    assert rich.get("/wallets/me/alerts")["data"][0]["status"] == "armed"
    rich.post("/wallets/me/debits", {"amount": 21})
    assert told(database, alert) == [(60, 40), (70, 49)]


def test_an_alert_that_is_crossed_already_waits_for_the_way_back(rich: Client, admin: Client) -> None:
    alert = rich.post("/wallets/me/alerts", {"threshold": 200, "direction": "below"})
    assert (alert["on"], alert["rearm_margin"], alert["status"]) == ("available", 0, "fired")
    assert alert["fired_at"] is None
    admin.grant(rich.wallet()["id"], 100)
    assert rich.get("/wallets/me/alerts")["data"][0]["status"] == "armed"


def test_a_lower_credit_limit_fires_too(rich: Client, admin: Client, database: Database[dict[str, Any]]) -> None:
    path = f"/wallets/{rich.wallet()['id']}"
    assert admin.call("PATCH", path, {"credit_limit": 100}).status_code == 200
    alert = rich.post("/wallets/me/alerts", {**LOW, "threshold": 150, "on": "available"})
    assert admin.call("PATCH", path, {"credit_limit": 10}).status_code == 200
    eventually(lambda: told(database, alert) == [(200, 110)], 20)


def test_a_removed_alert_is_gone(rich: Client, database: Database[dict[str, Any]]) -> None:
    alert, other = (rich.post("/wallets/me/alerts", LOW) for _ in range(2))
    assert rich.call("DELETE", f"/wallets/me/alerts/{alert['id']}").status_code == 204
    assert [each["id"] for each in rich.get("/wallets/me/alerts")["data"]] == [other["id"]]
    rich.post("/wallets/me/debits", {"amount": 60})
    assert (told(database, alert), told(database, other)) == ([], [(100, 40)])
    assert_problem(rich.call("DELETE", f"/wallets/me/alerts/{alert['id']}"), 404, "not-found")


def test_other_peoples_alerts_are_none_of_ones_business(rich: Client, bob: Client) -> None:
    path = f"/wallets/{rich.wallet()['id']}/alerts"
    alert = rich.post(path, LOW)
    assert_problem(bob.call("GET", path), 404, "not-found")
    assert_problem(bob.call("POST", path, LOW), 404, "not-found")
    assert_problem(bob.call("DELETE", f"{path}/{alert['id']}"), 404, "not-found")
    assert rich.get(path)["data"] == [alert]


def test_there_is_an_end_to_the_alerts_of_a_wallet(rich: Client) -> None:
    answers = at_once(24, lambda _: rich.call("POST", "/wallets/me/alerts", LOW))
    assert sorted(answer.status_code for answer in answers) == [201] * 20 + [409] * 4
    assert_problem(rich.call("POST", "/wallets/me/alerts", LOW), 409, "too-many-alerts")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"direction": "sideways"}, "direction"),
        ({"on": "held"}, "on"),
        ({"threshold": 2**53}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"rearm_margin": -1}, "rearm_margin"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(wrong: dict[str, Any], field: str, rich: Client) -> None:
    problem = assert_problem(rich.call("POST", "/wallets/me/alerts", {**LOW, **wrong}), 422, "validation-failed")
    assert problem["errors"][0]["field"] == field
