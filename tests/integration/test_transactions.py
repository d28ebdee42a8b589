"""The money verbs over HTTP: grants, debits, transfers, dry runs, idempotency, and what holds when callers race."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
from pymongo.database import Database

from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.at_once import at_once
from tests.support.client import Client, assert_problem, unique

pytestmark = pytest.mark.usefixtures("sound_ledger")

TRANSACTION_FIELDS = {
    *("id", "type", "asset", "amount", "source", "destination", "entries", "reference", "memo", "metadata"),
    *("reverses", "reversed_amount", "created_at"),
}
GRANT_FIELDS = {
    *("id", "wallet_id", "amount", "remaining", "category", "priority", "effective_at", "expires_at", "status"),
}


def post(client: Client, path: str, body: dict[str, Any], key: str | None = None, **options: Any) -> requests.Response:
    return client.call("POST", path, body, key=key or unique("key"), **options)


def debit(client: Client, amount: int, wallet_id: str = "me", **fields: Any) -> requests.Response:
    return post(client, f"/wallets/{wallet_id}/debits", {"amount": amount, **fields})


@pytest.fixture
def rich(alice: Client, admin: Client) -> Client:
    """Alice with 100 credits."""
    admin.grant(alice.wallet()["id"], 100)
    return alice


def assert_nothing_moved(client: Client, settled: int, rows: int = 1) -> None:
    assert client.wallet()["settled"] == settled
    assert len(client.get("/wallets/me/transactions")["data"]) == rows


# Grants


def test_a_grant_answers_with_the_grant_and_its_transaction(admin: Client, alice: Client) -> None:
    wallet_id = alice.wallet()["id"]
    body = {
        "amount": 40,
        "category": "promotional",
        "priority": 10,
        "reason": "welcome",
        "reference": "g-1",
        "metadata": {"campaign": "may", "n": 1},
    }
    answer = post(admin, f"/wallets/{wallet_id}/grants", body)
    assert answer.status_code == 201
    assert set(answer.json()) == {"grant", "transaction"}
    grant, transaction = answer.json()["grant"], answer.json()["transaction"]
    assert set(grant) == GRANT_FIELDS
    shown = {name: grant[name] for name in ("wallet_id", "amount", "remaining", "category", "priority", "expires_at", "status")}
    assert shown == {
        **{"wallet_id": wallet_id, "amount": 40, "remaining": 40, "category": "promotional", "priority": 10},
        **{"expires_at": None, "status": "active"},
    }
    assert set(transaction) == TRANSACTION_FIELDS
    assert (transaction["type"], transaction["asset"], transaction["amount"]) == ("grant", "CREDIT", 40)
    assert (transaction["source"], transaction["destination"]) == ("system:issuance:CREDIT", wallet_id)
    assert (transaction["reference"], transaction["memo"], transaction["metadata"]) == ("g-1", "welcome", body["metadata"])
    assert (transaction["reverses"], transaction["reversed_amount"]) == (None, 0)
    assert [entry["delta"] for entry in transaction["entries"]] == [-40, 40]
    # Its owner can look it up.
    assert alice.get(f"/transactions/{transaction['id']}")["entries"][1] == transaction["entries"][1]


def test_only_admins_and_services_grant(admin: Client, alice: Client) -> None:
    wallet_id = alice.wallet()["id"]
    assert post(with_role(admin, "service"), f"/wallets/{wallet_id}/grants", {"amount": 5}).status_code == 201
    for path in ("/wallets/me/grants", f"/wallets/{wallet_id}/grants"):
        assert_problem(post(alice, path, {"amount": 5}), 403, "forbidden")
    assert_nothing_moved(alice, 5)


def test_grants_are_listed_with_what_is_left(admin: Client, alice: Client) -> None:
    wallet_id = alice.wallet()["id"]
    made = [admin.grant(wallet_id, amount, priority=priority)["grant"]["id"] for amount, priority in ((10, 1), (20, 2), (30, 3))]
    assert debit(alice, 25).status_code == 201
    listed = {grant["id"]: grant for grant in alice.get("/wallets/me/grants")["data"]}
    assert all(set(grant) == GRANT_FIELDS for grant in listed.values())
    assert [(listed[g]["amount"], listed[g]["remaining"], listed[g]["status"]) for g in made] == [
        (10, 0, "spent"),
        (20, 5, "active"),
        (30, 30, "active"),
    ]


def test_the_grant_list_has_pages(admin: Client, alice: Client) -> None:
    made = {admin.grant(alice.wallet()["id"], 1)["grant"]["id"] for _ in range(5)}
    seen: list[str] = []
    cursor = None
    while cursor is not None or not seen:
        page = alice.get("/wallets/me/grants", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [grant["id"] for grant in page["data"]]
        cursor = page["next_cursor"]
    assert len(seen) == 5
    assert set(seen) == made


def test_grants_pay_by_priority_then_promotional_first_then_by_age(admin: Client, alice: Client) -> None:
    wallet_id = alice.wallet()["id"]
    terms: list[tuple[str, dict[str, Any]]] = [
        ("last", {"priority": 90}),
        ("older paid", {"priority": 50, "category": "paid"}),
        ("newer paid", {"priority": 50, "category": "paid"}),
        ("older promotional", {"priority": 50, "category": "promotional"}),
        ("newer promotional", {"priority": 50, "category": "promotional"}),
        ("first", {"priority": 0}),
    ]
    names = {admin.grant(wallet_id, 10, **fields)["grant"]["id"]: name for name, fields in terms}
    answer = debit(alice, 55)
    assert answer.status_code == 201
    paid = [(names[part["grant_id"]], part["amount"]) for part in answer.json()["allocations"]]
    assert paid == [
        *(("first", 10), ("older promotional", 10), ("newer promotional", 10), ("older paid", 10), ("newer paid", 10)),
        ("last", 5),
    ]
    left = {names[grant["id"]]: grant["remaining"] for grant in alice.get("/wallets/me/grants")["data"]}
    assert left == {**{name: 0 for name, _ in terms}, "last": 5}


# Debits


def test_a_debit_answers_with_the_transaction_and_its_allocations(rich: Client) -> None:
    answer = debit(rich, 30, reason="sword", reference="d-1", metadata={"item": "sword"})
    assert answer.status_code == 201
    transaction = answer.json()
    assert set(transaction) == TRANSACTION_FIELDS | {"allocations"}
    assert (transaction["type"], transaction["amount"], transaction["memo"], transaction["reference"]) == ("debit", 30, "sword", "d-1")
    assert (transaction["source"], transaction["destination"]) == (rich.wallet()["id"], "system:revenue:CREDIT")
    assert transaction["entries"][0] == {"wallet_id": rich.wallet()["id"], "delta": -30, "seq": 2, "balance_after": 70, "held_after": 0}
    assert [part["amount"] for part in transaction["allocations"]] == [30]


def test_credits_from_others_are_spent_after_the_grants(rich: Client, bob: Client, admin: Client) -> None:
    assert rich.transfer({"username": bob.user["username"]}, 60).status_code == 201
    grant_id = admin.grant(bob.wallet()["id"], 10)["grant"]["id"]
    assert debit(bob, 25).json()["allocations"] == [{"grant_id": grant_id, "amount": 10}]
    assert bob.wallet()["settled"] == 45


def test_debits_are_for_the_owner_a_service_and_an_admin(rich: Client, bob: Client, admin: Client) -> None:
    wallet_id = rich.wallet()["id"]
    assert_problem(debit(bob, 1, wallet_id), 404, "not-found")
    assert_nothing_moved(rich, 100)
    for client in (rich, with_role(admin, "service"), admin):
        assert debit(client, 10, wallet_id).status_code == 201
    assert rich.wallet()["settled"] == 70


# Transfers


def test_a_transfer_goes_to_a_wallet_or_to_a_username(rich: Client, bob: Client) -> None:
    to_wallet = rich.transfer(bob.wallet()["id"], 10, memo="one")
    to_name = rich.transfer({"username": bob.user["username"].upper()}, 20, memo="two", source=rich.wallet()["id"])
    for answer in (to_wallet, to_name):
        assert answer.status_code == 201
        assert set(answer.json()) == TRANSACTION_FIELDS
        assert (answer.json()["source"], answer.json()["destination"]) == (rich.wallet()["id"], bob.wallet()["id"])
    assert (rich.wallet()["settled"], bob.wallet()["settled"]) == (70, 30)
    assert [row["delta"] for row in bob.get("/wallets/me/transactions")["data"]] == [20, 10]


def test_each_side_of_a_transfer_sees_its_own_balance_only(rich: Client, bob: Client, admin: Client) -> None:
    sent = rich.transfer(bob.wallet()["id"], 10).json()
    for client, own in ((rich, 0), (bob, 1)):
        entries = client.get(f"/transactions/{sent['id']}")["entries"]
        assert {"balance_after", "held_after"} <= set(entries[own])
        assert not {"balance_after", "held_after"} & set(entries[1 - own])
    assert all("balance_after" in entry for entry in admin.get(f"/transactions/{sent['id']}")["entries"])
    assert rich.get(f"/transactions/{sent['id']}") == sent


def test_a_transaction_is_shown_to_those_who_took_part(rich: Client, bob: Client, server: AppServer) -> None:
    sent = rich.transfer(bob.wallet()["id"], 10).json()
    stranger = Client.register(server.url)
    assert_problem(stranger.call("GET", f"/transactions/{sent['id']}"), 404, "not-found")
    assert_problem(rich.call("GET", "/transactions/tx_unknown"), 404, "not-found")


def test_a_transfer_to_oneself_is_refused(rich: Client) -> None:
    for destination in ("me", rich.wallet()["id"], {"username": rich.user["username"]}):
        assert_problem(rich.transfer(destination, 1), 422, "same-wallet")
    assert_nothing_moved(rich, 100)


def test_nobody_spends_more_than_there_is(rich: Client, bob: Client) -> None:
    for answer in (rich.transfer(bob.wallet()["id"], 101), debit(rich, 101)):
        problem = assert_problem(answer, 402, "insufficient-funds")
        assert (problem["available"], problem["required"]) == (100, 101)
    assert_nothing_moved(rich, 100)
    assert rich.transfer(bob.wallet()["id"], 100).status_code == 201
    assert_problem(rich.transfer(bob.wallet()["id"], 1), 402, "insufficient-funds")
    assert rich.wallet()["settled"] == 0


def test_a_foreign_wallet_is_no_source(rich: Client, bob: Client) -> None:
    foreign = assert_problem(bob.transfer("me", 1, source=rich.wallet()["id"]), 404, "not-found")
    missing = assert_problem(bob.transfer("me", 1, source="w_unknown"), 404, "not-found")
    assert foreign["detail"] == missing["detail"]
    assert_nothing_moved(rich, 100)
    assert_nothing_moved(bob, 0, rows=0)


def test_a_service_and_an_admin_move_credits_of_others(rich: Client, bob: Client, admin: Client) -> None:
    for client in (with_role(admin, "service"), admin):
        sent = client.transfer(bob.wallet()["id"], 10, source=rich.wallet()["id"])
        assert sent.status_code == 201
    assert (rich.wallet()["settled"], bob.wallet()["settled"]) == (80, 20)


@pytest.mark.parametrize("destination", ["w_unknown", {"username": "nobody.of.that.name"}])
def test_an_unknown_destination_is_not_found(rich: Client, destination: Any) -> None:
    assert_problem(rich.transfer(destination, 1), 404, "not-found")
    assert_nothing_moved(rich, 100)


def test_an_erased_user_cannot_be_paid_by_name(rich: Client, bob: Client) -> None:
    assert bob.call("DELETE", f"/users/{bob.user['id']}").status_code == 204
    assert_problem(rich.transfer({"username": bob.user["username"]}, 1), 404, "not-found")
    assert_nothing_moved(rich, 100)


SYSTEM = ("system:issuance", "system:revenue", "system:issuance:CREDIT", "system:revenue:CREDIT", "system:breakage", "system:")


@pytest.mark.parametrize("account", SYSTEM)
def test_nobody_reaches_the_systems_accounts(rich: Client, admin: Client, account: str) -> None:
    """From `system:issuance` one could make credits out of nothing."""
    service = with_role(admin, "service")
    for client in (rich, service, admin):
        for answer in (
            client.transfer("me", 1, source=account),
            client.transfer(rich.wallet()["id"], 1, source=account),
            client.transfer(account, 1, source=rich.wallet()["id"]),
            client.transfer("system:revenue", 1, source=account),
            debit(client, 1, account),
        ):
            assert_problem(answer, 404, "not-found")
    for client in (service, admin):
        assert_problem(post(client, f"/wallets/{account}/grants", {"amount": 1, "reference": unique("r")}), 404, "not-found")
    assert_nothing_moved(rich, 100)


def test_a_balance_never_passes_what_json_can_count(admin: Client, alice: Client) -> None:
    wallet_id = alice.wallet()["id"]
    admin.grant(wallet_id, 2**53 - 1)
    assert_problem(post(admin, f"/wallets/{wallet_id}/grants", {"amount": 1}), 422, "amount-invalid")
    assert alice.wallet()["settled"] == 2**53 - 1
    assert debit(alice, 2**53 - 1).status_code == 201


def test_a_reference_works_once_in_a_wallet(rich: Client, bob: Client, admin: Client) -> None:
    first = rich.transfer(bob.wallet()["id"], 1, reference="order-1")
    assert first.status_code == 201
    for again in (rich.transfer(bob.wallet()["id"], 1, reference="order-1"), debit(rich, 5, reference="order-1")):
        problem = assert_problem(again, 409, "duplicate-reference")
        assert problem["transaction_id"] == first.json()["id"]
    assert_nothing_moved(rich, 99, rows=2)
    # In another wallet it is another reference.
    admin.grant(bob.wallet()["id"], 10)
    assert debit(bob, 1, reference="order-1").status_code == 201


def test_of_many_with_one_reference_at_once_one_is_posted(rich: Client) -> None:
    answers = at_once(20, lambda _: debit(Client(rich.url, rich.token), 1, reference="once"))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 19}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"duplicate-reference"}
    assert rich.wallet()["settled"] == 99


# Dry runs

Verb = Callable[[Client, Client, Client], tuple[Client, str, dict[str, Any]]]
VERBS: dict[str, Verb] = {
    "grant": lambda rich, _, admin: (admin, f"/wallets/{rich.wallet()['id']}/grants", {"amount": 10, "reference": "dry"}),
    "debit": lambda rich, _bob, _admin: (rich, "/wallets/me/debits", {"amount": 10, "reference": "dry"}),
    "transfer": lambda rich, bob, _: (
        rich,
        "/transfers",
        {"destination": {"username": bob.user["username"]}, "amount": 10, "reference": "dry"},
    ),
}


def shape(value: Any) -> Any:
    """The names in a JSON document, without what they hold."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else None


