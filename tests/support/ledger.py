"""The ledger's invariants, checked in MongoDB itself and not through our own code."""

from __future__ import annotations

from typing import Any

from pymongo.client_session import ClientSession
from pymongo.database import Database


def assert_sound(database: Database[dict[str, Any]]) -> None:
    """Sums are zero, balances equal their entries, numbers have no gaps, nobody is below the floor, transactions match."""
    # All at one moment: the sweeper posts whenever something is due.
    with database.client.start_session(snapshot=True) as session:
        _assert_sound(database, session)


def _assert_sound(database: Database[dict[str, Any]], session: ClientSession) -> None:
    entries = list(database["entries"].find(session=session))
    sums: dict[str, int] = {}
    by_wallet: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        sums[entry["asset"]] = sums.get(entry["asset"], 0) + entry["delta"]
        if entry["seq"] is not None:
            by_wallet.setdefault(entry["wallet_id"], []).append(entry)
    assert all(total == 0 for total in sums.values()), f"sums per asset: {sums}"
    open_holds: dict[str, int] = {}
    for hold in database["holds"].find({"status": "open"}, session=session):
        open_holds[hold["wallet_id"]] = open_holds.get(hold["wallet_id"], 0) + hold["amount"] - hold["captured"]
    for wallet in database["wallets"].find(session=session):
        _assert_wallet(wallet, by_wallet.pop(wallet["_id"], []))
        assert wallet["held"] == open_holds.pop(wallet["_id"], 0), f"{wallet['_id']}: held is not the sum of its open holds"
    assert not open_holds, f"holds in wallets that do not exist: {list(open_holds)}"
    assert not by_wallet, f"entries of wallets that do not exist: {list(by_wallet)}"
    _assert_transactions(database, session, entries)


def _assert_wallet(wallet: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    name = wallet["_id"]
    entries = sorted(entries, key=lambda entry: entry["seq"])
    assert [entry["seq"] for entry in entries] == list(range(1, wallet["seq"] + 1)), f"{name}: numbers have gaps"
    running = 0
    for entry in entries:
        running += entry["delta"]
        assert entry["balance_after"] == running, f"{name}: entry {entry['seq']} has a wrong balance"
        assert running + wallet["credit_limit"] >= 0, f"{name}: below its floor at entry {entry['seq']}"
    assert wallet["settled"] == running, f"{name}: the balance is not the sum of the entries"
    in_lots = sum(lot["remaining"] for lot in wallet["lots"] if lot["pending"] is None)
    assert in_lots <= max(running, 0), f"{name}: more in grants than there is"
    assert wallet["held"] == sum(hold["remaining"] for hold in wallet["holds"]), f"{name}: held and holds disagree"
    assert wallet["settled"] + wallet["credit_limit"] - wallet["held"] >= 0, f"{name}: below its floor"


def _assert_transactions(database: Database[dict[str, Any]], session: ClientSession, entries: list[dict[str, Any]]) -> None:
    stored = {(e["transaction_id"], e["wallet_id"]): e["delta"] for e in entries}
    audits = database["audit_logs"].find({"action": {"$regex": "^transactions[.]"}}, session=session)
    audited = [row["target"] for row in audits]
    transactions = {row["_id"]: row for row in database["transactions"].find(session=session)}
    assert len(audited) == len(set(audited)) == len(transactions), "each transaction has exactly one audit record"
    own = {(t["_id"], e["wallet_id"]): e["delta"] for t in transactions.values() for e in t["entries"]}
    assert own == stored, "transactions and entries disagree"
