"""API keys in MongoDB; the only file about keys that sees the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.client_session import ClientSession

from core.contracts import FieldRules

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_KEYS = "api_keys"
T = TypeVar("T")


class KeyRepository:
    """A revoked key expires at once: its row goes by itself, as that of one whose time has come."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        # People name their keys after themselves and their machines.
        database.declare_fields(_KEYS, FieldRules(sealed=("name",)))

    def transaction(self, work: Callable[[ClientSession], T]) -> T:
        return self._database.transaction(work)

    def insert(self, row: dict[str, Any], session: ClientSession) -> None:
        self._database.insert_one(_KEYS, row, session)

    def find(self, key_id: str, session: ClientSession | None = None) -> dict[str, Any] | None:
        """The key, living or not."""
        return self._database.find_one(_KEYS, {"_id": key_id}, session=session)

    def find_page(self, user_id: str, now: datetime, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` living keys of a user, newest first, with ids below `before`."""
        query = {"user_id": user_id, **_alive(now), **({"_id": {"$lt": before}} if before is not None else {})}
        return self._database.find_many(_KEYS, query, sort=(("_id", -1),), limit=limit)

    def living_ids(self, user_id: str, now: datetime, limit: int) -> list[str]:
        query = {"user_id": user_id, **_alive(now)}
        return [row["_id"] for row in self._database.find_many(_KEYS, query, limit=limit, projection=("_id",))]

    def count_living(self, user_id: str, now: datetime, session: ClientSession) -> int:
        return self._database.collection(_KEYS).count_documents({"user_id": user_id, **_alive(now)}, session=session)

    def revoke(self, key_id: str, now: datetime) -> None:
        self._database.update_one(_KEYS, {"_id": key_id, "revoked_at": None}, {"$set": {"revoked_at": now, "expires_at": now}})

    def revoke_all(self, user_id: str, now: datetime, session: ClientSession) -> list[str]:
        """End all keys of a user and remove their names; the ids of those that lived."""
        living = self._database.collection(_KEYS).find({"user_id": user_id, **_alive(now)}, ("_id",), session=session)
        key_ids = [row["_id"] for row in living]
        update = {"$set": {"revoked_at": now, "expires_at": now}, "$unset": {"name": ""}}
        self._database.update_many(_KEYS, {"user_id": user_id}, update, session)
        return key_ids

    def note_uses(self, uses: Mapping[str, datetime], apart: timedelta) -> None:
        """Remember when keys were last used, all in one command; what another worker noted less than `apart` before stays."""
        updates = [
            ({"_id": key_id, "last_used_at": {"$not": {"$gt": used_at - apart}}}, {"$set": {"last_used_at": used_at}})
            for key_id, used_at in uses.items()
        ]
        self._database.transaction(lambda session: self._database.update_rows(_KEYS, updates, session))


def _alive(now: datetime) -> dict[str, Any]:
    return {"revoked_at": None, "$or": [{"expires_at": None}, {"expires_at": {"$gt": now}}]}
