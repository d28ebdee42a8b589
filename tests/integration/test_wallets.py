"""What is in a wallet: reads, who may read, histories with their filters and pages, and balances of the past."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pymongo.database import Database

from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.client import Client, assert_problem, unique
from tests.support.ledger import assert_sound

HISTORY = "/wallets/me/transactions"
WALLET_FIELDS = {
    *("id", "owner_id", "asset", "settled", "held", "available", "credit_limit", "status", "version", "metadata", "created_at"),
}
ROW_FIELDS = {
    *("transaction_id", "type", "delta", "seq", "balance_after", "held_after", "counterparty", "reference", "memo", "created_at"),
}


def debit(client: Client, amount: int, **fields: Any) -> dict[str, Any]:
    answer = client.call("POST", "/wallets/me/debits", {"amount": amount, **fields}, key=unique("key"))
    assert answer.status_code == 201, answer.text
    transaction: dict[str, Any] = answer.json()
    return transaction


def pages(client: Client, path: str, limit: int, **filters: str) -> list[list[dict[str, Any]]]:
    """All pages of a list, from the first to the last."""
    found: list[list[dict[str, Any]]] = []
    cursor: str | None = None
    while cursor is not None or not found:
        page = client.get(path, params={"limit": limit, **filters, **({"cursor": cursor} if cursor else {})})
        assert set(page) == {"data", "next_cursor"}
        found.append(page["data"])
        cursor = page["next_cursor"]
    return found


# Reading a wallet


def test_a_new_wallet_is_empty_and_complete(alice: Client) -> None:
    wallet = alice.wallet()
    assert set(wallet) == WALLET_FIELDS
    money = {name: wallet[name] for name in ("settled", "held", "available", "credit_limit", "version")}
    assert money == dict.fromkeys(money, 0)
    assert (wallet["owner_id"], wallet["asset"], wallet["status"], wallet["metadata"]) == (alice.user["id"], "CREDIT", "active", {})
    assert alice.get(HISTORY) == {"data": [], "next_cursor": None}


def test_me_stands_for_the_default_wallet_in_every_path(alice: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    admin.grant(wallet_id, 7)
    for rest in ("", "/transactions", "/grants"):
        assert alice.get(f"/wallets/me{rest}") == alice.get(f"/wallets/{wallet_id}{rest}")
    assert alice.get("/wallets/me/balance")["wallet_id"] == wallet_id
    assert alice.transfer("me", 1).json()["code"] == "same-wallet"


def test_a_wallet_counts_what_was_posted(alice: Client, admin: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    debit(alice, 30)
    wallet = alice.wallet()
    assert (wallet["settled"], wallet["available"], wallet["held"], wallet["version"]) == (70, 70, 0, 2)
    assert alice.call("GET", "/wallets/me").headers["ETag"] == '"2"'


def test_users_see_their_own_wallets_only(alice: Client, bob: Client, admin: Client) -> None:
    own = alice.wallet()
    assert alice.get("/wallets") == {"data": [own], "next_cursor": None}
    for path in (f"/wallets/{own['id']}", *(f"/wallets/{own['id']}/{rest}" for rest in ("balance", "transactions", "grants"))):
        foreign = assert_problem(bob.call("GET", path), 404, "not-found")
        missing = assert_problem(bob.call("GET", path.replace(own["id"], "w_missing")), 404, "not-found")
        assert {**foreign, "request_id": ""} == {**missing, "request_id": ""}
    # Naming someone else as the owner changes nothing for a user.
    assert bob.get(f"/wallets?owner_id={alice.user['id']}") == {"data": [bob.wallet()], "next_cursor": None}


@pytest.mark.parametrize("role", ["admin", "analyst", "service"])
def test_staff_sees_everyones_wallets(alice: Client, admin: Client, role: str) -> None:
    reader = with_role(admin, role)
    own = alice.wallet()
    assert reader.wallet(own["id"]) == own
    assert reader.get("/wallets", params={"owner_id": alice.user["id"]})["data"] == [own]
    assert reader.get(f"/wallets/{own['id']}/transactions")["data"] == []


def test_an_analyst_reads_and_moves_nothing(alice: Client, admin: Client, database: Database[dict[str, Any]]) -> None:
    analyst = with_role(admin, "analyst")
    admin.grant(analyst.wallet()["id"], 10)
    before = database["transactions"].count_documents({})
    assert_problem(analyst.transfer({"username": alice.user["username"]}, 1), 403, "forbidden")
    for path in ("/wallets/me/debits", "/wallets/me/grants"):
        assert_problem(analyst.call("POST", path, {"amount": 1}, key=unique("key")), 403, "forbidden")
    assert database["transactions"].count_documents({}) == before


def test_the_wallet_list_has_pages_and_an_asset_filter(admin: Client, server: AppServer) -> None:
    own = {Client.register(server.url).wallet()["id"] for _ in range(3)}
    found = pages(admin, "/wallets", 4, asset="CREDIT")
    ids = [wallet["id"] for page in found for wallet in page]
    assert all(len(page) == 4 for page in found[:-1])
    assert len(ids) == len(set(ids))
    assert own <= set(ids)
    assert admin.get("/wallets?asset=NOTHING") == {"data": [], "next_cursor": None}


# Histories


@pytest.fixture(scope="module")
def shop(server: AppServer) -> Client:
    """Someone to pay to."""
    return Client.register(server.url)


@pytest.fixture(scope="module")
def customer(server: AppServer, admin: Client, shop: Client) -> Client:
    """A user with a history: two grants, then five times a transfer out, a transfer in and a debit."""
    client = Client.register(server.url)
    wallet_id, shop_id = client.wallet()["id"], shop.wallet()["id"]
    admin.grant(shop_id, 100)
    for number in range(2):
        admin.grant(wallet_id, 100, reason=f"gift {number}", reference=f"gift-{number}")
    for number in range(5):
        assert client.transfer(shop_id, 10 + number, memo=f"out {number}", reference=f"out-{number}").status_code == 201
        assert shop.transfer(wallet_id, 1, memo=f"in {number}", reference=f"in-{number}").status_code == 201
        debit(client, 2, reason=f"spent {number}")
    return client


def rows(client: Client, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(HISTORY, params={"limit": 100, **filters})["data"]
    return found


def test_a_history_is_newest_first_and_each_row_follows_from_the_last(customer: Client) -> None:
    history = rows(customer)
    assert all(set(row) == ROW_FIELDS for row in history)
    assert [row["seq"] for row in history] == list(range(17, 0, -1))
    running = 0
    for row in reversed(history):
        running += row["delta"]
        assert row["balance_after"] == running
    assert running == customer.wallet()["settled"]
    assert [row["created_at"] for row in history] == sorted((row["created_at"] for row in history), reverse=True)


def test_a_history_can_be_filtered_by_type(customer: Client) -> None:
    for kind, count in (("grant", 2), ("transfer", 10), ("debit", 5), ("capture", 0), ("reversal", 0), ("expiry", 0)):
        found = rows(customer, type=kind)
        assert len(found) == count
        assert all(row["type"] == kind for row in found)


def test_a_history_can_be_filtered_by_reference(customer: Client) -> None:
    assert [(row["reference"], row["memo"]) for row in rows(customer, reference="out-3")] == [("out-3", "out 3")]
    # Of the other side's transaction too: the reference is the transaction's.
    assert [(row["delta"], row["memo"]) for row in rows(customer, reference="in-2")] == [(1, "in 2")]
    assert rows(customer, reference="out-") == rows(customer, reference="unknown") == []


def test_a_history_can_be_filtered_by_counterparty(customer: Client, shop: Client) -> None:
    found = rows(customer, counterparty=shop.wallet()["id"])
    assert len(found) == 10
    assert all(row["counterparty"] == shop.wallet()["id"] for row in found)
    systems = {row["counterparty"] for row in rows(customer) if row["type"] in ("grant", "debit")}
    assert systems == {"system:issuance:CREDIT", "system:revenue:CREDIT"}
    assert len(rows(customer, counterparty="system:revenue:CREDIT")) == 5
    assert rows(customer, counterparty="w_unknown") == []


def test_a_history_can_be_bounded_in_time(customer: Client) -> None:
    history = rows(customer)
    middle = history[8]["created_at"]
    later = [row for row in history if row["created_at"] >= middle]
    assert rows(customer, **{"from": middle}) == later
    assert rows(customer, to=middle) == [row for row in history if row["created_at"] < middle]
    assert rows(customer, **{"from": middle, "to": "2100-01-01T00:00:00Z"}) == later
    assert rows(customer, **{"from": "2100-01-01T00:00:00Z"}) == rows(customer, to="2000-01-01T00:00:00Z") == []


def test_times_of_other_zones_mean_the_same_moment(customer: Client) -> None:
    middle = datetime.fromisoformat(rows(customer)[8]["created_at"])
    elsewhere = middle.astimezone(datetime.strptime("+05:30", "%z").tzinfo).isoformat()
    assert rows(customer, to=elsewhere) == rows(customer, to=middle.isoformat())


def test_filters_narrow_together(customer: Client, shop: Client) -> None:
    outgoing = rows(customer, type="transfer", counterparty=shop.wallet()["id"], reference="out-1")
    assert [row["delta"] for row in outgoing] == [-11]
    assert rows(customer, type="grant", reference="out-1") == []


@pytest.mark.parametrize("limit", [1, 2, 5, 16, 17, 18, 100])
def test_the_pages_of_a_history_have_no_gaps_and_no_duplicates(customer: Client, limit: int) -> None:
    found = pages(customer, HISTORY, limit)
    assert all(len(page) == limit for page in found[:-1])
    assert 0 < len(found[-1]) <= limit
    assert [row for page in found for row in page] == rows(customer)


def test_filtered_pages_have_no_gaps_and_no_duplicates(customer: Client) -> None:
    assert [row for page in pages(customer, HISTORY, 3, type="transfer") for row in page] == rows(customer, type="transfer")


def test_what_is_posted_meanwhile_does_not_shift_the_pages(alice: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    for amount in range(1, 7):
        admin.grant(wallet_id, amount)
    first = alice.get(HISTORY, params={"limit": 3})
    admin.grant(wallet_id, 100)
    second = alice.get(HISTORY, params={"limit": 3, "cursor": first["next_cursor"]})
    assert [row["delta"] for row in first["data"] + second["data"]] == [6, 5, 4, 3, 2, 1]
    assert second["next_cursor"] is None


def test_a_page_has_25_rows_unless_asked_otherwise(alice: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    for _ in range(26):
        admin.grant(wallet_id, 1)
    page = alice.get(HISTORY)
    assert len(page["data"]) == 25
    assert page["next_cursor"] is not None
    assert len(alice.get("/wallets/me/grants")["data"]) == 25


# Balances


def test_the_balance_of_now_is_the_wallets(customer: Client) -> None:
    balance, wallet = customer.get("/wallets/me/balance"), customer.wallet()
    assert set(balance) == {"wallet_id", "asset", "settled", "held", "available", "as_of"}
    assert (balance["wallet_id"], balance["asset"]) == (wallet["id"], "CREDIT")
    assert {name: balance[name] for name in ("settled", "held", "available")} == {
        name: wallet[name] for name in ("settled", "held", "available")
    }


def test_a_balance_of_the_past_is_what_the_history_says(customer: Client) -> None:
    history = rows(customer)
    assert customer.get("/wallets/me/balance", params={"at": "2000-01-01T00:00:00Z"})["settled"] == 0
    for row in history:
        at = row["created_at"]
        # Of several entries in one millisecond the last one counts.
        expected = next(entry["balance_after"] for entry in history if entry["created_at"] <= at)
        balance = customer.get("/wallets/me/balance", params={"at": at})
        assert (balance["settled"], balance["as_of"]) == (expected, at)


def test_a_balance_of_the_future_is_refused(customer: Client) -> None:
    problem = assert_problem(customer.call("GET", "/wallets/me/balance?at=2100-01-01T00:00:00Z"), 422, "validation-failed")
    assert [error["field"] for error in problem["errors"]] == ["at"]


def test_the_ledger_is_sound_after_all_this(customer: Client, database: Database[dict[str, Any]]) -> None:
    assert_sound(database)
