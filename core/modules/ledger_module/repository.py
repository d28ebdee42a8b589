"""The ledger's rows as its proofs read them, page by page and as the read-only user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import Timestamp, decode
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession

from core import metrics
from core.chain import Chain, Log, upto
from core.contracts import READ_ONLY
from core.modules.ledger_module.checks import entries_of, entry_ids_of
from core.modules.transactions_module.repository import at_the_moment
from utils.clock import utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from core.managers.database_manager import DatabaseManager

LEDGER = Log(
    title="ledger",
    rows="transactions",
    seals="ledger_seals",
    id_type=str,
    lease="ledger-sealer",
    gauges=(metrics.LEDGER_CHAIN_OK, metrics.LEDGER_UNSEALED, metrics.LEDGER_LAST_SEALED),
)
# What lies between these are the entries of system accounts.
SYSTEM, AFTER_SYSTEM = "system:", "system;"
STATE = "ledger_state"
_PAGE_SECONDS, _SCAN_SECONDS = 30.0, 600.0
_WALLETS = "wallets"
_ENTRY_FIELDS = ("wallet_id", "transaction_id", "asset", "delta", "seq", "balance_after", "held_after")
# An id may be of any type but array, regex and undefined.
_OTHER_TYPES = [
    "double",
    "object",
    "binData",
    "objectId",
    "bool",
    "date",
    "null",
    "int",
    "timestamp",
    "long",
    "decimal",
    "minKey",
    "maxKey",
]
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)

Document = dict[str, Any]


@dataclass
class Totals:
    """What lies where, per asset and account (`wallets` stands for all of those), and how much of everything there is."""

    accounts: dict[str, dict[str, int]] = field(default_factory=dict)
    transactions: int = 0
    wallet_entries: int = 0
    system_entries: int = 0

    def add(self, transaction: Mapping[str, Any]) -> None:
        """Count one transaction in."""
        self.transactions += 1
        for entry in transaction["entries"]:
            self.move(transaction["asset"], entry["wallet_id"] if entry["seq"] is None else _WALLETS, entry["delta"])

    def move(self, asset: str, account: str, delta: int, entries: int = 1) -> None:
        """Count entries of one account in."""
        accounts = self.accounts.setdefault(asset, {})
        accounts[account] = accounts.get(account, 0) + delta
        if account == _WALLETS:
            self.wallet_entries += entries
        else:
            self.system_entries += entries

    def copy(self) -> Totals:
        accounts = {asset: dict(each) for asset, each in self.accounts.items()}
        return Totals(accounts, self.transactions, self.wallet_entries, self.system_entries)


@dataclass
class Census:
    """What the records say at one moment, beside what the transactions until then make: `expected`."""

    expected: Totals
    newest: Timestamp
    as_of: datetime
    # Per asset: {settled, held, reserved, entries, wallets}.
    wallets: dict[str, dict[str, int]]
    open_holds: int
    open_amount: int
    system_entries: int

    @property
    def sums(self) -> dict[str, int]:
        """Per asset what all accounts hold together: the wallets' own balances, and the system's accounts by their entries."""
        assets = {*self.expected.accounts, *self.wallets}
        return {asset: self.wallets.get(asset, {}).get("settled", 0) + sum(self.system(asset).values()) for asset in sorted(assets)}

    def system(self, asset: str) -> dict[str, int]:
        """The system's accounts of an asset."""
        accounts = self.expected.accounts.get(asset, {})
        return {account: total for account, total in sorted(accounts.items()) if account != _WALLETS}

    @property
    def wallet_entries(self) -> int:
        """How many entries the wallets have counted."""
        return sum(each["entries"] for each in self.wallets.values())


