"""The ledger's collections as export reads them and import fills them; like the repository, it sees the driver."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from core.chain import upto
from core.contracts import ADMIN, READ_ONLY
from core.modules.ledger_module.checks import entries_of
from core.modules.ledger_module.repository import LEDGER, STATE, ProofRepository
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_PAGE = 1000
_PAGE_SECONDS = 30.0
_MARKER = "import"
LOADING, OPENING, DONE = "loading", "opening", "done"
# A wallet in this state pays nothing and takes nothing.
_STATUS = "frozen"
_OF_WALLET = ("grants", "holds")
_MUST_BE_EMPTY = ("transactions", "entries", "grants", "holds", "ledger_seals")

Document = dict[str, Any]


class RowExists(Exception):
    """There is a row of that id, or with that reference."""


class Moment:
    """The ledger as it was at one moment, which the server remembers for some minutes."""

    def __init__(self, database: DatabaseManager, session: ClientSession) -> None:
        self._database = database
        self._session = session

    def last_seal(self) -> Document | None:
        """The newest seal."""
        with self._database.errors(_PAGE_SECONDS):
            seal: Document | None = self._read(LEDGER.seals).find_one({}, sort=[("_id", -1)], session=self._session)
        return seal

    def transactions_after(self, after: Timestamp) -> tuple[list[str], Timestamp | None]:
        """The ids of the transactions above a stamp, by stamp, and the stamp of the newest of all."""
        with self._database.errors(_PAGE_SECONDS):
            found = self._read("transactions").find({"stamp": {"$gt": after}}, ("stamp",), session=self._session)
            rows = list(found.sort("stamp", 1))
        return [row["_id"] for row in rows], rows[-1]["stamp"] if rows else after

    def assets(self) -> list[str]:
        """The assets that wallets are of."""
        with self._database.errors(_PAGE_SECONDS):
            return sorted(self._read("wallets").distinct("asset", session=self._session))

    def rows(self, collection: str) -> Iterator[RawBSONDocument]:
        """All rows by id, read page by page while they are taken."""
        after: Any = ""
        while True:
            with self._database.errors(_PAGE_SECONDS):
                found = _raw(self._database, collection).find({"_id": {"$gt": after}}, session=self._session, batch_size=_PAGE + 1)
                page = list(found.sort("_id", 1).limit(_PAGE))
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]["_id"]

    def _read(self, collection: str) -> Any:
        return self._database.collection(collection, READ_ONLY)


class LedgerStore:
    """What an export reads, and the steps of an import. A marker says in which of its phases an import is, also after a crash."""

    def __init__(self, database: DatabaseManager, proofs: ProofRepository) -> None:
        self._database = database
        self._proofs = proofs

    # Export

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """Now, to be read from as long as the block lasts."""
        with self._database.snapshot() as session:
            yield Moment(self._database, session)

    def sealed(self, until: int) -> Iterator[tuple[list[RawBSONDocument], RawBSONDocument]]:
        """Up to the seal with the number `until`: the transactions of each, and itself."""
        for number in range(1, until + 1):
            with self._database.errors(_PAGE_SECONDS):
                seal = _raw(self._database, LEDGER.seals).find_one({"_id": number})
            if seal is None:
                # Whoever imports this will be told.
                return
            yield self._proofs.chain.rows_of(seal), seal

    def transactions(self, ids: Sequence[str]) -> Iterator[list[RawBSONDocument]]:
        """Transactions in the order of `ids`, page by page."""
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            with self._database.errors(_PAGE_SECONDS):
                rows = {row["_id"]: row for row in _raw(self._database, "transactions").find({"_id": {"$in": page}}, batch_size=_PAGE + 1)}
            yield [rows[row_id] for row_id in page]

    # Import

    @property
    def phase(self) -> str | None:
        """Of the import that is or was: loading, opening, done; None when there was none."""
        marker = self._proofs.state(_MARKER)
        return marker["phase"] if marker is not None else None

    def epoch(self) -> str | None:
        """A text that is another one after an import; None while there is one, or one that was broken off."""
        marker = self._proofs.state(_MARKER)
        if marker is None:
            return "the beginning"
        return str(marker["at"]) if marker["phase"] == DONE else None

    def mark(self, phase: str, newest: Timestamp | None = None) -> None:
        """Note that the import is in `phase` now; `newest`: the last stamp in what it brings."""
        marker = self._proofs.state(_MARKER) or {}
        self._proofs.note(_MARKER, {"phase": phase, "at": utc_now(), "newest": newest or marker.get("newest")})

    def forget(self) -> None:
        """Note that there was no import."""
        with self._database.errors(_PAGE_SECONDS):
            self._database.collection(STATE, ADMIN).delete_one({"_id": _MARKER})

    def is_empty(self) -> bool:
        """Whether no credits were ever in this ledger; wallets of new users may be there."""
        with self._database.errors(_PAGE_SECONDS):
            used = any(self._database.collection(name).find_one({}, ("_id",)) is not None for name in _MUST_BE_EMPTY)
            return not used and self._database.collection("wallets").find_one({"seq": {"$gt": 0}}, ("_id",)) is None

    def insert(self, collection: str, rows: Sequence[Document]) -> None:
        """Insert rows, transactions together with their entries; raises RowExists."""
        inserts = [(collection, rows)]
        if collection == "wallets":
            inserts = [(collection, [_closed(row) for row in rows])]
        elif collection == "transactions":
            inserts.append(("entries", [entry for row in rows for entry in entries_of(row)]))

        def work(session: ClientSession) -> None:
            for name, documents in inserts:
                self._database.insert_rows(name, documents, session)

        try:
            self._database.transaction(work)
        except DuplicateKeyError as error:
            raise RowExists(collection) from error

    def are_loaded(self, wallet_ids: Collection[str]) -> bool:
        """Whether all of `wallet_ids` are of this import."""
        query = {"_id": {"$in": list(wallet_ids)}, "importing": {"$exists": True}}
        with self._database.errors(_PAGE_SECONDS):
            return self._database.collection("wallets").count_documents(query) == len(wallet_ids)

    def open_wallets(self) -> Iterator[int]:
        """Give the wallets that were loaded the status that they had; after each page how many they were."""
        steps: list[Document] = [
            {"$set": {"status": "$importing.status", "next_event_at": "$importing.next_event_at"}},
            {"$unset": "importing"},
        ]
        while ids := self._loaded_wallets():
            with self._database.errors(_PAGE_SECONDS):
                self._database.collection("wallets").update_many({"_id": {"$in": ids}}, steps)
            yield len(ids)

    def remove(self) -> Iterator[int]:
        """Take everything out again that an import has brought, as the admin; after each page how many rows went."""
        marker = self._proofs.state(_MARKER)
        newest = marker["newest"] if marker is not None else upto(None)
        # What was posted meanwhile, in a wallet that is not of the import, has a later stamp.
        while rows := self._proofs.tail(Timestamp(0, 0), newest, _PAGE):
            ids = [row["_id"] for row in rows]
            self._delete("entries", "transaction_id", ids, [entry["_id"] for row in rows for entry in entries_of(row)])
            self._delete("transactions", "_id", ids)
            yield len(ids)
        self._delete_all_seals()
        while ids := self._loaded_wallets():
            for collection in _OF_WALLET:
                self._delete(collection, "wallet_id", ids)
            self._delete("wallets", "_id", ids)
            yield len(ids)

    def _loaded_wallets(self) -> list[str]:
        with self._database.errors(_PAGE_SECONDS):
            found = self._database.collection("wallets").find({"importing": {"$exists": True}}, ("_id",), batch_size=_PAGE + 1)
            return [row["_id"] for row in found.limit(_PAGE)]

    def _delete(self, collection: str, name: str, values: Sequence[str], ids: Sequence[str] = ()) -> None:
        query = {"_id": {"$in": list(ids)}} if ids else {}
        with self._database.errors(_PAGE_SECONDS):
            self._database.collection(collection, ADMIN).delete_many({**query, name: {"$in": list(values)}})

    def _delete_all_seals(self) -> None:
        with self._database.errors(_PAGE_SECONDS):
            self._database.collection(LEDGER.seals, ADMIN).delete_many({})


def _raw(database: DatabaseManager, collection: str) -> Any:
    plain = database.collection(collection, READ_ONLY)
    return plain.with_options(codec_options=plain.codec_options.with_options(document_class=RawBSONDocument))


def _closed(wallet: Mapping[str, Any]) -> Document:
    """A wallet that is not usable yet, and that no clock touches."""
    kept = {"status": wallet["status"], "next_event_at": wallet["next_event_at"]}
    return {**wallet, "status": _STATUS, "next_event_at": None, "importing": kept}
