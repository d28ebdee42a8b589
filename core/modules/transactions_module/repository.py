"""The ledger in MongoDB: what one group commit reads and writes, and the reads of histories and transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from core.audit import STAMPED_BY_THE_SERVER, audit_entry
from core.modules.transactions_module.alerts import Alert
from core.modules.transactions_module.commands import Claim, Command, Event, Issue, Outcome, Posting, Snapshot, StoredAnswer, Verdict
from core.modules.transactions_module.errors import LedgerInvariantError
from core.modules.transactions_module.ledger import (
    EXPIRED,
    OPEN,
    Entry,
    Grant,
    Hold,
    Lot,
    Needs,
    Original,
    Promise,
    Reserve,
    Transaction,
    Wallet,
    next_event_at,
    state_at,
)
from core.modules.transactions_module.notices import notices
from core.outbox import OUTBOX, outbox_row
from tools.error_handling.errors import Unavailable
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager
    from core.modules.wallet_module.repository import WalletRepository

CLAIMS = "idempotency"
_CLAIM_LIFE = timedelta(days=7)
_DUPLICATE_RETRIES = 3
_SEQ_DIGITS = 12
_STATEMENT_PAGE = 1000


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
        operations = [operation for command in commands for operation in command.operations]
        needs = _sum_of(operation.needs for operation in operations)
        claim_ids = [command.claim.id for command in commands if command.claim is not None]
        scopes = [operation.reference_scope for operation in operations if operation.reference_scope is not None]
        holds = self._load_holds(needs.holds, session) if needs.holds else {}
        originals = self._load_originals(needs.transactions, session) if needs.transactions else {}
        grant_ids = {*needs.grants, *(grant_id for original in originals.values() for grant_id, _ in original.transaction.allocations)}
        wallet_ids = {*needs.wallets, *(hold.wallet_id for hold in holds.values())}
        wallet_ids.update(i for original in originals.values() for i in original.transaction.wallet_ids)
        return Snapshot(
            wallets=[to_wallet(document) for document in self._wallets.load_many(wallet_ids, session)],
            answers=self._load_answers(claim_ids, session) if claim_ids else {},
            references=self._load_references(scopes, session) if scopes else {},
            holds=holds,
            originals=originals,
            grants=self._load_grants(grant_ids, session) if grant_ids else {},
        )

    def _load_answers(self, claim_ids: list[str], session: ClientSession) -> dict[str, StoredAnswer]:
        return load_answers(self._database, claim_ids, session)

    def _load_references(self, scopes: list[str], session: ClientSession) -> dict[str, str]:
        """A grant that takes effect later has used its reference up before there is a transaction."""
        query, fields = {"reference_scope": {"$in": scopes}}, ("reference_scope",)
        used: dict[str, str] = {}
        for collection in ("grants", "transactions"):
            rows = self._database.collection(collection).find(query, fields, session=session)
            used.update((row["reference_scope"], row["_id"]) for row in rows)
        return used

    def _load_holds(self, hold_ids: Sequence[str], session: ClientSession) -> dict[str, Hold]:
        rows = self._database.collection("holds").find({"_id": {"$in": list(hold_ids)}}, session=session)
        return {row["_id"]: to_hold(row) for row in rows}

    def _load_originals(self, transaction_ids: Sequence[str], session: ClientSession) -> dict[str, Original]:
        ids = list(transaction_ids)
        rows = self._database.collection("transactions").find({"_id": {"$in": ids}}, session=session)
        reversed_amounts = self.reversed_amounts(ids, session)
        return {row["_id"]: Original(to_transaction(row), reversed_amounts.get(row["_id"], 0)) for row in rows}

    def _load_grants(self, grant_ids: Iterable[str], session: ClientSession) -> dict[str, Grant]:
        rows = self._database.collection("grants").find({"_id": {"$in": list(grant_ids)}}, session=session)
        return {row["_id"]: to_grant(row) for row in rows}

    def _write(self, outcome: Outcome, session: ClientSession) -> None:
        if outcome.wallets:
            changes = [(wallet.id, version, _wallet_fields(wallet, version, outcome.decided_at)) for version, wallet in outcome.wallets]
            if self._wallets.save_many(changes, session) != len(changes):
                raise LedgerInvariantError("a wallet changed inside the transaction's own snapshot")
        for collection, rows in self._rows(outcome).items():
            if rows:
                self._database.insert_rows(collection, rows, session)
        for collection, updates in self._updates(outcome).items():
            if updates and self._database.update_rows(collection, updates, session) != len(updates):
                raise LedgerInvariantError(f"a record of {collection} is missing")

    @staticmethod
    def _rows(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
        """The documents to insert, by collection."""
        now = utc_now()
        told = list(notices(outcome))
        return {
            "transactions": [_transaction_row(posting) for posting in outcome.posted],
            "entries": [row for posting in outcome.posted for row in _entry_rows(posting.transaction)],
            "grants": [_grant_row(issue) for issue in outcome.issued],
            "holds": [_hold_row(hold) for hold in outcome.placed],
            CLAIMS: [claim_row(claim, verdict, now) for claim, verdict in outcome.claimed],
            "audit_logs": [*(_audit_row(posting) for posting in outcome.posted), *(_event_row(event) for event in outcome.events)],
            OUTBOX: [outbox_row(now, told)] if told else [],
        }

    @staticmethod
    def _updates(outcome: Outcome) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
        """The `(query, update)` pairs, by collection."""
        now = utc_now()
        return {
            "holds": [({"_id": hold_id}, _hold_update(fields, now)) for hold_id, fields in outcome.hold_changes.items()],
            "grants": [({"_id": grant_id}, {"$set": {"ended": ended}}) for grant_id, ended in outcome.grant_ends.items()],
        }

    # Reads

    def find_transaction(self, transaction_id: str) -> Transaction | None:
        row = self._database.find_one("transactions", {"_id": transaction_id})
        return None if row is None else to_transaction(row)

    def history(self, wallet_id: str, filters: Mapping[str, Any], before_seq: int | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries of a wallet, newest first, below `before_seq`; one range scan over `_id`."""
        upper = entry_id(wallet_id, before_seq) if before_seq is not None else f"{wallet_id};"
        query = {"_id": {"$gt": f"{wallet_id}:", "$lt": upper}, **filters}
        return self._database.find_many("entries", query, sort=(("_id", -1),), limit=limit)

    def statement(self, wallet_id: str, filters: Mapping[str, Any], last_seq: int) -> Iterator[dict[str, Any]]:
        """A wallet's entries up to `last_seq`, oldest first; one round trip for a thousand."""
        lower, upper = f"{wallet_id}:", entry_id(wallet_id, last_seq)
        while True:
            query = {"_id": {"$gt": lower, "$lte": upper}, **filters}
            rows = self._database.find_many("entries", query, sort=(("_id", 1),), limit=_STATEMENT_PAGE)
            yield from rows
            if len(rows) < _STATEMENT_PAGE:
                return
            lower = rows[-1]["_id"]

    def entry_at(self, wallet_id: str, seq: int) -> dict[str, Any] | None:
        return self._database.find_one("entries", {"_id": entry_id(wallet_id, seq)})

    def reversed_amounts(self, transaction_ids: Sequence[str], session: ClientSession | None = None) -> dict[str, int]:
        """How much of each of these transactions was taken back; those of which nothing was are missing."""
        found: dict[str, int] = {}
        query = {"reverses": {"$in": list(transaction_ids)}}
        for row in self._database.collection("transactions").find(query, ("reverses", "amount"), session=session):
            found[row["reverses"]] = found.get(row["reverses"], 0) + row["amount"]
        return found

    def due_wallets(self, now: datetime, limit: int) -> list[str]:
        """Up to `limit` wallets to which the clock has done something that is not written down."""
        query, order = {"next_event_at": {"$lte": now}}, (("next_event_at", 1),)
        return [row["_id"] for row in self._database.find_many("wallets", query, sort=order, limit=limit, projection=("_id",))]

    def find_hold(self, hold_id: str) -> Hold | None:
        row = self._database.find_one("holds", {"_id": hold_id})
        return None if row is None else to_hold(row)

    def holds(self, filters: Mapping[str, Any], before: str | None, limit: int) -> list[Hold]:
        """Up to `limit` holds, newest first, with ids below `before`."""
        query = {**filters, **({"_id": {"$lt": before}} if before is not None else {})}
        return [to_hold(row) for row in self._database.find_many("holds", query, sort=(("_id", -1),), limit=limit)]

    def held_at(self, wallet_id: str, at: datetime) -> int:
        """What holds reserved in a wallet at a time in the past."""
        query = {"wallet_id": wallet_id, "created_at": {"$lte": at}, "lasted_until": {"$gt": at}}
        rows = self._database.collection("holds").find(query, ("changes", "expires_at"))
        return sum(_reserved_at(row, at) for row in rows)

    def grants(self, wallet_id: str, before: str | None, limit: int) -> list[Grant]:
        """Up to `limit` grants of a wallet, newest first, with ids below `before`."""
        query = {"wallet_id": wallet_id, **({"_id": {"$lt": before}} if before is not None else {})}
        return [to_grant(row) for row in self._database.find_many("grants", query, sort=(("_id", -1),), limit=limit)]