class ProofRepository:
    """Reads that see everything once, in pages that are small for the server and for us."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        self.chain = Chain(database, LEDGER)

    def size(self) -> int:
        """About how many rows a verification looks at."""
        with self._database.errors():
            return sum(self._database.collection(name).estimated_document_count() for name in ("transactions", "entries", "wallets"))

    # Transactions and their entries

    def tail(self, after: Timestamp, until: Timestamp | None, limit: int) -> list[RawBSONDocument]:
        """The transactions above the stamp `after`, up to `until`, by stamp."""
        bounds = {"$gt": after, **({"$lte": until} if until is not None else {})}
        with self._database.errors(_PAGE_SECONDS):
            return list(self._raw("transactions").find({"stamp": bounds}, batch_size=limit + 1).sort("stamp", 1).limit(limit))

    def wrong_entries(self, transactions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
        """Of the entries that `transactions` must have, those that are missing or different: `(id, what)`."""
        expected = {row["_id"]: row for transaction in transactions for row in entries_of(transaction)}
        ids = list(expected)
        with self._database.errors(_PAGE_SECONDS):
            rows = self._read_only("entries").find({"_id": {"$in": ids}}, batch_size=len(ids) + 1)
            stored = {row["_id"]: row for row in rows}
        for row_id, row in expected.items():
            if row_id not in stored:
                yield row_id, "missing"
            elif not _same(stored[row_id], row):
                yield row_id, "not as in its transaction"

    def strays(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """The ids of those `entries` that no transaction has."""
        ids = list({entry["transaction_id"] for entry in entries})
        with self._database.errors(_PAGE_SECONDS):
            found = self._read_only("transactions").find({"_id": {"$in": ids}}, batch_size=len(ids) + 1)
            known = {entry_id for transaction in found for entry_id in entry_ids_of(transaction)}
        return [entry["_id"] for entry in entries if entry["_id"] not in known]

    def entries(self, after: str, before: str | None, limit: int) -> list[Document]:
        """Up to `limit` entries with ids above `after` and below `before`, by id."""
        bounds = {"$gt": after, **({"$lt": before} if before is not None else {})}
        with self._database.errors(_PAGE_SECONDS):
            found = self._read_only("entries").find({"_id": bounds}, _ENTRY_FIELDS, batch_size=limit + 1)
            return list(found.sort("_id", 1).limit(limit))

    # Wallets and their holds

    def wallets(self, after: str, limit: int) -> tuple[list[Document], list[Document], dict[str, Document]]:
        """The next wallets by id, of each that has any the sum of its holds, and the grants in their lots by id: at one moment."""
        with self._database.errors(_PAGE_SECONDS), self._database.snapshot() as session:
            found = self._read_only("wallets").find({"_id": {"$gt": after}}, session=session, batch_size=limit + 1)
            wallets = list(found.sort("_id", 1).limit(limit))
            bounds = {"$gt": after, **({"$lte": wallets[-1]["_id"]} if len(wallets) == limit else {})}
            holds = list(self._aggregate("holds", [{"$match": {"wallet_id": bounds}}, _HOLDS_OF_WALLET], session))
            ids = [lot["grant_id"] for wallet in wallets for lot in wallet.get("lots", ())]
            grants = self._read_only("grants").find({"_id": {"$in": ids}}, ("wallet_id", "amount"), session=session) if ids else ()
            return wallets, holds, {grant["_id"]: grant for grant in grants}

    def known_wallets(self, wallet_ids: Sequence[str]) -> set[str]:
        """Which of `wallet_ids` there are."""
        with self._database.errors(_PAGE_SECONDS):
            return {row["_id"] for row in self._read_only("wallets").find({"_id": {"$in": list(wallet_ids)}}, ("_id",))}

    def misnamed(self, collection: str, limit: int) -> list[Any]:
        """The ids in `collection` that are no texts: no page of ours would reach them."""
        with self._database.errors(_PAGE_SECONDS):
            return [row["_id"] for row in self._read_only(collection).find({"_id": {"$type": _OTHER_TYPES}}, ("_id",)).limit(limit)]

    # References and reversals

    def groups(self, collection: str, name: str, more: Sequence[str], limit: int) -> Iterator[tuple[str, list[Document]]]:
        """Rows with a field `name`, grouped by its value and in the order of it: one range of its index."""
        after = ""
        while True:
            rows = self._by_field(collection, name, {"$gt": after}, more, limit)
            full = len(rows) == limit
            if full and rows[0][name] == rows[-1][name]:
                rows, full = self._by_field(collection, name, rows[0][name], more, 0), False
                after = rows[0][name]
                yield after, rows
                continue
            groups: dict[str, list[Document]] = {}
            for row in rows:
                groups.setdefault(row[name], []).append(row)
            if full:
                # It may go on in the next page.
                del groups[rows[-1][name]]
            for value, group in groups.items():
                after = value
                yield value, group
            if not full:
                return

    def amounts(self, transaction_ids: Sequence[str]) -> dict[str, int]:
        """The amounts of transactions, by id."""
        with self._database.errors(_PAGE_SECONDS):
            found = self._read_only("transactions").find({"_id": {"$in": list(transaction_ids)}}, ("amount",))
            return {row["_id"]: row["amount"] for row in found}

    def _by_field(self, collection: str, name: str, value: Any, more: Sequence[str], limit: int) -> list[Document]:
        # With $exists the server may use the partial index.
        query = {"$and": [{name: value}, {name: {"$exists": True}}]}
        with self._database.errors(_PAGE_SECONDS):
            found = self._read_only(collection).find(query, ("_id", name, *more), batch_size=max(limit, 1000) + 1)
            return list(found.sort(name, 1).limit(limit))

    # Sums

    def census(self, sealed: Totals, after: Timestamp, seconds: float | None = None) -> Census:
        """Everything summed up at one moment. `sealed`: what all transactions up to the stamp `after` make."""
        expected = sealed.copy()
        with self._database.errors(seconds or _SCAN_SECONDS), self._database.snapshot() as session:
            newest = self._read_only("transactions").find_one({}, ("stamp",), sort=[("stamp", -1)], session=session)
            self._add_tail(expected, after, session)
            wallets = {row.pop("_id"): row for row in self._aggregate("wallets", _WALLET_SUMS, session)}
            holds = next(self._aggregate("holds", _HOLD_SUMS, session), {"holds": 0, "amount": 0})
            system = next(self._aggregate("entries", _SYSTEM_COUNT, session), {"entries": 0})
        return Census(expected, _stamp(newest) or after, utc_now(), wallets, holds["holds"], holds["amount"], system["entries"])

    def _add_tail(self, totals: Totals, after: Timestamp, session: ClientSession) -> None:
        later = {"$match": {"stamp": {"$gt": after}}}
        for row in self._aggregate("transactions", [later, *_TAIL_SUMS], session):
            totals.move(row["_id"]["asset"], row["_id"]["account"], row["total"], row["entries"])
        totals.transactions += next(self._aggregate("transactions", [later, {"$count": "rows"}], session), {"rows": 0})["rows"]

    def _aggregate(self, collection: str, pipeline: Sequence[Mapping[str, Any]], session: ClientSession) -> Iterator[Document]:
        return iter(self._read_only(collection).aggregate(list(pipeline), session=session))

    # What is remembered

    def state(self, name: str) -> Document | None:
        """What a worker has noted under `name`."""
        with self._database.errors():
            return self._database.collection(STATE).find_one({"_id": name})

    def note(self, name: str, document: Mapping[str, Any], more: Callable[[ClientSession], None] = lambda _: None) -> None:
        """Note `document` under `name`, and do `more` in the same transaction."""

        def work(session: ClientSession) -> None:
            self._database.collection(STATE).replace_one({"_id": name}, dict(document), upsert=True, session=session)
            more(session)

        self._database.transaction(work)

    def notify(self, row: Document) -> Callable[[ClientSession], None]:
        """Something to do with `note`: put `row` into the outbox."""
        return lambda session: self._database.insert_rows("outbox", [row], session)

    def _read_only(self, collection: str) -> Any:
        return self._database.collection(collection, READ_ONLY)

    def _raw(self, collection: str) -> Any:
        return self._read_only(collection).with_options(codec_options=_RAW)


def decoded(row: RawBSONDocument) -> Document:
    """A raw row as a document."""
    return decode(row.raw, _AWARE)


def available_soon(wallet: Mapping[str, Any], now: datetime) -> int:
    """What is available in a wallet once all that is due at `now` was written down: a limit may have been lowered on account of that."""
    document = at_the_moment({**wallet, "next_event_at": now}, now)
    available: int = document["settled"] + document["credit_limit"] - document["held"]
    return available


def _same(stored: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Equal in the types of the numbers too, and in the order of the fields."""
    return stored == row and list(stored) == list(row) and list(map(type, stored.values())) == list(map(type, row.values()))