@pytest.mark.parametrize("verb", VERBS)
def test_a_dry_run_answers_as_the_real_one_and_keeps_nothing(
    rich: Client, bob: Client, admin: Client, database: Database[dict[str, Any]], verb: str
) -> None:
    client, path, body = VERBS[verb](rich, bob, admin)
    key = unique("key")
    names = ("transactions", "entries", "grants", "audit_logs", "idempotency")
    before = {name: database[name].count_documents({}) for name in names}
    dry = [post(client, f"{path}?dry_run=true", body, key) for _ in range(2)]
    assert [answer.status_code for answer in dry] == [200, 200]
    assert all("Idempotency-Replayed" not in answer.headers for answer in dry)
    assert {name: database[name].count_documents({}) for name in names} == before
    assert_nothing_moved(rich, 100)
    # Neither the key nor the reference is used up.
    real = post(client, path, body, key)
    assert real.status_code == 201
    assert "Idempotency-Replayed" not in real.headers
    assert shape(dry[0].json()) == shape(real.json())
    assert bob.wallet()["settled"] == (10 if verb == "transfer" else 0)


def test_a_dry_run_is_refused_as_the_real_one_would_be(rich: Client, bob: Client, database: Database[dict[str, Any]]) -> None:
    assert debit(rich, 1, reference="used").status_code == 201
    before = database["idempotency"].count_documents({})
    body = {"destination": bob.wallet()["id"]}
    problem = assert_problem(post(rich, "/transfers?dry_run=true", {**body, "amount": 101}), 402, "insufficient-funds")
    assert (problem["available"], problem["required"]) == (99, 101)
    assert_problem(post(rich, "/transfers?dry_run=1", {**body, "amount": 1, "reference": "used"}), 409, "duplicate-reference")
    assert_problem(post(rich, "/transfers?dry_run=true", {"destination": "me", "amount": 1}), 422, "same-wallet")
    assert_problem(post(rich, "/transfers?dry_run=true", {"destination": "w_unknown", "amount": 1}), 404, "not-found")
    assert database["idempotency"].count_documents({}) == before