def entry_id(wallet_id: str, seq: int) -> str:
    """Entries are named by wallet and number: that makes the number unique, and a history one range of the index."""
    return f"{wallet_id}:{seq:0{_SEQ_DIGITS}d}"


def to_wallet(document: Mapping[str, Any]) -> Wallet:
    """A wallet, as the rules of the ledger want it."""
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
        lots=tuple(_to_lot(lot) for lot in document["lots"]),
        posted_at=document["posted_at"],
        holds=tuple(Reserve(hold["hold_id"], hold["remaining"], hold["expires_at"]) for hold in document["holds"]),
        # Wallets that were opened by an earlier release have no list of them.
        alerts=tuple(Alert(**alert) for alert in document.get("alerts", ())),
    )


def at_the_moment(document: dict[str, Any], now: datetime) -> dict[str, Any]:
    """A wallet's document as it would be if all that its clock has brought about were written down."""
    next_event: datetime | None = document["next_event_at"]
    if next_event is None or next_event > now:
        return document
    wallet = state_at(to_wallet(document), now)
    return {**document, **{name: value for name, value in _wallet_fields(wallet, document["version"], now).items() if name != "version"}}


def to_hold(row: Mapping[str, Any]) -> Hold:
    """A hold's record."""
    return Hold(row["_id"], *(row[name] for name in Hold.__slots__[1:]))


