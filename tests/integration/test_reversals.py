"""Reversals over HTTP: all or a part of a transaction goes back, to the grants that had paid, and never twice."""

from __future__ import annotations

import pytest

from tests.support.at_once import at_once
from tests.support.client import Client, unique

pytestmark = pytest.mark.usefixtures("sound_ledger")


@pytest.fixture
def wallet_id(alice: Client) -> str:
    return str(alice.wallet()["id"])


def remaining(client: Client) -> dict[str, int]:
    return {grant["id"]: grant["remaining"] for grant in client.get("/wallets/me/grants")["data"]}


def test_a_debit_goes_back_in_parts_to_the_grants_that_paid(admin: Client, alice: Client, wallet_id: str) -> None:
    first = admin.grant(wallet_id, 30, priority=1)["grant"]["id"]
    second = admin.grant(wallet_id, 30, priority=2)["grant"]["id"]
    debit = alice.post("/wallets/me/debits", {"amount": 50})
    assert remaining(alice) == {first: 0, second: 10}
    path = f"/transactions/{debit['id']}/reversals"
    part = admin.post(path, {"amount": 25, "reason": "half"})
    assert (part["type"], part["amount"], part["reverses"], part["memo"]) == ("reversal", 25, debit["id"], "half")
    assert (part["source"], part["destination"]) == ("system:revenue:CREDIT", wallet_id)
    assert remaining(alice) == {first: 5, second: 30}
    assert alice.get(f"/transactions/{debit['id']}")["reversed_amount"] == 25
    assert admin.refused(path, {"amount": 26}, 422, "reversal-exceeds-original")["errors"][0]["field"] == "amount"
    assert admin.post(path)["amount"] == 25
    assert remaining(alice) == {first: 30, second: 30}
    admin.refused(path, {}, 409, "already-reversed")
    assert alice.wallet()["settled"] == 60


def test_funds_without_a_grant_go_back_as_such(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    admin.grant(bob.wallet()["id"], 100)
    bob.transfer(wallet_id, 40)
    grant_id = admin.grant(wallet_id, 10)["grant"]["id"]
    debit = alice.post("/wallets/me/debits", {"amount": 30})
    admin.post(f"/transactions/{debit['id']}/reversals", {"amount": 25})
    assert remaining(alice) == {grant_id: 5}
    assert alice.wallet()["settled"] == 45


def test_the_receiver_of_a_transfer_refunds_it(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    grant_id = admin.grant(wallet_id, 100)["grant"]["id"]
    transfer = alice.transfer(bob.wallet()["id"], 40).json()
    path = f"/transactions/{transfer['id']}/reversals"
    assert alice.call("POST", path, {}, key=unique("key")).status_code == 403
    assert bob.post(path, {"amount": 15})["destination"] == wallet_id
    assert (alice.wallet()["settled"], bob.wallet()["settled"], remaining(alice)) == (75, 25, {grant_id: 75})
    bob.post("/wallets/me/debits", {"amount": 20})
    assert bob.refused(path, {}, 402, "insufficient-funds")["available"] == 5


def test_strangers_do_not_learn_of_a_transaction(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    granted = admin.grant(wallet_id, 10)["transaction"]["id"]
    for transaction_id in (granted, "tx_none"):
        bob.refused(f"/transactions/{transaction_id}/reversals", {}, 404, "not-found")
    assert alice.call("POST", f"/transactions/{granted}/reversals", {}, key=unique("key")).status_code == 403


def test_a_grant_is_taken_back_as_far_as_it_was_not_used(admin: Client, alice: Client, wallet_id: str) -> None:
    granted = admin.grant(wallet_id, 50)
    admin.grant(wallet_id, 50, priority=99)
    alice.post("/wallets/me/debits", {"amount": 20})
    path = f"/transactions/{granted['transaction']['id']}/reversals"
    assert admin.refused(path, {}, 402, "insufficient-funds")["available"] == 30
    assert admin.post(path, {"amount": 30})["destination"] == "system:issuance:CREDIT"
    assert remaining(alice)[granted["grant"]["id"]] == 0
    assert alice.wallet()["settled"] == 50


def test_a_reversal_is_not_reversed(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 50)
    debit = alice.post("/wallets/me/debits", {"amount": 20})
    back = admin.post(f"/transactions/{debit['id']}/reversals")
    admin.refused(f"/transactions/{back['id']}/reversals", {}, 409, "not-reversible")


def test_a_capture_is_reversed_like_a_debit(admin: Client, alice: Client, bob: Client, wallet_id: str) -> None:
    grant_id = admin.grant(wallet_id, 50)["grant"]["id"]
    hold = alice.post("/wallets/me/holds", {"amount": 20})
    captured = alice.post(f"/holds/{hold['id']}/capture", {"destination": bob.wallet()["id"]}, 200)["transaction"]
    admin.post(f"/transactions/{captured['id']}/reversals")
    assert (alice.wallet()["settled"], bob.wallet()["settled"], remaining(alice)) == (50, 0, {grant_id: 50})


def test_reversals_that_meet_give_back_no_more_than_was_taken(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 50)
    debit = alice.post("/wallets/me/debits", {"amount": 50})
    path = f"/transactions/{debit['id']}/reversals"
    answers = at_once(6, lambda _: admin.call("POST", path, {"amount": 20}, key=unique("key")).status_code)
    assert sorted(answers) == [201, 201, 422, 422, 422, 422]
    assert alice.wallet()["settled"] == 40


def test_a_reversal_is_safe_to_repeat(admin: Client, alice: Client, wallet_id: str) -> None:
    admin.grant(wallet_id, 50)
    debit = alice.post("/wallets/me/debits", {"amount": 50})
    key = unique("key")
    answers = [admin.post(f"/transactions/{debit['id']}/reversals", {"amount": 20}, key=key) for _ in range(2)]
    assert answers[0] == answers[1]
    assert alice.wallet()["settled"] == 20