def test_dry_run_false_is_the_real_one(rich: Client, bob: Client) -> None:
    assert post(rich, "/transfers?dry_run=false", {"destination": bob.wallet()["id"], "amount": 1}).status_code == 201
    assert bob.wallet()["settled"] == 1


# Idempotency


@pytest.mark.parametrize("verb", VERBS)
def test_a_money_verb_needs_an_idempotency_key(rich: Client, bob: Client, admin: Client, verb: str) -> None:
    client, path, body = VERBS[verb](rich, bob, admin)
    for query in ("", "?dry_run=true"):
        assert_problem(client.call("POST", path + query, body), 400, "idempotency-key-missing")
    assert_nothing_moved(rich, 100)


@pytest.mark.parametrize("verb", VERBS)
def test_a_retry_gets_the_stored_answer_byte_for_byte(rich: Client, bob: Client, admin: Client, verb: str) -> None:
    client, path, body = VERBS[verb](rich, bob, admin)
    key = unique("key")
    first = post(client, path, body, key)
    settled = rich.wallet()["settled"]
    assert first.status_code == 201
    assert "Idempotency-Replayed" not in first.headers
    for retry in (post(client, path, body, key), post(Client(client.url, client.token), path, dict(reversed(body.items())), key)):
        assert retry.status_code == 201
        assert retry.headers["Idempotency-Replayed"] == "true"
        assert retry.content == first.content
        assert retry.headers["Content-Type"] == first.headers["Content-Type"]
    assert rich.wallet()["settled"] == settled


