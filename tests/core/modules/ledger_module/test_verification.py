"""Whatever is changed behind the ledger's back is found and named, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId, Timestamp

from core.managers.database_manager import DatabaseManager
from core.modules.ledger_module.checks import Finding
from core.modules.ledger_module.repository import ProofRepository
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.operations import PlaceHold
from core.modules.wallet_module.service import wallet_id_of
from tests.core.modules.ledger_module.conftest import EVER, SMALL, Db, open_wallet, seal_all, unfenced, verified
from tests.support.money import command, grant, transfer

ANN, BOB = wallet_id_of("ann"), wallet_id_of("bob")


@pytest.mark.parametrize("size", [1, 2, SMALL, 1000])
def test_a_ledger_in_which_everything_happened_is_sound(sealed: ProofRepository, root: Db, size: int) -> None:
    report = verified(sealed, size)
    assert report.findings == []
    transactions, entries = root["transactions"].count_documents({}), root["entries"].count_documents({"seq": {"$ne": None}})
    counted = {"transactions": transactions, "wallets": 3, "holds": 3, "entries": entries, "references": 2, "reversals": 1}
    assert report.checked == counted
    view = report.view()
    assert (view["ok"], view["complete"], view["sealed"], view["unsealed"]) == (True, True, transactions - 2, 2)
    assert view["sums"] == {"CREDIT": 0, "GEM": 0}
    assert view["first_bad"] is None


def test_an_empty_ledger_is_sound(proofs: ProofRepository) -> None:
    report = verified(proofs)
    assert (report.ok, report.view()["verified_through"], report.head) == (True, None, f"0:{'00' * 32}")


# Tampering: each does its worst, and returns which row it was.


def one(root: Db, collection: str, query: dict[str, Any]) -> dict[str, Any]:
    row = root[collection].find_one(query)
    assert row is not None
    return row


def changed_amount(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"type": "debit", "amount": 100})
    root["transactions"].update_one({"_id": row["_id"]}, {"$set": {"amount": 90}})
    return "transactions", row["_id"]


def changed_metadata(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"metadata.n": 1})
    root["transactions"].update_one({"_id": row["_id"]}, {"$set": {"metadata.n": 2}})
    return "transactions", row["_id"]


def deleted_transaction(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"type": "grant", "asset": "GEM", "amount": 7})
    root["transactions"].delete_one({"_id": row["_id"]})
    return "transactions", row["_id"]


def inserted_transaction(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"amount": 100})
    root["transactions"].insert_one({**row, "_id": "tx_forged", "amount": 1})
    return "transactions", "tx_forged"


def unsealed_transaction_out_of_balance(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"type": "transfer", "amount": 250})
    root["transactions"].update_one({"_id": row["_id"]}, {"$set": {"entries.1.delta": 249}})
    return "transactions", row["_id"]


def unsealed_transaction_without_shape(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"type": "transfer", "amount": 250})
    root["transactions"].update_one({"_id": row["_id"]}, {"$set": {"entries": "none"}})
    return "transactions", row["_id"]


def transaction_with_another_kind_of_id(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"amount": 100})
    forged = root["transactions"].insert_one({**row, "_id": ObjectId(), "stamp": Timestamp(0, 0), "reference_scope": "forged"})
    return "transactions", str(forged.inserted_id)


def reversed_too_much(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"type": "debit", "amount": 100})
    root["transactions"].update_one({"type": "debit", "amount": 3}, {"$set": {"reverses": row["_id"]}})
    root["transactions"].update_one({"type": "transfer", "amount": 250}, {"$set": {"reverses": row["_id"]}})
    return "transactions", row["_id"]


def used_reference_twice(root: Db) -> tuple[str, str]:
    row = one(root, "transactions", {"type": "debit", "amount": 3})
    root["transactions"].update_one({"_id": row["_id"]}, {"$set": {"reference_scope": f"{BOB}:promised"}})
    return "transactions", row["_id"]


def changed_entry(root: Db) -> tuple[str, str]:
    entry_id = f"{ANN}:000000000002"
    root["entries"].update_one({"_id": entry_id}, {"$set": {"memo": "another thing"}})
    return "entries", entry_id


def changed_system_entry(root: Db) -> tuple[str, str]:
    row = one(root, "entries", {"wallet_id": "system:revenue:CREDIT", "delta": 100})
    root["entries"].update_one({"_id": row["_id"]}, {"$set": {"delta": 99}})
    return "entries", row["_id"]


def changed_type_of_a_number(root: Db) -> tuple[str, str]:
    entry_id = f"{ANN}:000000000002"
    root["entries"].update_one({"_id": entry_id}, {"$set": {"delta": -100.0}})
    return "entries", entry_id


def removed_entry(root: Db) -> tuple[str, str]:
    entry_id = f"{ANN}:000000000002"
    root["entries"].delete_one({"_id": entry_id})
    return "entries", entry_id


def added_entry(root: Db) -> tuple[str, str]:
    """One that fits, in a wallet that fits."""
    row = one(root, "entries", {"_id": f"{BOB}:000000000002"})
    entry_id = f"{BOB}:000000000003"
    more = {"_id": entry_id, "seq": 3, "delta": 5, "balance_after": row["balance_after"] + 5}
    root["entries"].insert_one({**row, **more})
    root["wallets"].update_one({"_id": BOB}, {"$inc": {"settled": 5, "seq": 1}})
    return "entries", entry_id


def added_entry_beyond_its_wallet(root: Db) -> tuple[str, str]:
    row = one(root, "entries", {"_id": f"{BOB}:000000000002"})
    root["entries"].insert_one({**row, "_id": f"{BOB}:000000000003", "seq": 3, "delta": 0})
    return "entries", f"{BOB}:000000000003"


def added_system_entry(root: Db) -> tuple[str, str]:
    row = one(root, "entries", {"wallet_id": "system:revenue:CREDIT", "delta": 100})
    root["entries"].insert_one({**row, "_id": "system:revenue:CREDIT:tx_forged", "transaction_id": "tx_forged"})
    return "entries", "system:revenue:CREDIT:tx_forged"


def entry_of_no_wallet(root: Db) -> tuple[str, str]:
    row = one(root, "entries", {"_id": f"{BOB}:000000000002"})
    root["entries"].insert_one({**row, "_id": "w_nobody:000000000001", "seq": 1, "wallet_id": "w_nobody"})
    return "entries", "w_nobody:000000000001"


def entry_with_another_kind_of_id(root: Db) -> tuple[str, str]:
    row = one(root, "entries", {"_id": f"{BOB}:000000000002"})
    return "entries", str(root["entries"].insert_one({**row, "_id": ObjectId()}).inserted_id)


def changed_balance(root: Db) -> tuple[str, str]:
    root["wallets"].update_one({"_id": ANN}, {"$inc": {"settled": 1}})
    return "wallets", ANN


def changed_seq(root: Db) -> tuple[str, str]:
    root["wallets"].update_one({"_id": ANN}, {"$inc": {"seq": 1}})
    return "wallets", ANN


def removed_wallet(root: Db) -> tuple[str, str]:
    root["wallets"].delete_one({"_id": BOB})
    return "entries", f"{BOB}:000000000001"


def changed_held(root: Db) -> tuple[str, str]:
    root["wallets"].update_one({"_id": ANN}, {"$set": {"held": 0}})
    return "wallets", ANN


def below_the_floor(root: Db) -> tuple[str, str]:
    root["wallets"].update_one({"_id": BOB}, {"$set": {"credit_limit": -1000}})
    return "wallets", BOB


def lots_above_the_balance(root: Db) -> tuple[str, str]:
    root["wallets"].update_one({"_id": ANN}, {"$set": {"lots.0.remaining": 999}})
    return "wallets", ANN


def wallet_without_shape(root: Db) -> tuple[str, str]:
    root["wallets"].update_one({"_id": ANN}, {"$unset": {"lots": ""}})
    return "wallets", ANN


def changed_hold(root: Db) -> tuple[str, str]:
    row = one(root, "holds", {"status": "open"})
    root["holds"].update_one({"_id": row["_id"]}, {"$inc": {"amount": 1}})
    return "holds", row["_id"]


def closed_hold_reopened(root: Db) -> tuple[str, str]:
    row = one(root, "holds", {"status": "captured"})
    root["holds"].update_one({"_id": row["_id"]}, {"$set": {"status": "open"}})
    return "holds", row["_id"]


def prolonged_hold(root: Db) -> tuple[str, str]:
    row = one(root, "holds", {"status": "open"})
    root["holds"].update_one({"_id": row["_id"]}, {"$set": {"expires_at": row["created_at"]}})
    return "wallets", ANN


def stolen_grant(root: Db) -> tuple[str, str]:
    root["grants"].update_one({"wallet_id": ANN}, {"$set": {"wallet_id": BOB}})
    return "wallets", ANN


def changed_seal(root: Db) -> tuple[str, str]:
    row = one(root, "ledger_seals", {"_id": 2})
    root["ledger_seals"].update_one({"_id": 2}, {"$set": {"hashes": bytes(len(row["hashes"]))}})
    return "transactions", row["ids"][0]


def deleted_seal(root: Db) -> tuple[str, str]:
    root["ledger_seals"].delete_one({"_id": 2})
    return "ledger_seals", "3"


def seal_without_shape(root: Db) -> tuple[str, str]:
    root["ledger_seals"].update_one({"_id": 2}, {"$set": {"hashes": 5}})
    return "ledger_seals", "2"


TAMPERINGS = [
    changed_amount,
    changed_metadata,
    deleted_transaction,
    inserted_transaction,
    unsealed_transaction_out_of_balance,
    unsealed_transaction_without_shape,
    transaction_with_another_kind_of_id,
    reversed_too_much,
    used_reference_twice,
    changed_entry,
    changed_system_entry,
    changed_type_of_a_number,
    removed_entry,
    added_entry,
    added_entry_beyond_its_wallet,
    added_system_entry,
    entry_of_no_wallet,
    entry_with_another_kind_of_id,
    changed_balance,
    changed_seq,
    removed_wallet,
    changed_held,
    below_the_floor,
    lots_above_the_balance,
    wallet_without_shape,
    changed_hold,
    closed_hold_reopened,
    prolonged_hold,
    stolen_grant,
    changed_seal,
    deleted_seal,
    seal_without_shape,
]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda each: each.__name__)
def test_the_row_that_was_tampered_with_is_named(tamper: Callable[[Db], tuple[str, str]], sealed: ProofRepository, root: Db) -> None:
    collection, row_id = tamper(root)
    report = verified(sealed)
    assert not report.ok
    assert (collection, row_id) in [(each.collection, each.id) for each in report.findings], report.findings
    named = [each for each in report.findings if each.id is not None]
    assert (named[0].collection, named[0].id) == (collection, row_id) or tamper in (stolen_grant, closed_hold_reopened, reversed_too_much)


def test_a_chain_that_was_made_anew_is_not_the_one_of_the_anchor(sealed: ProofRepository, root: Db) -> None:
    anchor = verified(sealed).head
    assert verified(sealed, anchor=anchor).ok
    root["transactions"].update_one({"metadata.n": 1}, {"$set": {"metadata.n": 2}})
    root["ledger_seals"].delete_many({})
    seal_all(sealed)
    assert verified(sealed).ok
    assert not verified(sealed, anchor=anchor).ok
    root["ledger_seals"].delete_many({})
    assert verified(sealed, anchor=anchor).findings == [Finding("ledger_seals", None, "the chain ends before the anchor")]


def test_a_limit_that_was_lowered_because_a_hold_has_ended_is_no_false_alarm(
    proofs: ProofRepository, db: DatabaseManager, engine: PostingEngine, root: Db
) -> None:
    wallet = open_wallet(db, "eve", credit_limit=50)
    assert engine.submit(command(PlaceHold(wallet, 50, 1))).status == 201
    root["wallets"].update_one({"_id": wallet}, {"$set": {"credit_limit": 0}})
    assert verified(proofs).findings == []


def test_no_false_alarm_while_money_moves(proofs: ProofRepository, db: DatabaseManager, engine: PostingEngine, root: Db) -> None:
    names = [open_wallet(db, f"u{number}") for number in range(6)]
    for name in names:
        engine.submit(command(grant(name, 10_000)))

    def move(number: int) -> None:
        for turn in range(40):
            engine.submit(command(transfer(names[number], names[number - 1], 1)))
            engine.submit(command(PlaceHold(names[number], 1, 1)))
            newcomer = open_wallet(db, f"newcomer-{number}-{turn}")
            engine.submit(command(transfer(names[number], newcomer, 1)))
            if number == 0 and turn % 10 == 0:
                proofs.chain.seal(EVER, unfenced)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(0, len(names), 3)]
    for thread in threads:
        thread.start()
    rounds = 0
    try:
        while any(thread.is_alive() for thread in threads):
            assert verified(proofs, 10).findings == [], f"round {rounds}"
            rounds += 1
    finally:
        for thread in threads:
            thread.join()
    assert rounds > 1
    report = verified(proofs)
    assert (report.findings, report.checked["transactions"]) == ([], 6 + 2 * 80)
