"""Webhooks in MongoDB; what is waiting to be told and to be delivered lies in files beside this one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.client_session import ClientSession

from core.audit import audit_entry
from core.contracts import FieldRules

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

WEBHOOKS = "webhooks"
ACTIVE, DISABLED = "active", "disabled"
_SECRET = ("secret",)
_STANDING = ("status", "failing_since", "given_up")
T = TypeVar("T")


class WebhookRepository:
    """`url` (which may hold a token) and `secret` lie sealed; lists never bring the secret along."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database
        database.declare_fields(WEBHOOKS, FieldRules(sealed=("url", "secret"), private=_SECRET))

    def transaction(self, work: Callable[[ClientSession], T]) -> T:
        return self._database.transaction(work)

    def insert(self, webhook: dict[str, Any], session: ClientSession) -> None:
        self._database.insert_one(WEBHOOKS, webhook, session)

    def count_of(self, owner_id: str, session: ClientSession) -> int:
        """How many an owner has; two who ask this at the same time, to add one, cannot both commit."""
        together = {"$inc": {"changes": 1}}
        self._database.collection("settings").update_one({"_id": f"webhooks:{owner_id}"}, together, upsert=True, session=session)
        return self._database.collection(WEBHOOKS).count_documents({"owner_id": owner_id}, session=session)

    def find(self, webhook_id: str) -> dict[str, Any] | None:
        return self._database.find_one(WEBHOOKS, {"_id": webhook_id})

    def find_page(self, filters: Mapping[str, Any], before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` webhooks, newest first, with ids below `before`."""
        query = {**filters, **({"_id": {"$lt": before}} if before is not None else {})}
        return self._database.find_many(WEBHOOKS, query, sort=(("_id", -1),), limit=limit)

    def active(self, webhook_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Those of `webhook_ids` that things are sent to, with their secrets."""
        query = {"_id": {"$in": list(webhook_ids)}, "status": ACTIVE}
        return self._database.find_many(WEBHOOKS, query, limit=len(webhook_ids), reveal=_SECRET)

    def change(self, webhook_id: str, fields: Mapping[str, Any]) -> bool:
        """Set `fields`; False when there is no such webhook."""
        return self._database.update_one(WEBHOOKS, {"_id": webhook_id}, {"$set": dict(fields)}).matched_count == 1

    def remove(self, webhook_id: str) -> bool:
        """False when there is no such webhook."""
        return self._database.delete_one(WEBHOOKS, {"_id": webhook_id}).deleted_count == 1

    def erase_of(self, owner_id: str, reason: str, session: ClientSession) -> None:
        """Disable all webhooks of a user who is leaving, and remove what was theirs."""
        update = {"$set": _disabled(reason), "$unset": {"url": "", "secret": "", "description": ""}}
        self._database.update_many(WEBHOOKS, {"owner_id": owner_id}, update, session)

    def disable(self, webhook_ids: Collection[str], reason: str) -> None:
        """Send nothing more to these."""
        query = {"_id": {"$in": list(webhook_ids)}, "status": ACTIVE}
        self._database.update_many(WEBHOOKS, query, {"$set": _disabled(reason)})

    # How they fare: written with each bunch of results, so without the audit entry that every other change has

    def standings(self, webhook_ids: Collection[str], session: ClientSession) -> list[dict[str, Any]]:
        """`{_id, status, failing_since, given_up}` of these."""
        return list(self._database.collection(WEBHOOKS).find({"_id": {"$in": list(webhook_ids)}}, _STANDING, session=session))

    def save_standings(self, changes: Mapping[str, Mapping[str, Any]], session: ClientSession) -> None:
        """Set fields by webhook; who is disabled by it gets an audit entry."""
        updates: list[tuple[dict[str, Any], dict[str, Any]]] = [({"_id": key}, {"$set": dict(fields)}) for key, fields in changes.items()]
        self._database.update_rows(WEBHOOKS, updates, session)
        rows = [audit_entry("webhooks.disable", key) for key, fields in changes.items() if fields.get("status") == DISABLED]
        if rows:
            self._database.insert_rows("audit_logs", rows, session)


def _disabled(reason: str) -> dict[str, Any]:
    return {"status": DISABLED, "disabled_reason": reason}