def test_a_refusal_is_stored_too(rich: Client, bob: Client, admin: Client) -> None:
    key = unique("key")
    request_id = {"X-Request-ID": unique("same")}
    body = {"destination": bob.wallet()["id"], "amount": 101}
    first = post(rich, "/transfers", body, key, headers=request_id)
    assert_problem(first, 402, "insufficient-funds")
    admin.grant(rich.wallet()["id"], 100)
    retry = post(rich, "/transfers", body, key, headers=request_id)
    assert retry.headers["Idempotency-Replayed"] == "true"
    assert (retry.status_code, retry.content) == (402, first.content)
    # In a request of its own id the problem says so, and is the same otherwise.
    later = assert_problem(post(rich, "/transfers", body, key), 402, "insufficient-funds")
    assert {**later, "request_id": ""} == {**first.json(), "request_id": ""}
    assert post(rich, "/transfers", body).status_code == 201
    assert bob.wallet()["settled"] == 101


def test_a_key_with_another_body_is_refused(rich: Client, bob: Client) -> None:
    key = unique("key")
    body = {"destination": bob.wallet()["id"], "amount": 1}
    assert post(rich, "/transfers", body, key).status_code == 201
    for other in ({**body, "amount": 2}, {**body, "memo": "x"}, {**body, "destination": {"username": bob.user["username"]}}):
        assert_problem(post(rich, "/transfers", other, key), 422, "idempotency-key-reused")
    # The first answer is still there.
    assert post(rich, "/transfers", body, key).headers["Idempotency-Replayed"] == "true"
    assert bob.wallet()["settled"] == 1


