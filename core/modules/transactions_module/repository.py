"""The ledger in MongoDB: what one group commit reads and writes, and the reads of histories and transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from core.audit import audit_entry
from core.modules.transactions_module.commands import Claim, Command, Outcome, Snapshot, StoredAnswer, Verdict
from core.modules.transactions_module.errors import LedgerInvariantError
from core.modules.transactions_module.ledger import Entry, Lot, Transaction, Wallet
from tools.error_handling.errors import Unavailable
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager
    from core.modules.wallet_module.repository import WalletRepository

_CLAIM_LIFE = timedelta(days=7)
_DUPLICATE_RETRIES = 3
_SEQ_DIGITS = 12


class LedgerRepository:
    """All reads and writes of the ledger's collections. What was inserted here is never updated."""

    def __init__(self, database: DatabaseManager, wallets: WalletRepository) -> None:
        self._database = database
        self._wallets = wallets

    def commit(self, commands: Sequence[Command], decide: Callable[[Snapshot], Outcome]) -> Outcome:
        """Read, decide and write in one transaction; all commands' effects become visible together or not at all."""

        def work(session: ClientSession) -> Outcome:
            outcome = decide(self._snapshot(commands, session))
            self._write(outcome, session)
            return outcome

        for _ in range(_DUPLICATE_RETRIES):
            try:
                return self._database.transaction(work)
            except DuplicateKeyError:
                # A twin in another worker was first; read again, and its answer is there.
                continue
        raise Unavailable("Too many requests with the same key.")

    # One commit

    def _snapshot(self, commands: Sequence[Command], session: ClientSession) -> Snapshot:
        wallet_ids = {wallet_id for command in commands for wallet_id in command.draft.wallet_ids}
        claim_ids = [command.claim.id for command in commands if command.claim is not None]
        scopes = [command.reference_scope for command in commands if command.reference_scope is not None]
        return Snapshot(
            wallets=[_to_wallet(document) for document in self._wallets.load_many(wallet_ids, session)],
            answers=self._load_answers(claim_ids, session) if claim_ids else {},
            references=self._load_references(scopes, session) if scopes else {},
        )

    def _load_answers(self, claim_ids: list[str], session: ClientSession) -> dict[str, StoredAnswer]:
        rows = self._database.collection("idempotency").find({"_id": {"$in": claim_ids}}, session=session)
        return {row["_id"]: StoredAnswer(row["fingerprint"], row["status"], row["body"]) for row in rows}

    def _load_references(self, scopes: list[str], session: ClientSession) -> dict[str, str]:
        query = {"reference_scope": {"$in": scopes}}
        rows = self._database.collection("transactions").find(query, ("reference_scope",), session=session)
        return {row["reference_scope"]: row["_id"] for row in rows}

    def _write(self, outcome: Outcome, session: ClientSession) -> None:
        if outcome.wallets:
            changes = [(wallet.id, version, _wallet_fields(wallet, version)) for version, wallet in outcome.wallets]
            if self._wallets.save_many(changes, session) != len(changes):
                raise LedgerInvariantError("a wallet changed inside the transaction's own snapshot")
        for collection, rows in self._rows(outcome).items():
            if rows:
                self._database.insert_rows(collection, rows, session)

    @staticmethod
    def _rows(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
        """The documents to insert, by collection."""
        now = utc_now()
        posted = outcome.posted
        return {
            "transactions": [_transaction_row(command, transaction) for command, transaction in posted],
            "entries": [row for _, transaction in posted for row in _entry_rows(transaction)],
            "grants": [_grant_row(t, t.grant) for _, t in posted if t.grant is not None],
            "idempotency": [_claim_row(claim, verdict, now) for claim, verdict in outcome.claimed],
            "audit_logs": [_audit_row(command, transaction) for command, transaction in posted],
        }

    # Reads

    def find_transaction(self, transaction_id: str) -> Transaction | None:
        row = self._database.find_one("transactions", {"_id": transaction_id})
        return None if row is None else _to_transaction(row)

    def history(self, wallet_id: str, filters: Mapping[str, Any], before_seq: int | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries of a wallet, newest first, below `before_seq`; one range scan over `_id`."""
        upper = entry_id(wallet_id, before_seq) if before_seq is not None else f"{wallet_id};"
        query = {"_id": {"$gt": f"{wallet_id}:", "$lt": upper}, **filters}
        return self._database.find_many("entries", query, sort=(("_id", -1),), limit=limit)

    def entry_at(self, wallet_id: str, seq: int) -> dict[str, Any] | None:
        return self._database.find_one("entries", {"_id": entry_id(wallet_id, seq)})

    def grants(self, wallet_id: str, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` grants of a wallet, newest first, with ids below `before`."""
        query = {"wallet_id": wallet_id, **({"_id": {"$lt": before}} if before is not None else {})}
        return self._database.find_many("grants", query, sort=(("_id", -1),), limit=limit)


def entry_id(wallet_id: str, seq: int) -> str:
    """Entries are named by wallet and number: that makes the number unique, and a history one range of the index."""
    return f"{wallet_id}:{seq:0{_SEQ_DIGITS}d}"


def to_lot(document: Mapping[str, Any]) -> Lot:
    """A lot, as it lies in a wallet or in a grant."""
    return Lot(
        document["grant_id"],
        document["remaining"],
        document["category"],
        document["priority"],
        document["effective_at"],
        document["expires_at"],
        document["created_at"],
    )


def _to_wallet(document: Mapping[str, Any]) -> Wallet:
    return Wallet(
        id=document["_id"],
        owner_id=document["owner_id"],
        asset=document["asset"],
        settled=document["settled"],
        held=document["held"],
        credit_limit=document["credit_limit"],
        status=document["status"],
        version=document["version"],
        seq=document["seq"],
        lots=tuple(to_lot(lot) for lot in document["lots"]),
        posted_at=document["posted_at"],
    )


def _wallet_fields(wallet: Wallet, version: int) -> dict[str, Any]:
    return {
        "settled": wallet.settled,
        "held": wallet.held,
        "seq": wallet.seq,
        "version": version + 1,
        "lots": [_lot_fields(lot) for lot in wallet.lots],
        "posted_at": wallet.posted_at,
    }


def _lot_fields(lot: Lot) -> dict[str, Any]:
    return {name: getattr(lot, name) for name in Lot.__slots__}


def _transaction_row(command: Command, transaction: Transaction) -> dict[str, Any]:
    row = {
        "_id": transaction.id,
        "type": transaction.type,
        "asset": transaction.asset,
        "amount": transaction.amount,
        "source": transaction.source,
        "destination": transaction.destination,
        "entries": [{name: getattr(entry, name) for name in Entry.__slots__} for entry in transaction.entries],
        "reference": transaction.reference,
        "memo": transaction.memo,
        "metadata": transaction.metadata,
        "allocations": [list(allocation) for allocation in transaction.allocations],
        "created_at": transaction.created_at,
    }
    if command.reference_scope is not None:
        row["reference_scope"] = command.reference_scope
    return row


def _entry_rows(transaction: Transaction) -> Iterable[dict[str, Any]]:
    for entry, other in zip(transaction.entries, reversed(transaction.entries), strict=True):
        # A system account has no sequence: its entries are told apart by their transactions.
        own_id = entry_id(entry.wallet_id, entry.seq) if entry.seq is not None else f"{entry.wallet_id}:{transaction.id}"
        yield {
            "_id": own_id,
            "wallet_id": entry.wallet_id,
            "transaction_id": transaction.id,
            "type": transaction.type,
            "asset": transaction.asset,
            "delta": entry.delta,
            "seq": entry.seq,
            "balance_after": entry.balance_after,
            "held_after": entry.held_after,
            "counterparty": other.wallet_id,
            "reference": transaction.reference,
            "memo": transaction.memo,
            "created_at": transaction.created_at,
        }


def _grant_row(transaction: Transaction, lot: Lot) -> dict[str, Any]:
    return {
        "_id": lot.grant_id,
        "wallet_id": transaction.destination,
        "transaction_id": transaction.id,
        "amount": transaction.amount,
        **asdict(lot),
    }


def _claim_row(claim: Claim, verdict: Verdict, now: datetime) -> dict[str, Any]:
    return {
        "_id": claim.id,
        "fingerprint": claim.fingerprint,
        "status": verdict.status,
        "body": verdict.body,
        "transaction_id": verdict.transaction.id if verdict.transaction is not None else None,
        "expires_at": now + _CLAIM_LIFE,
    }


def _audit_row(command: Command, transaction: Transaction) -> dict[str, Any]:
    # The engine works for many requests at once, so who asked comes with the command and not from the context.
    return audit_entry(f"transactions.{transaction.type}", transaction.id, actor_id=command.actor.user_id, request_id=command.request_id)


def _to_transaction(row: Mapping[str, Any]) -> Transaction:
    return Transaction(
        id=row["_id"],
        type=row["type"],
        asset=row["asset"],
        amount=row["amount"],
        source=row["source"],
        destination=row["destination"],
        entries=tuple(Entry(**entry) for entry in row["entries"]),
        reference=row["reference"],
        memo=row["memo"],
        metadata=row["metadata"],
        allocations=tuple((grant_id, amount) for grant_id, amount in row["allocations"]),
        grant=None,
        created_at=row["created_at"],
    )
