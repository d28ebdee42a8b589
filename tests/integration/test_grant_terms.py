"""Grants with terms over HTTP: when they take effect, when they expire, how they are voided, and which one pays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.client import Client, unique
from tests.support.polling import eventually

pytestmark = pytest.mark.usefixtures("sound_ledger")


@pytest.fixture
def wallet_id(alice: Client) -> str:
    return str(alice.wallet()["id"])


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def state(client: Client) -> tuple[int, int, int]:
    wallet = client.wallet()
    return wallet["settled"], wallet["held"], wallet["available"]


def grants(client: Client) -> dict[str, tuple[int, str]]:
    """`{id: (remaining, status)}`."""
    return {grant["id"]: (grant["remaining"], grant["status"]) for grant in client.get("/wallets/me/grants")["data"]}


def test_a_grant_takes_effect_when_it_was_meant_to(admin: Client, alice: Client, wallet_id: str) -> None:
    answer = admin.grant(wallet_id, 50, effective_at=in_seconds(3), reason="a gift", reference="gift-1")
    assert (answer["grant"]["status"], answer["grant"]["remaining"], answer["transaction"]) == ("pending", 50, None)
    assert state(alice) == (0, 0, 0)
    alice.refused("/wallets/me/debits", {"amount": 1}, 402, "insufficient-funds")
    eventually(lambda: state(alice) == (50, 0, 50), 15)
    assert grants(alice) == {answer["grant"]["id"]: (50, "active")}
    spent = alice.post("/wallets/me/debits", {"amount": 20})
    assert spent["allocations"] == [{"grant_id": answer["grant"]["id"], "amount": 20}]
    rows = alice.get("/wallets/me/transactions")["data"]
    assert [(row["type"], row["delta"], row["memo"], row["reference"]) for row in rows] == [
        ("debit", -20, None, None),
        ("grant", 50, "a gift", "gift-1"),
    ]
    assert rows[1]["created_at"][:22] == answer["grant"]["effective_at"][:22]


def test_a_reference_of_a_grant_to_come_is_used_up(admin: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 5, effective_at=in_seconds(600), reference="once")
    admin.refused(f"/wallets/{wallet_id}/grants", {"amount": 5, "reference": "once"}, 409, "duplicate-reference")


def test_a_grant_expires_and_what_is_left_goes_to_breakage(admin: Client, alice: Client, wallet_id: str) -> None:
    lasting = admin.grant(wallet_id, 10)["grant"]["id"]
    fleeting = admin.grant(wallet_id, 50, expires_at=in_seconds(3))["grant"]["id"]
    assert alice.post("/wallets/me/debits", {"amount": 20})["allocations"] == [{"grant_id": fleeting, "amount": 20}]
    assert state(alice) == (40, 0, 40)
    eventually(lambda: state(alice) == (10, 0, 10), 15)
    assert grants(alice) == {fleeting: (0, "expired"), lasting: (10, "active")}
    alice.refused("/wallets/me/debits", {"amount": 11}, 402, "insufficient-funds")
    alice.post("/wallets/me/debits", {"amount": 10})
    rows = alice.get("/wallets/me/transactions")["data"]
    assert [(row["type"], row["delta"], row["counterparty"]) for row in rows[:2]] == [
        ("debit", -10, "system:revenue:CREDIT"),
        ("expiry", -30, "system:breakage:CREDIT"),
    ]
    assert [row["seq"] for row in rows] == [5, 4, 3, 2, 1]


def test_what_a_hold_counts_on_does_not_expire_before_the_hold_ends(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 50, expires_at=in_seconds(3))
    kept, given_back = (alice.post("/wallets/me/holds", {"amount": 20}) for _ in range(2))
    eventually(lambda: state(alice) == (40, 40, 0), 15)
    assert alice.post(f"/holds/{kept['id']}/capture", {}, 200)["transaction"]["amount"] == 20
    alice.post(f"/holds/{given_back['id']}/release", {}, 200)
    eventually(lambda: state(alice) == (0, 0, 0), 15)


@pytest.mark.parametrize(
    "terms", [{"expires_at": in_seconds(-1)}, {"effective_at": in_seconds(100), "expires_at": in_seconds(50)}, {"expires_at": "soon"}]
)
def test_a_grant_ends_after_it_begins(admin: Client, wallet_id: str, terms: dict[str, str]) -> None:
    problem = admin.refused(f"/wallets/{wallet_id}/grants", {"amount": 1, **terms}, 422, "validation-failed")
    assert problem["errors"][0]["field"] == "expires_at"


def test_a_grant_is_voided_with_what_is_left_of_it(admin: Client, alice: Client, wallet_id: str) -> None:
    grant_id = admin.grant(wallet_id, 50)["grant"]["id"]
    alice.post("/wallets/me/debits", {"amount": 20})
    path = f"/wallets/{wallet_id}/grants/{grant_id}/void"
    answer = admin.post(path, {}, 200)
    assert (answer["grant"]["status"], answer["grant"]["remaining"]) == ("voided", 0)
    assert (answer["transaction"]["amount"], answer["transaction"]["destination"]) == (30, "system:issuance:CREDIT")
    assert state(alice) == (0, 0, 0)
    assert grants(alice) == {grant_id: (0, "voided")}
    admin.refused(path, {}, 409, "grant-ended")
    admin.refused(f"/wallets/{wallet_id}/grants/g_none/void", {}, 404, "not-found")
    assert alice.call("POST", path, {}, key=unique("key")).status_code == 403


def test_a_grant_to_come_is_voided_without_a_transaction(admin: Client, alice: Client, wallet_id: str) -> None:
    grant_id = admin.grant(wallet_id, 50, effective_at=in_seconds(600))["grant"]["id"]
    answer = admin.post(f"/wallets/{wallet_id}/grants/{grant_id}/void", {}, 200)
    assert (answer["grant"]["status"], answer["transaction"]) == ("voided", None)
    assert grants(alice) == {grant_id: (0, "voided")}


def test_what_is_held_of_a_grant_cannot_be_voided(admin: Client, alice: Client, wallet_id: str) -> None:
    grant_id = admin.grant(wallet_id, 50)["grant"]["id"]
    alice.post("/wallets/me/holds", {"amount": 20})
    admin.refused(f"/wallets/{wallet_id}/grants/{grant_id}/void", {}, 402, "insufficient-funds")
    assert state(alice) == (50, 20, 30)


def test_a_balance_in_the_past_knows_what_the_clock_did(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 50, expires_at=in_seconds(3))
    before = datetime.now(UTC).isoformat()
    eventually(lambda: state(alice) == (0, 0, 0), 15)
    assert alice.get("/wallets/me/balance", params={"at": before})["settled"] == 50
    assert alice.get("/wallets/me/balance", params={"at": datetime.now(UTC).isoformat()})["settled"] == 0