def _stamp(row: Mapping[str, Any] | None) -> Timestamp | None:
    stamp = row.get("stamp") if row is not None else None
    return stamp if isinstance(stamp, Timestamp) else None


FIRST = upto(None)
_WALLET_SUMS: tuple[Document, ...] = (
    {
        "$group": {
            "_id": "$asset",
            "settled": {"$sum": "$settled"},
            "held": {"$sum": "$held"},
            "reserved": {"$sum": {"$sum": "$holds.remaining"}},
            "entries": {"$sum": "$seq"},
            "wallets": {"$sum": 1},
        }
    },
)
# Rows that someone else has made may hold anything, and the server refuses to calculate with it.
_NUMBERS = {"$and": [{"$isNumber": "$amount"}, {"$isNumber": "$captured"}]}
_REMAINING = {"$cond": [_NUMBERS, {"$subtract": ["$amount", "$captured"]}, None]}
_LAST_CHANGE = {"$cond": [{"$isArray": "$changes"}, {"$last": "$changes.remaining"}, None]}
_ENDED = {"$in": ["$status", ["captured", "released"]]}
_HOLD_IS_RIGHT = {
    "$and": [
        {"$gte": ["$captured", 0]},
        {"$lte": ["$captured", "$amount"]},
        {"$in": ["$status", ["open", "expired", "captured", "released"]]},
        {"$eq": [_LAST_CHANGE, {"$cond": [_ENDED, 0, _REMAINING]}]},
    ]
}
_OPEN_HOLD = {"hold_id": "$_id", "remaining": _REMAINING, "expires_at": "$expires_at"}
_HOLDS_OF_WALLET: Document = {
    "$group": {
        "_id": "$wallet_id",
        "holds": {"$sum": 1},
        "first": {"$first": "$_id"},
        "owners": {"$addToSet": "$owner_id"},
        "most": {"$sum": {"$max": "$changes.remaining"}},
        "open": {"$push": {"$cond": [{"$eq": ["$status", "open"]}, _OPEN_HOLD, "$$REMOVE"]}},
        "wrong": {"$push": {"$cond": [_HOLD_IS_RIGHT, "$$REMOVE", "$_id"]}},
    }
}
_HOLD_SUMS: tuple[Document, ...] = (
    {"$match": {"status": "open"}},
    {"$group": {"_id": None, "amount": {"$sum": _REMAINING}, "holds": {"$sum": 1}}},
)
_SYSTEM_COUNT: tuple[Document, ...] = ({"$match": {"_id": {"$gte": SYSTEM, "$lt": AFTER_SYSTEM}}}, {"$count": "entries"})
_TAIL_SUMS: tuple[Document, ...] = (
    {"$unwind": "$entries"},
    {
        "$group": {
            "_id": {"asset": "$asset", "account": {"$cond": [{"$eq": ["$entries.seq", None]}, "$entries.wallet_id", _WALLETS]}},
            "total": {"$sum": "$entries.delta"},
            "entries": {"$sum": 1},
        }
    },
)
