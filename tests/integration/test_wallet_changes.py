"""Opening and changing wallets over HTTP: several assets, credit limits, frozen and closed ones, and who may do what."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.database import Database

from tests.support.accounts import with_role
from tests.support.client import Client, assert_problem

pytestmark = pytest.mark.usefixtures("sound_ledger")


def patch(client: Client, wallet_id: str, body: dict[str, Any], version: int | None = None) -> Any:
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    return client.call("PATCH", f"/wallets/{wallet_id}", body, headers=headers)


def test_a_user_opens_one_wallet_of_each_asset(alice: Client, bob: Client, admin: Client) -> None:
    response = alice.call("POST", "/wallets", {"asset": "GEMS", "metadata": {"shelf": 1}})
    assert response.status_code == 201, response.text
    gems = response.json()
    assert (gems["asset"], gems["settled"], gems["owner_id"], gems["metadata"]) == ("GEMS", 0, alice.user["id"], {"shelf": 1})
    assert response.headers["ETag"] == '"0"'
    problem = assert_problem(alice.call("POST", "/wallets", {"asset": "GEMS"}), 409, "wallet-exists")
    assert problem["wallet_id"] == gems["id"]
    assert_problem(alice.call("POST", "/wallets", {}), 409, "wallet-exists")
    assert {wallet["asset"] for wallet in alice.get("/wallets")["data"]} == {"CREDIT", "GEMS"}
    admin.grant(gems["id"], 5)
    assert_problem(alice.transfer(bob.wallet()["id"], 1, source=gems["id"]), 422, "asset-mismatch")


def test_others_and_credit_are_for_the_privileged(alice: Client, bob: Client, admin: Client) -> None:
    for body in ({"asset": "GEMS", "owner_id": bob.user["id"]}, {"asset": "GEMS", "credit_limit": 1}):
        assert_problem(alice.call("POST", "/wallets", body), 403, "forbidden")
    shop = with_role(admin, "service")
    opened = shop.call("POST", "/wallets", {"asset": "GEMS", "owner_id": bob.user["id"], "credit_limit": 10})
    assert (opened.status_code, opened.json()["owner_id"], opened.json()["available"]) == (201, bob.user["id"], 10)
    missing = assert_problem(shop.call("POST", "/wallets", {"asset": "GEMS", "owner_id": "u_none"}), 422, "validation-failed")
    assert missing["errors"][0]["field"] == "owner_id"


@pytest.mark.parametrize(
    "body", [{"asset": "gems"}, {"asset": ""}, {"asset": "A" * 17}, {"asset": "A:B"}, {"credit_limit": -1}, {"settled": 5}]
)
def test_a_wallet_has_rules(admin: Client, body: dict[str, Any]) -> None:
    assert admin.call("POST", "/wallets", body).status_code == 422


def test_a_credit_limit_counts_holds_and_changes_at_run_time(alice: Client, bob: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    assert patch(admin, wallet_id, {"credit_limit": 100}).json()["available"] == 100
    alice.post("/wallets/me/holds", {"amount": 30})
    alice.transfer(bob.wallet()["id"], 50)
    assert (alice.wallet()["settled"], alice.wallet()["available"]) == (-50, 20)
    alice.refused("/wallets/me/debits", {"amount": 21}, 402, "insufficient-funds")
    problem = assert_problem(patch(admin, wallet_id, {"credit_limit": 79}), 422, "credit-limit-in-use")
    assert problem["errors"][0]["field"] == "credit_limit"
    assert patch(admin, wallet_id, {"credit_limit": 80}).json()["available"] == 0
    alice.refused("/wallets/me/debits", {"amount": 1}, 402, "insufficient-funds")


def test_a_grant_to_an_overdrawn_wallet_pays_its_debt_first(alice: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    patch(admin, wallet_id, {"credit_limit": 100})
    alice.post("/wallets/me/debits", {"amount": 70})
    granted = admin.grant(wallet_id, 100)
    assert granted["grant"]["remaining"] == 30
    assert (alice.wallet()["settled"], alice.wallet()["available"]) == (30, 130)


def test_a_change_needs_the_version_that_was_read(alice: Client, admin: Client) -> None:
    wallet = alice.wallet()
    changed = patch(alice, "me", {"metadata": {"colour": "red"}}, wallet["version"])
    assert (changed.status_code, changed.json()["metadata"], changed.json()["version"]) == (200, {"colour": "red"}, wallet["version"] + 1)
    problem = assert_problem(patch(alice, "me", {"metadata": {}}, wallet["version"]), 412, "version-conflict")
    assert problem["version"] == wallet["version"] + 1
    assert patch(alice, "me", {"metadata": {}}).status_code == 200
    assert_problem(alice.call("PATCH", "/wallets/me", {}, headers={"If-Match": "soon"}), 400, "if-match-invalid")


def test_owners_change_metadata_and_the_privileged_the_rest(alice: Client, bob: Client, admin: Client) -> None:
    for body in ({"status": "closed"}, {"credit_limit": 5}):
        assert_problem(patch(alice, "me", body), 403, "forbidden")
    assert_problem(patch(bob, alice.wallet()["id"], {"metadata": {}}), 404, "not-found")
    assert_problem(patch(admin, "w_none", {"status": "frozen"}), 404, "not-found")


def test_a_frozen_wallet_neither_pays_nor_receives_but_lets_holds_go(alice: Client, bob: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    admin.grant(wallet_id, 50)
    hold = alice.post("/wallets/me/holds", {"amount": 10})
    assert patch(admin, wallet_id, {"status": "frozen"}).json()["status"] == "frozen"
    alice.refused("/wallets/me/debits", {"amount": 1}, 403, "wallet-frozen")
    alice.refused("/wallets/me/holds", {"amount": 1}, 403, "wallet-frozen")
    alice.refused(f"/holds/{hold['id']}/capture", {}, 403, "wallet-frozen")
    bob.refused("/transfers", {"destination": wallet_id, "amount": 1}, 403, "wallet-frozen")
    alice.post(f"/holds/{hold['id']}/release", {}, 200)
    assert patch(admin, wallet_id, {"status": "active"}).status_code == 200
    alice.post("/wallets/me/debits", {"amount": 50})


def test_only_an_empty_wallet_is_closed(alice: Client, admin: Client) -> None:
    wallet_id = alice.wallet()["id"]
    admin.grant(wallet_id, 5)
    assert_problem(patch(admin, wallet_id, {"status": "closed"}), 409, "wallet-not-empty")
    alice.post("/wallets/me/debits", {"amount": 5})
    assert patch(admin, wallet_id, {"status": "closed"}).json()["status"] == "closed"
    admin.refused(f"/wallets/{wallet_id}/grants", {"amount": 1}, 403, "wallet-closed")


def test_a_change_of_status_is_told_once_with_the_wallet_as_it_is_then(
    alice: Client, admin: Client, database: Database[dict[str, Any]]
) -> None:
    wallet_id = alice.wallet()["id"]
    for body in ({"status": "frozen"}, {"status": "frozen"}, {"metadata": {"shelf": 2}}, {"status": "active"}, {"status": "closed"}):
        assert patch(admin, wallet_id, body).status_code == 200
    rows = database["outbox"].find({"events.id": wallet_id}).sort("_id", 1)
    told = [event for row in rows for event in row["events"]]
    assert [event["type"] for event in told] == ["wallet.frozen", "wallet.activated", "wallet.closed"]
    assert told[-1]["data"]["wallet"] == alice.wallet()


def test_the_wallets_of_who_is_erased_are_told_as_frozen(alice: Client, admin: Client, database: Database[dict[str, Any]]) -> None:
    wallet_ids = {alice.wallet()["id"], alice.post("/wallets", {"asset": "GEMS"})["id"]}
    assert admin.call("DELETE", f"/users/{alice.user['id']}").status_code == 204
    told = database["outbox"].find_one({"events.id": {"$in": list(wallet_ids)}})
    assert told is not None
    assert {(event["type"], event["id"]) for event in told["events"]} == {("wallet.frozen", each) for each in wallet_ids}
