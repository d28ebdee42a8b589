"""Deliveries in MongoDB: claimed by a worker for a while, tried, and kept for 30 days with what came of each attempt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession

from core.modules.webhooks_module.events import Event
from utils.ids import new_id

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

DELIVERIES = "webhook_deliveries"
PENDING, DELIVERED, FAILED, CANCELLED = "pending", "delivered", "failed", "cancelled"
STATUSES = (PENDING, DELIVERED, FAILED, CANCELLED)
_KEPT = timedelta(days=30)
# A delivery that is pending is in a queue, that of its webhook; to be unset in others, so that the index has nothing of them.
NOT_QUEUED = {"queue": "", "next_attempt_at": ""}
# A big backlog ends in one command.
_CANCEL_SECONDS = 30.0


class DeliveryRepository:
    """A claim is a later `next_attempt_at`: of who claims and dies nothing has to be cleaned up, the delivery is due again by itself."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def find(self, webhook_id: str, delivery_id: str) -> dict[str, Any] | None:
        return self._database.find_one(DELIVERIES, {"_id": delivery_id, "webhook_id": webhook_id})

    def find_page(self, webhook_id: str, status: str | None, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` deliveries of a webhook, newest first, with ids below `before`."""
        # All statuses are named where none is: one index serves both.
        query: dict[str, Any] = {"webhook_id": webhook_id, "status": {"$in": [status] if status is not None else list(STATUSES)}}
        if before is not None:
            query["_id"] = {"$lt": before}
        return self._database.find_many(DELIVERIES, query, sort=(("_id", -1),), limit=limit)

    def insert(self, delivery: dict[str, Any]) -> None:
        self._database.insert_one(DELIVERIES, delivery)

    # Delivering

    def due(self, now: datetime, full: Collection[str], webhooks: int, of_each: int) -> dict[str, list[str]]:
        """By webhook, up to `of_each` deliveries whose time has come, of up to `webhooks` others than `full`; one round trip.

        The first stages only look at one key of the index for each webhook, however much waits for it.
        """
        stages: list[dict[str, Any]] = [
            # For the server a reason to use the index, and no condition.
            {"$match": {"queue": {"$gt": ""}}},
            {"$sort": {"queue": 1, "next_attempt_at": 1}},
            {"$group": {"_id": "$queue", "first": {"$first": "$next_attempt_at"}}},
            {"$match": {"first": {"$lte": now}}},
            {"$sort": {"first": 1}},
            {"$limit": webhooks + len(full)},
            {
                "$lookup": {
                    "from": DELIVERIES,
                    "localField": "_id",
                    "foreignField": "queue",
                    "pipeline": [
                        {"$match": {"next_attempt_at": {"$lte": now}}},
                        {"$sort": {"next_attempt_at": 1}},
                        {"$limit": of_each},
                        {"$project": {"_id": 1}},
                    ],
                    "as": "due",
                }
            },
        ]
        rows = self._database.on_collection(DELIVERIES, lambda driver: list(driver.aggregate(stages)))
        # Left out here: as a condition it would be moved up, and have all keys looked at.
        return {row["_id"]: [each["_id"] for each in row["due"]] for row in rows if row["_id"] not in full}

    def claim(self, delivery_ids: Sequence[str], now: datetime, until: datetime) -> list[dict[str, Any]]:
        """Those of `delivery_ids` that nobody else has claimed meanwhile; they are due again at `until`."""
        claim = new_id("c")
        mine = {"_id": {"$in": list(delivery_ids)}, "status": PENDING, "next_attempt_at": {"$lte": now}}
        update = {"$set": {"next_attempt_at": until, "claim": claim}}
        self._database.on_collection(DELIVERIES, lambda driver: driver.update_many(mine, update))
        return self._database.find_many(DELIVERIES, {"_id": {"$in": list(delivery_ids)}, "claim": claim}, limit=len(delivery_ids))

    def save_results(self, results: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], session: ClientSession) -> None:
        """Write `(delivery, update)` pairs; one that somebody else has claimed meanwhile is left to them."""
        updates = [({"_id": delivery["_id"], "claim": delivery["claim"]}, dict(update)) for delivery, update in results]
        self._database.update_rows(DELIVERIES, updates, session)

    def cancel(self, webhook_ids: Collection[str]) -> None:
        """Send nothing of what waits for these any more."""
        query = {"queue": {"$in": list(webhook_ids)}}
        update = {"$set": {"status": CANCELLED, "claim": None}, "$unset": NOT_QUEUED}
        with self._database.errors(_CANCEL_SECONDS):
            self._database.collection(DELIVERIES).update_many(query, update)


def new_delivery(webhook_id: str, event: Event, now: datetime, replay_of: str | None = None) -> dict[str, Any]:
    """A delivery that is due at once."""
    return {
        "_id": new_id("wd"),
        "webhook_id": webhook_id,
        "queue": webhook_id,
        "event_id": event.id,
        "event_type": event.type,
        "body": event.body,
        "status": PENDING,
        "attempts": [],
        "next_attempt_at": now,
        "claim": None,
        "replay_of": replay_of,
        "created_at": now,
        "expires_at": now + _KEPT,
    }