def to_grant(row: Mapping[str, Any]) -> Grant:
    """A grant's record."""
    return Grant(row["wallet_id"], row["amount"], _to_lot(row), row["ended"])


def _to_lot(document: Mapping[str, Any]) -> Lot:
    pending = document["pending"]
    return Lot(
        document["grant_id"],
        document["remaining"],
        document["category"],
        document["priority"],
        document["effective_at"],
        document["expires_at"],
        document["created_at"],
        Promise(**pending) if pending is not None else None,
    )


def _wallet_fields(wallet: Wallet, version: int, now: datetime) -> dict[str, Any]:
    alerts = {"alerts": [_fields(alert) for alert in wallet.alerts]} if wallet.alerts else {}
    return {
        **alerts,
        "settled": wallet.settled,
        "held": wallet.held,
        "seq": wallet.seq,
        "version": version + 1,
        "lots": [_lot_fields(lot) for lot in wallet.lots],
        "holds": [_fields(reserve) for reserve in wallet.holds],
        "posted_at": wallet.posted_at,
        "next_event_at": next_event_at(wallet, now),
    }


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _lot_fields(lot: Lot) -> dict[str, Any]:
    return {**_fields(lot), "pending": _fields(lot.pending) if lot.pending is not None else None}


def _sum_of(needs: Iterable[Needs]) -> Needs:
    """All of `needs` together, each id once."""
    sets: tuple[set[str], set[str], set[str], set[str]] = set(), set(), set(), set()
    for each in needs:
        for ids, own in zip(sets, (each.wallets, each.holds, each.transactions, each.grants), strict=True):
            ids.update(own)
    return Needs(*(tuple(ids) for ids in sets))