@pytest.mark.parametrize("length", [1, 40, 253, 255])
def test_a_quoted_key_is_the_same_key(rich: Client, bob: Client, length: int) -> None:
    key = ("k!~" * 85)[:length]
    body = {"destination": bob.wallet()["id"], "amount": 1}
    first = post(rich, "/transfers", body, f'"{key}"')
    retry = post(rich, "/transfers", body, key)
    assert (first.status_code, retry.status_code) == (201, 201)
    assert retry.headers["Idempotency-Replayed"] == "true"
    assert retry.content == first.content


def test_a_key_belongs_to_its_user_and_its_route(rich: Client, bob: Client, admin: Client) -> None:
    admin.grant(bob.wallet()["id"], 100)
    key = unique("key")
    answers = [post(client, "/wallets/me/debits", {"amount": 1}, key) for client in (rich, bob)]
    answers.append(post(rich, "/transfers", {"destination": bob.wallet()["id"], "amount": 1}, key))
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert all("Idempotency-Replayed" not in answer.headers for answer in answers)
    assert (rich.wallet()["settled"], bob.wallet()["settled"]) == (98, 100)


def test_a_key_belongs_to_the_wallet_in_the_path(rich: Client, bob: Client, admin: Client) -> None:
    key = unique("key")
    assert post(admin, f"/wallets/{rich.wallet()['id']}/grants", {"amount": 1}, key).status_code == 201
    assert_problem(post(admin, f"/wallets/{bob.wallet()['id']}/grants", {"amount": 1}, key), 422, "idempotency-key-reused")
    assert_nothing_moved(bob, 0, rows=0)


