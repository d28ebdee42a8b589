"""Batches over HTTP: many verbs in one request, all or none, or each by itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.client import Client, assert_problem, unique

pytestmark = pytest.mark.usefixtures("sound_ledger")


@pytest.fixture
def wallet_id(alice: Client) -> str:
    return str(alice.wallet()["id"])


def send(client: Client, items: list[dict[str, Any]], *, atomic: bool, query: str = "", key: str | None = None) -> Any:
    return client.call("POST", f"/batches{query}", {"atomic": atomic, "items": items}, key=key or unique("key"))


def test_every_verb_has_its_place_in_a_batch(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 500)
    holds = [admin.post(f"/wallets/{wallet_id}/holds", {"amount": 10}) for _ in range(3)]
    debit = alice.post("/wallets/me/debits", {"amount": 30})
    items = [
        {"op": "grant", "wallet_id": wallet_id, "amount": 5, "client_ref": "one"},
        {"op": "debit", "wallet_id": wallet_id, "amount": 6},
        {"op": "transfer", "source": wallet_id, "destination": {"username": bob.user["username"]}, "amount": 7},
        {"op": "hold", "wallet_id": wallet_id, "amount": 8},
        {"op": "capture", "hold_id": holds[0]["id"], "amount": 9},
        {"op": "release", "hold_id": holds[1]["id"]},
        {"op": "adjust", "hold_id": holds[2]["id"], "amount": 12},
        {"op": "reversal", "transaction_id": debit["id"], "amount": 13},
    ]
    response = send(admin, items, atomic=True)
    assert response.status_code == 200, response.text
    rows = response.json()["results"]
    assert [(row["index"], row["status"]) for row in rows] == [
        (0, 201),
        (1, 201),
        (2, 201),
        (3, 201),
        (4, 200),
        (5, 200),
        (6, 200),
        (7, 201),
    ]
    assert [sorted(set(row) - {"index", "client_ref", "status"}) for row in rows] == [
        ["grant", "transaction"],
        ["transaction"],
        ["transaction"],
        ["hold"],
        ["hold", "transaction"],
        ["hold"],
        ["hold"],
        ["transaction"],
    ]
    assert (rows[0]["client_ref"], rows[1]["client_ref"]) == ("one", None)
    wallet = alice.wallet()
    assert (wallet["settled"], wallet["held"]) == (470 + 5 - 6 - 7 - 9 + 13, 8 + 1 + 12)
    assert bob.wallet()["settled"] == 7


def test_an_atomic_batch_is_all_or_nothing(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 100)
    before = alice.wallet()
    items = [
        {"op": "transfer", "destination": bob.wallet()["id"], "amount": 40, "reference": "r"},
        {"op": "hold", "wallet_id": "me", "amount": 10},
        {"op": "transfer", "destination": bob.wallet()["id"], "amount": 51},
        {"op": "debit", "wallet_id": "me", "amount": 1},
    ]
    problem = assert_problem(send(alice, items, atomic=True), 422, "batch-failed")
    assert (problem["failed_index"], problem["error"]["code"], problem["error"]["available"]) == (2, "insufficient-funds", 50)
    assert (alice.wallet(), bob.wallet()["settled"], alice.get("/holds")["data"]) == (before, 0, [])
    # Its reference was not used up either.
    items[2]["amount"] = 49
    assert send(alice, items, atomic=True).status_code == 200
    assert (alice.wallet()["settled"], alice.wallet()["available"], bob.wallet()["settled"]) == (10, 0, 89)


def test_otherwise_each_item_stands_by_itself(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 100)
    items = [
        {"op": "debit", "wallet_id": "me", "amount": 60},
        {"op": "debit", "wallet_id": "me", "amount": 60},
        {"op": "grant", "wallet_id": "me", "amount": 1},
        {"op": "debit", "wallet_id": bob.wallet()["id"], "amount": 1},
        {"op": "debit", "wallet_id": "me", "amount": 40},
    ]
    rows = send(alice, items, atomic=False).json()["results"]
    assert [(row["status"], row.get("error", {}).get("code")) for row in rows] == [
        (201, None),
        (402, "insufficient-funds"),
        (403, "forbidden"),
        (404, "not-found"),
        (201, None),
    ]
    assert alice.wallet()["settled"] == 0


def test_a_batch_is_safe_to_repeat(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 100)
    key, items = unique("key"), [{"op": "debit", "wallet_id": "me", "amount": 30}, {"op": "debit", "wallet_id": "me", "amount": 90}]
    first, again = (send(alice, items, atomic=False, key=key) for _ in range(2))
    assert (first.json(), "Idempotency-Replayed" in first.headers) == (again.json(), False)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert alice.wallet()["settled"] == 70
    assert_problem(send(alice, items[:1], atomic=False, key=key), 422, "idempotency-key-reused")


def test_a_dry_run_of_a_batch_keeps_nothing(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 100)
    items = [{"op": "debit", "wallet_id": "me", "amount": 60}, {"op": "debit", "wallet_id": "me", "amount": 60}]
    rows = send(alice, items, atomic=False, query="?dry_run=true").json()["results"]
    assert [row["status"] for row in rows] == [201, 402]
    assert_problem(send(alice, items, atomic=True, query="?dry_run=true"), 422, "batch-failed")
    assert alice.wallet()["settled"] == 100


def test_a_thousand_items_are_one_commit_and_more_are_refused(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 1000)
    item = {"op": "transfer", "destination": bob.wallet()["id"], "amount": 1}
    response = send(alice, [item] * 1000, atomic=True)
    assert response.status_code == 200, response.text
    assert [row["status"] for row in response.json()["results"]] == [201] * 1000
    assert (alice.wallet()["settled"], bob.wallet()["settled"], bob.wallet()["version"]) == (0, 1000, 1)
    assert_problem(send(alice, [item] * 1001, atomic=True), 413, "batch-too-large")


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        ([{"op": "debit", "wallet_id": "me", "amount": 1}, {"op": "debit", "wallet_id": "me", "amount": 0}], "items.1.amount"),
        ([{"op": "mint", "amount": 1}], "items.0"),
        ([{"op": "capture"}], "items.0.hold_id"),
        ([{"op": "debit", "wallet_id": "me", "amount": 1, "more": 1}], "items.0.more"),
    ],
)
def test_a_bad_item_is_named(alice: Client, items: list[dict[str, Any]], field: str) -> None:
    problem = assert_problem(send(alice, items, atomic=False), 422, "validation-failed")
    assert problem["errors"][0]["field"] == field
