"""The outbox in MongoDB: what waits to be told, the records that it refers to, and what becomes of both in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.client_session import ClientSession

from core.modules.transactions_module.repository import to_grant, to_hold, to_transaction
from core.modules.transactions_module.schemas import grant_view, hold_view, transaction_view
from core.modules.webhooks_module.delivery_repository import DELIVERIES
from core.modules.webhooks_module.events import Event, event_id
from core.modules.webhooks_module.repository import ACTIVE, WEBHOOKS
from core.outbox import OUTBOX

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_WAITING = {"relayed_at": None}
_READ_AT_ONCE = 64
_ROWS_AT_ONCE = 500
_BUILT_AT_ONCE = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """The events of one outbox document from `start` up to `end`; the last of them when it `is_last`."""

    outbox_id: Any
    created_at: datetime
    start: int
    events: list[dict[str, Any]]
    is_last: bool

    @property
    def end(self) -> int:
        return self.start + len(self.events)


class OutboxRepository:
    """Everything happens in the transaction of `session`, and so all of it or nothing."""

    def __init__(self, database: DatabaseManager) -> None:
        self._database = database

    def transaction(self, work: Callable[[ClientSession], T]) -> T:
        return self._database.transaction(work)

    def waiting_since(self) -> datetime | None:
        """When the oldest was written that waits."""
        rows = self._database.on_collection(OUTBOX, lambda driver: list(driver.find(_WAITING, ("created_at",)).sort("_id", 1).limit(1)))
        return rows[0]["created_at"] if rows else None

    def subscriptions(self, session: ClientSession) -> dict[str, list[str]]:
        """What each webhook wants to be told, by its id."""
        rows = self._database.collection(WEBHOOKS).find({"status": ACTIVE}, ("events",), session=session)
        return {row["_id"]: row["events"] for row in rows}

    def skip(self, limit: int, now: datetime, session: ClientSession) -> int:
        """Mark up to `limit` documents as relayed; how many there were."""
        rows = self._database.collection(OUTBOX).find(_WAITING, ("_id",), session=session).sort("_id", 1).limit(limit)
        ids = [row["_id"] for row in rows]
        if ids:
            self._database.collection(OUTBOX).update_many({"_id": {"$in": ids}}, {"$set": {"relayed_at": now}}, session=session)
        return len(ids)

    def take(self, limit: int, session: ClientSession) -> list[Told]:
        """The oldest events that wait, up to `limit`; a document with more of them is told in parts."""
        rows = self._database.collection(OUTBOX).find(_WAITING, session=session, batch_size=_READ_AT_ONCE).sort("_id", 1)
        with rows:
            return list(_cut(rows, limit))

    def complete(self, taken: Iterable[Told], wanted: Callable[[str], Any], session: ClientSession) -> list[Event]:
        """The events whose type is `wanted`, with what they are about: what nobody gave along is loaded, in one query for each kind."""
        told = [(each, index, event) for each in taken for index, event in enumerate(each.events, each.start) if wanted(event["type"])]
        records = self._load([event for _, _, event in told if event["data"] is None], session)
        events: list[Event] = []
        for each, index, event in told:
            if len(events) % _BUILT_AT_ONCE == 0:
                # Let the requests of this worker in between.
                time.sleep(0)
            data = _data(event, records, each.created_at)
            events.append(Event.of(event_id(each.outbox_id, index), event["type"], each.created_at, data))
        return events

    def save(self, deliveries: list[dict[str, Any]], taken: Iterable[Told], now: datetime, session: ClientSession) -> None:
        """Insert the deliveries, and note how far they go."""
        for start in range(0, len(deliveries), _ROWS_AT_ONCE):
            self._database.insert_rows(DELIVERIES, deliveries[start : start + _ROWS_AT_ONCE], session)
        updates = [({"_id": told.outbox_id}, {"$set": {"relayed_at": now} if told.is_last else {"told": told.end}}) for told in taken]
        self._database.update_rows(OUTBOX, updates, session)

    def _load(self, events: list[dict[str, Any]], session: ClientSession) -> dict[str, Any]:
        """The records that `events` name, by their ids."""
        ids: dict[str, set[str]] = {}
        for event in events:
            ids.setdefault(_kind(event), set()).add(event["id"])
        records: dict[str, Any] = {}
        for kind, (collection, record_of) in _RECORDS.items():
            if kind in ids:
                rows = self._database.collection(collection).find({"_id": {"$in": list(ids[kind])}}, session=session)
                records.update((row["_id"], record_of(row)) for row in rows)
        return records


def _cut(rows: Iterable[Mapping[str, Any]], limit: int) -> Iterator[Told]:
    for row in rows:
        start = row.get("told", 0)
        left = row["events"][start:]
        yield Told(row["_id"], row["created_at"], start, left[:limit], len(left) <= limit)
        limit -= len(left)
        if limit <= 0:
            return


_RECORDS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {
    "transaction": ("transactions", to_transaction),
    "hold": ("holds", to_hold),
    "grant": ("grants", to_grant),
}


def _kind(event: Mapping[str, Any]) -> str:
    kind: str = event["type"].partition(".")[0]
    return kind


def _data(event: Mapping[str, Any], records: Mapping[str, Any], at: datetime) -> dict[str, Any] | None:
    """`{transaction}`, `{hold}` or `{grant}` as of the event; what was given along as it is."""
    given: dict[str, Any] | None = event["data"]
    record = records.get(event["id"])
    if given is not None or record is None:
        return given
    match _kind(event):
        case "transaction":
            return {"transaction": transaction_view(record, set(record.wallet_ids), paid=True)}
        case "hold":
            return {"hold": hold_view(record, at)}
        case _:
            # What was spent of it by then is not the event's to tell: it began whole, or it ended.
            begins = event["type"] == "grant.created"
            grant = replace(record, ended=None) if begins else record
            return {"grant": grant_view(grant, record.lot.remaining if begins else 0, at)}