def test_refusals_that_say_nothing_about_the_ledger_are_not_stored(rich: Client, bob: Client) -> None:
    key = unique("key")
    body = {"destination": bob.wallet()["id"], "amount": 1}
    assert_problem(post(Client(rich.url), "/transfers", body, key), 401, "unauthenticated")
    assert_problem(post(rich, "/transfers", {**body, "amount": 0}, key), 422, "amount-invalid")
    answer = post(rich, "/transfers", body, key)
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers


def test_one_key_fifty_times_at_once_has_one_effect(rich: Client, bob: Client) -> None:
    key, destination = unique("key"), bob.wallet()["id"]
    answers = at_once(50, lambda _: Client(rich.url, rich.token).transfer(destination, 10, key=key))
    posted = [answer for answer in answers if answer.status_code == 201]
    originals = [answer for answer in posted if "Idempotency-Replayed" not in answer.headers]
    assert len(originals) == 1
    assert all(answer.content == originals[0].content for answer in posted)
    for answer in answers:
        if answer not in posted:
            assert_problem(answer, 409, "idempotency-in-progress")
            assert int(answer.headers["Retry-After"]) >= 1
    assert_nothing_moved(rich, 90, rows=2)
    assert_nothing_moved(bob, 10)


# Races


def test_of_200_transfers_at_once_as_many_succeed_as_the_wallet_holds(rich: Client, bob: Client) -> None:
    assert debit(rich, 50).status_code == 201
    destination = bob.wallet()["id"]
    answers = at_once(200, lambda _: Client(rich.url, rich.token).transfer(destination, 1))
    assert Counter(answer.status_code for answer in answers) == {201: 50, 402: 150}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 402} == {"insufficient-funds"}
    assert (rich.wallet()["settled"], bob.wallet()["settled"]) == (0, 50)


def test_credits_that_go_round_in_a_circle_at_once_are_neither_lost_nor_made(server: AppServer, admin: Client) -> None:
    clients = [Client.register(server.url) for _ in range(4)]
    ids = [client.wallet()["id"] for client in clients]
    for wallet_id in ids:
        admin.grant(wallet_id, 25)

    def send(index: int) -> requests.Response:
        sender = clients[index % 4]
        return Client(sender.url, sender.token).transfer(ids[(index + 1 + index // 4 % 3) % 4], 1 + index % 5)

    answers = at_once(80, send)
    assert {answer.status_code for answer in answers} <= {201, 402}
    assert sum(client.wallet()["settled"] for client in clients) == 100
