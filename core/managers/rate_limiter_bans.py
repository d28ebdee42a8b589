"""The record of bans in MongoDB: who (sealed), for which policy, until when, and until when it is held against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession

from core.audit import audit_entry
from core.contracts import FieldRules
from utils.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_COLLECTION = "bans"
_RULES = FieldRules(sealed=("subject",))
_AT_ONCE = 1000


@dataclass(frozen=True)
class Ban:
    """One that begins now. `name`: `{type}:{keyed hash}`; `memory`: seconds until it no longer lengthens the next one."""

    name: str
    subject: str
    policy: str
    level: int
    seconds: int
    memory: float


class BanRecord:
    """Reads and writes the collection `bans`; Redis is filled from it."""

    def __init__(self, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._database = app_manager.database_manager
        self._database.declare_fields(_COLLECTION, _RULES)

    def add(self, ban: Ban) -> None:
        """Record `ban` with its audit entry, both or neither; raises Unavailable."""
        now = utc_now()
        fields = {
            "subject": ban.subject,
            "policy": ban.policy,
            "level": ban.level,
            "created_at": now,
            "expires_at": now + timedelta(seconds=ban.seconds),
            "forgotten_at": now + timedelta(seconds=max(ban.memory, ban.seconds)),
        }
        sealed = self._app_manager.encryption_manager.encrypt_fields(fields, _RULES.sealed, f"{_COLLECTION}/{ban.name}")

        def work(session: ClientSession) -> None:
            self._database.collection(_COLLECTION).update_one({"_id": ban.name}, {"$set": sealed}, upsert=True, session=session)
            self._note("bans.insert", ban.name, session, level=ban.level, policy=ban.policy)

        self._database.transaction(work)

    def lift(self, name: str) -> None:
        """End the ban of `name`, if there is one, and what is held against it."""
        now = utc_now()

        def work(session: ClientSession) -> None:
            update = {"$set": {"expires_at": now, "forgotten_at": now}}
            self._database.collection(_COLLECTION).update_one({"_id": name, "expires_at": {"$gt": now}}, update, session=session)
            self._note("bans.lift", name, session)

        self._database.transaction(work)

    def note_clear(self, name: str) -> None:
        """The audit entry of an operator who clears the counters of `name`."""
        self._database.transaction(lambda session: self._note("rate_limits.clear", name, session))

    def first_of(self, names: Sequence[str]) -> tuple[str, datetime] | None:
        """One of `names` that is banned, and until when; None when none is."""
        query = {"_id": {"$in": list(names)}, "expires_at": {"$gt": utc_now()}}
        found = self._database.find_one(_COLLECTION, query, projection=("expires_at",))
        return None if found is None else (found["_id"], found["expires_at"])

    def running(self, name: str) -> dict[str, Any] | None:
        """`{policy, level, since, until}` of the ban of `name`, or None."""
        found = self._database.find_one(_COLLECTION, {"_id": name, "expires_at": {"$gt": utc_now()}})
        return None if found is None else _view(found)

    def page(self, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` running bans after the one named `after`, as `{name, type, id, policy, level, since, until}`."""
        query = {"expires_at": {"$gt": utc_now()}, "_id": {"$gt": after or ""}}
        found = self._database.find_many(_COLLECTION, query, limit=limit)
        return [{"name": ban["_id"], "type": ban["_id"].partition(":")[0], "id": ban["subject"], **_view(ban)} for ban in found]

    def remembered(self) -> Iterator[list[tuple[str, int, int, int]]]:
        """All that is still held against someone, as (name, level, ms it runs, ms until it is forgotten), by the thousand."""
        after = ""
        while True:
            now = utc_now()
            query = {"forgotten_at": {"$gt": now}, "_id": {"$gt": after}}
            found = self._database.find_many(_COLLECTION, query, limit=_AT_ONCE, projection=("level", "expires_at", "forgotten_at"))
            if found:
                yield [(b["_id"], b["level"], _ms(b["expires_at"] - now), _ms(b["forgotten_at"] - now)) for b in found]
            if len(found) < _AT_ONCE:
                return
            after = found[-1]["_id"]

    def _note(self, action: str, name: str, session: ClientSession, **details: Any) -> None:
        self._database.collection("audit_logs").insert_one(audit_entry(action, name, **details), session=session)


def _view(ban: dict[str, Any]) -> dict[str, Any]:
    return {
        "policy": ban["policy"],
        "level": ban["level"],
        "since": rfc3339(ban["created_at"]),
        "until": rfc3339(ban["expires_at"]),
    }


def _ms(length: timedelta) -> int:
    return max(0, int(length.total_seconds() * 1000))