def _transaction_row(posting: Posting) -> dict[str, Any]:
    transaction = posting.transaction
    row = {
        "_id": transaction.id,
        "type": transaction.type,
        "asset": transaction.asset,
        "amount": transaction.amount,
        "source": transaction.source,
        "destination": transaction.destination,
        "entries": [_fields(entry) for entry in transaction.entries],
        "reference": transaction.reference,
        "memo": transaction.memo,
        "metadata": transaction.metadata,
        "allocations": [list(allocation) for allocation in transaction.allocations],
        "grant_id": transaction.grant_id,
        "created_at": transaction.created_at,
        "stamp": STAMPED_BY_THE_SERVER,
    }
    if transaction.reverses is not None:
        row["reverses"] = transaction.reverses
    if posting.reference_scope is not None:
        row["reference_scope"] = posting.reference_scope
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


def _grant_row(issue: Issue) -> dict[str, Any]:
    grant = issue.grant
    row = {"_id": grant.lot.grant_id, "wallet_id": grant.wallet_id, "amount": grant.amount, "ended": None, **_lot_fields(grant.lot)}
    if grant.lot.pending is not None and issue.reference_scope is not None:
        row["reference_scope"] = issue.reference_scope
    return row


def _hold_row(hold: Hold) -> dict[str, Any]:
    row = _fields(hold)
    changes = [{"at": hold.created_at, "remaining": hold.remaining}]
    return {"_id": row.pop("id"), **row, "changes": changes, "lasted_until": hold.expires_at}


def _hold_update(fields: dict[str, Any], now: datetime) -> dict[str, Any]:
    """What became of a hold. Its `changes` are for whoever asks later what was held at a time."""
    if fields["status"] == EXPIRED:
        return {"$set": fields}
    ended = fields["status"] != OPEN
    remaining = 0 if ended else fields["amount"] - fields["captured"]
    kept = {**fields, "lasted_until": now if ended else fields["expires_at"]}
    return {"$set": kept, "$push": {"changes": {"at": now, "remaining": remaining}}}


def _reserved_at(row: Mapping[str, Any], at: datetime) -> int:
    remaining: int = [change["remaining"] for change in row["changes"] if change["at"] <= at][-1]
    return remaining


def load_answers(database: DatabaseManager, claim_ids: Sequence[str], session: ClientSession) -> dict[str, StoredAnswer]:
    """What was answered to those of the claims that were made before, by id."""
    if not claim_ids:
        return {}
    rows = database.collection(CLAIMS).find({"_id": {"$in": list(claim_ids)}}, session=session)
    return {row["_id"]: StoredAnswer(row["fingerprint"], row["status"], row["body"]) for row in rows}


def claim_row(claim: Claim, verdict: Verdict, now: datetime) -> dict[str, Any]:
    """The record of a claim and of what was answered to it."""
    return {
        "_id": claim.id,
        "fingerprint": claim.fingerprint,
        "status": verdict.status,
        "body": verdict.body,
        "transaction_id": verdict.transaction.id if verdict.transaction is not None else None,
        "expires_at": now + _CLAIM_LIFE,
    }


def _audit_row(posting: Posting) -> dict[str, Any]:
    # The engine works for many requests at once, so who asked comes with the command and not from the context.
    transaction = posting.transaction
    return audit_entry(f"transactions.{transaction.type}", transaction.id, actor_id=posting.actor_id, request_id=posting.request_id)


def _event_row(event: Event) -> dict[str, Any]:
    return audit_entry(event.action, event.target, actor_id=event.actor_id, request_id=event.request_id)


def to_transaction(row: Mapping[str, Any]) -> Transaction:
    """A transaction's record, as it was posted."""
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
        reverses=row.get("reverses"),
        grant_id=row["grant_id"],
    )
