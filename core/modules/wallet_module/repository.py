"""Wallet documents in MongoDB; the only file of this module that sees the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_COLLECTION = "wallets"


class WalletRepository:
    """Reads wallets by id and by owner; writes them only together with the postings that change them."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def insert(self, wallet: dict[str, Any], session: ClientSession) -> None:
        self._database.insert_one(_COLLECTION, wallet, session)

    def freeze_all(self, owner_id: str, session: ClientSession) -> None:
        update = {"$set": {"status": "frozen"}, "$inc": {"version": 1}}
        self._database.update_many(_COLLECTION, {"owner_id": owner_id}, update, session)

    def open(self, wallet: dict[str, Any]) -> bool:
        """Insert a new wallet; False when its owner has one of that asset."""
        try:
            self._database.insert_one(_COLLECTION, wallet)
        except DuplicateKeyError:
            return False
        return True

    def change(self, wallet_id: str, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any] | None:
        """Set what `changed` makes of the document, in one transaction; the new document, or None when there is none."""

        def work(session: ClientSession) -> dict[str, Any] | None:
            wallet = self._database.find_one(_COLLECTION, {"_id": wallet_id}, session=session)
            if wallet is None:
                return None
            fields = {**changed(wallet), "version": wallet["version"] + 1}
            self._database.update_one(_COLLECTION, {"_id": wallet_id, "version": wallet["version"]}, {"$set": fields}, session)
            return {**wallet, **fields}

        return self._database.transaction(work)

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
        return self._database.on_collection(_COLLECTION, lambda wallets: list(wallets.aggregate(pipeline)))

    def save_many(self, changes: Iterable[tuple[str, int, dict[str, Any]]], session: ClientSession) -> int:
        """Write `(id, version that was read, fields)`; how many were still at that version."""
        updates = [({"_id": wallet_id, "version": version}, {"$set": fields}) for wallet_id, version, fields in changes]
        return self._database.update_rows(_COLLECTION, updates, session)
