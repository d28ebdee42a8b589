"""Wallet documents in MongoDB; the only file of this module that sees the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from core.census import COUNT_SECONDS
from core.contracts import READ_ONLY
from core.outbox import OUTBOX, Notice, outbox_row
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_COLLECTION = "wallets"

Document = dict[str, Any]
# What the outbox is told of a wallet, from its document before and after a change.
Told = Callable[[Document, Document], Iterable[Notice]]


def _nothing(_before: Document, _after: Document) -> Iterable[Notice]:
    return ()


class WalletRepository:
    """Reads wallets by id and by owner; writes them only together with the postings that change them."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def insert(self, wallet: dict[str, Any], session: ClientSession) -> None:
        self._database.insert_one(_COLLECTION, wallet, session)

    def freeze_all(self, owner_id: str, session: ClientSession, told: Told) -> None:
        """Freeze an owner's wallets, and write down what is `told` of each."""
        wallets = list(self._database.collection(_COLLECTION).find({"owner_id": owner_id}, session=session))
        update = {"$set": {"status": "frozen"}, "$inc": {"version": 1}}
        self._database.update_many(_COLLECTION, {"owner_id": owner_id}, update, session)
        after = [{**wallet, "status": "frozen", "version": wallet["version"] + 1} for wallet in wallets]
        self._tell([notice for pair in zip(wallets, after, strict=True) for notice in told(*pair)], session)

    def open(self, wallet: dict[str, Any]) -> bool:
        """Insert a new wallet; False when its owner has one of that asset."""
        try:
            self._database.insert_one(_COLLECTION, wallet)
        except DuplicateKeyError:
            return False
        return True

    def change(self, wallet_id: str, changed: Callable[[Document], Document], told: Told = _nothing) -> Document | None:
        """Set what `changed` makes of the document, and write down what is `told` of it, in one transaction.

        The new document, or None when there is none.
        """

        def work(session: ClientSession) -> dict[str, Any] | None:
            wallet = self._database.find_one(_COLLECTION, {"_id": wallet_id}, session=session)
            if wallet is None:
                return None
            fields = {**changed(wallet), "version": wallet["version"] + 1}
            self._database.update_one(_COLLECTION, {"_id": wallet_id, "version": wallet["version"]}, {"$set": fields}, session)
            after = {**wallet, **fields}
            self._tell(list(told(wallet, after)), session)
            return after

        return self._database.transaction(work)

    def _tell(self, notices: list[Notice], session: ClientSession) -> None:
        if notices:
            self._database.insert_rows(OUTBOX, [outbox_row(utc_now(), notices)], session)

    def find(self, wallet_id: str) -> dict[str, Any] | None:
        return self._database.find_one(_COLLECTION, {"_id": wallet_id})

    def find_page(self, filters: Mapping[str, Any], after: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` wallets with an id above `after`, by id."""
        query = {**filters, **({"_id": {"$gt": after}} if after is not None else {})}
        return self._database.find_many(_COLLECTION, query, limit=limit)

    def owned(self, wallet_ids: Iterable[str], owner_id: str) -> set[str]:
        """Which of `wallet_ids` belong to `owner_id`."""
        ids = list(wallet_ids)
        query = {"_id": {"$in": ids}, "owner_id": owner_id}
        return {wallet["_id"] for wallet in self._database.find_many(_COLLECTION, query, limit=len(ids), projection=("_id",))}

    def load_many(self, wallet_ids: Iterable[str], session: ClientSession) -> list[dict[str, Any]]:
        """The wallets of `wallet_ids` that exist, as the transaction of `session` sees them."""
        ids = list(wallet_ids)
        # All in one answer: the server's usual first batch of 101 would cost a second round trip.
        found = self._database.collection(_COLLECTION).find({"_id": {"$in": ids}}, session=session, batch_size=len(ids) + 1)
        return list(found)

    def sums(self, assets: int) -> list[dict[str, Any]]:
        """`{_id: asset, wallets, settled, held}` over all wallets that hold something or owe it, of the largest `assets` assets."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {"$or": [{"settled": {"$ne": 0}}, {"held": {"$ne": 0}}]}},
            {"$group": {"_id": "$asset", "wallets": {"$sum": 1}, "settled": {"$sum": "$settled"}, "held": {"$sum": "$held"}}},
            {"$sort": {"wallets": -1}},
            {"$limit": assets},
        ]
        with self._database.errors(COUNT_SECONDS):
            return list(self._database.collection(_COLLECTION, READ_ONLY).aggregate(pipeline))

    def save_many(self, changes: Iterable[tuple[str, int, dict[str, Any]]], session: ClientSession) -> int:
        """Write `(id, version that was read, fields)`; how many were still at that version."""
        updates = [({"_id": wallet_id, "version": version}, {"$set": fields}) for wallet_id, version, fields in changes]
        return self._database.update_rows(_COLLECTION, updates, session)
