"""Holds over HTTP: what is reserved cannot be spent, and is captured, released, adjusted, or gives itself back in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.accounts import with_role
from tests.support.at_once import at_once
from tests.support.client import Client, assert_problem, unique
from tests.support.polling import eventually

pytestmark = pytest.mark.usefixtures("sound_ledger")


@pytest.fixture
def rich(alice: Client, admin: Client) -> Client:
    """Alice with 100 credits."""
    admin.grant(alice.wallet()["id"], 100)
    return alice


def state(client: Client) -> tuple[int, int, int]:
    wallet = client.wallet()
    return wallet["settled"], wallet["held"], wallet["available"]


def test_a_hold_reserves_and_a_capture_pays(rich: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 60, "reason": "a hotel"})
    assert {name: hold[name] for name in ("amount", "captured", "remaining", "status", "reason")} == {
        "amount": 60,
        "captured": 0,
        "remaining": 60,
        "status": "open",
        "reason": "a hotel",
    }
    assert hold["wallet_id"] == rich.wallet()["id"]
    assert state(rich) == (100, 60, 40)
    assert rich.refused("/wallets/me/debits", {"amount": 41}, 402, "insufficient-funds")["available"] == 40
    answer = rich.post(f"/holds/{hold['id']}/capture", {}, 200)
    assert (answer["hold"]["status"], answer["hold"]["captured"], answer["hold"]["remaining"]) == ("captured", 60, 0)
    assert (answer["transaction"]["type"], answer["transaction"]["amount"], answer["transaction"]["destination"]) == (
        "capture",
        60,
        "system:revenue:CREDIT",
    )
    assert [part["amount"] for part in answer["transaction"]["allocations"]] == [60]
    assert state(rich) == (40, 0, 40)
    row = rich.get("/wallets/me/transactions")["data"][0]
    assert (row["type"], row["delta"], row["balance_after"], row["held_after"]) == ("capture", -60, 40, 0)


def test_a_hold_is_captured_in_parts_and_the_last_one_releases_the_rest(rich: Client, bob: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 60})
    path = f"/holds/{hold['id']}"
    first = rich.post(f"{path}/capture", {"amount": 10}, 200)
    assert (first["hold"]["status"], first["hold"]["captured"], first["hold"]["remaining"]) == ("open", 10, 50)
    assert state(rich) == (90, 50, 40)
    assert rich.refused(f"{path}/capture", {"amount": 51}, 422, "capture-exceeds-hold")["errors"][0]["field"] == "amount"
    last = rich.post(f"{path}/capture", {"amount": 20, "final": True, "destination": bob.wallet()["id"]}, 200)
    assert (last["hold"]["status"], last["hold"]["captured"], last["hold"]["remaining"]) == ("captured", 30, 0)
    assert state(rich) == (70, 0, 70)
    assert state(bob) == (20, 0, 20)
    rich.refused(f"{path}/capture", {}, 409, "hold-closed")
    rich.refused(f"{path}/release", {}, 409, "hold-closed")


def test_a_release_gives_everything_back(rich: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 60})
    released = rich.post(f"/holds/{hold['id']}/release", {}, 200)
    assert (released["status"], released["remaining"]) == ("released", 0)
    assert state(rich) == (100, 0, 100)
    assert rich.get(f"/holds/{hold['id']}") == released


def test_a_hold_is_adjusted_up_and_down_and_longer(rich: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 60, "expires_in": 60})
    path = f"/holds/{hold['id']}/adjust"
    assert rich.post(path, {"amount": 90}, 200)["remaining"] == 90
    assert state(rich) == (100, 90, 10)
    assert rich.refused(path, {"amount": 101}, 402, "insufficient-funds")["available"] == 10
    shorter = rich.post(path, {"amount": 5, "expires_in": 3600}, 200)
    assert (shorter["amount"], shorter["expires_at"] > hold["expires_at"]) == (5, True)
    assert state(rich) == (100, 5, 95)
    rich.post(f"/holds/{hold['id']}/capture", {"amount": 3}, 200)
    assert rich.refused(path, {"amount": 3}, 422, "validation-failed")["errors"][0]["field"] == "amount"
    rich.refused(path, {}, 422, "validation-failed")


def test_a_hold_ends_by_the_clock(rich: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 60, "expires_in": 3})
    assert state(rich) == (100, 60, 40)
    eventually(lambda: rich.get(f"/holds/{hold['id']}")["status"] == "expired", 15)
    assert state(rich) == (100, 0, 100)
    rich.refused(f"/holds/{hold['id']}/capture", {}, 409, "hold-expired")
    assert [other["id"] for other in rich.get("/holds?status=expired")["data"]] == [hold["id"]]
    rich.post("/wallets/me/debits", {"amount": 100})
    assert rich.get("/wallets/me/transactions")["data"][0]["held_after"] == 0


def test_holds_are_listed_by_status(rich: Client, bob: Client) -> None:
    first, second, third = (rich.post("/wallets/me/holds", {"amount": 10}) for _ in range(3))
    rich.post(f"/holds/{first['id']}/release", {}, 200)
    rich.post(f"/holds/{second['id']}/capture", {}, 200)
    listed = {status: [hold["id"] for hold in rich.get(f"/holds?status={status}")["data"]] for status in ("open", "released", "captured")}
    assert listed == {"open": [third["id"]], "released": [first["id"]], "captured": [second["id"]]}
    page = rich.get("/holds?limit=2")
    assert [hold["id"] for hold in page["data"]] == [third["id"], second["id"]]
    assert [hold["id"] for hold in rich.get(f"/holds?limit=2&cursor={page['next_cursor']}")["data"]] == [first["id"]]
    assert bob.get("/holds")["data"] == []


def test_somebody_elses_hold_looks_like_none(rich: Client, bob: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 10})
    for path in (f"/holds/{hold['id']}", "/holds/h_nothing"):
        assert_problem(bob.call("GET", path), 404, "not-found")
        for verb in ("capture", "release"):
            bob.refused(f"{path}/{verb}", {}, 404, "not-found")
    bob.refused(f"/wallets/{rich.wallet()['id']}/holds", {"amount": 1}, 404, "not-found")


def test_the_owner_cannot_end_what_a_shop_has_reserved(rich: Client, admin: Client) -> None:
    shop = with_role(admin, "service")
    hold = shop.post(f"/wallets/{rich.wallet()['id']}/holds", {"amount": 30})
    assert rich.get(f"/holds/{hold['id']}")["status"] == "open"
    for verb, body in (("release", {}), ("capture", {}), ("adjust", {"amount": 1})):
        rich.refused(f"/holds/{hold['id']}/{verb}", body, 403, "hold-not-yours")
    assert shop.post(f"/holds/{hold['id']}/capture", {}, 200)["transaction"]["amount"] == 30


@pytest.mark.parametrize("body", [{"amount": 0}, {"amount": 1, "expires_in": 0}, {"amount": 1, "expires_in": 604_801}, {"amount": "1"}])
def test_a_hold_has_bounds(rich: Client, body: dict[str, Any]) -> None:
    response = rich.call("POST", "/wallets/me/holds", body, key=unique("key"))
    assert response.status_code == 422
    assert state(rich) == (100, 0, 100)


def test_each_verb_on_a_hold_is_safe_to_repeat(rich: Client) -> None:
    key = unique("key")
    holds = [rich.post("/wallets/me/holds", {"amount": 50}, key=key) for _ in range(2)]
    assert holds[0] == holds[1]
    assert state(rich) == (100, 50, 50)
    captures = [rich.post(f"/holds/{holds[0]['id']}/capture", {"amount": 20}, 200, key=key) for _ in range(2)]
    assert captures[0] == captures[1]
    assert state(rich) == (80, 30, 50)


def test_a_dry_run_of_a_hold_reserves_nothing(rich: Client) -> None:
    assert rich.post("/wallets/me/holds?dry_run=true", {"amount": 50}, 200)["status"] == "open"
    assert state(rich) == (100, 0, 100)
    assert rich.get("/holds")["data"] == []


def test_captures_that_meet_take_no_more_than_there_is(rich: Client) -> None:
    hold = rich.post("/wallets/me/holds", {"amount": 50})
    path = f"/holds/{hold['id']}/capture"
    answers = at_once(5, lambda _: rich.call("POST", path, {"amount": 20}, key=unique("key")).status_code)
    assert sorted(answers) == [200, 200, 422, 422, 422]
    assert state(rich) == (60, 10, 50)


def test_what_was_held_in_the_past_is_known(rich: Client) -> None:
    moments = [datetime.now(UTC)]
    hold = rich.post("/wallets/me/holds", {"amount": 60})
    moments.append(datetime.now(UTC))
    rich.post(f"/holds/{hold['id']}/capture", {"amount": 20}, 200)
    moments.append(datetime.now(UTC))
    rich.post(f"/holds/{hold['id']}/release", {}, 200)
    moments.append(datetime.now(UTC) - timedelta(milliseconds=1))
    found = [rich.get("/wallets/me/balance", params={"at": at.isoformat()}) for at in moments]
    assert [(row["settled"], row["held"]) for row in found] == [(100, 0), (100, 60), (80, 40), (80, 0)]
