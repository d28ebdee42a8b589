"""Users and sessions in MongoDB; the only file of this module that sees the driver."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from core.census import COUNT_SECONDS
from core.contracts import FieldRules
from plugins.main_plugin.modules.connection_api import errors
from plugins.main_plugin.modules.connection_api.identities import compared_email, compared_username

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager
    from core.managers.encryption_manager import EncryptionManager

_USERS, _SESSIONS = "users", "user_sessions"
_SESSIONS_AT_ONCE = 1000
# Lists never bring it along.
_PRIVATE = ("password_hash",)


class ConnectionRepository:
    """`username` and `email` are look-up fields; the forms that are shown lie sealed in `profile`."""

    def __init__(self, database: DatabaseManager, encryption: EncryptionManager) -> None:
        self._database = database
        database.declare_fields(_USERS, FieldRules(lookup=("username", "email"), sealed=("profile",), private=_PRIVATE))
        database.declare_fields(_SESSIONS, FieldRules(sealed=("user_agent",)))
        self._encryption = encryption

    def transaction(self, work: Callable[[ClientSession], Any]) -> Any:
        """Run `work` in a transaction; a name that someone else took meanwhile is a Conflict."""
        try:
            return self._database.transaction(work)
        except DuplicateKeyError as error:
            raise _taken(error) from error

    # Users

    def insert_user(self, user: dict[str, Any], session: ClientSession) -> None:
        self._database.insert_one(_USERS, {**user, **_names(user["profile"])}, session)

    def find_user(self, user_id: str, session: ClientSession | None = None) -> dict[str, Any] | None:
        return self._database.find_one(_USERS, {"_id": user_id}, reveal=_PRIVATE, session=session)

    def find_by_username(self, username: str, session: ClientSession | None = None) -> dict[str, Any] | None:
        return self._database.find_one(_USERS, {"username": compared_username(username)}, reveal=_PRIVATE, session=session)

    def find_active_ids(self, usernames: Sequence[str]) -> dict[str, str]:
        """`{username: id}` of those of `usernames` (as they are compared) that belong to active users."""
        query = {"username": tuple(usernames), "status": "active"}
        users = self._database.find_many(_USERS, query, limit=len(usernames), projection=("username",))
        return {user["username"]: user["_id"] for user in users}

    def find_active_roles(self, user_ids: Sequence[str]) -> dict[str, str]:
        """`{id: role}` of the active ones among these users."""
        query = {"_id": {"$in": list(user_ids)}, "status": "active"}
        users = self._database.find_many(_USERS, query, limit=len(user_ids), projection=("role",))
        return {user["_id"]: user["role"] for user in users}

    def find_by_email(self, email: str, session: ClientSession | None = None) -> dict[str, Any] | None:
        return self._database.find_one(_USERS, {"email": compared_email(email)}, reveal=_PRIVATE, session=session)

    def queue_for_names(self, username: str, email: str, session: ClientSession) -> None:
        """Have two transactions that take the same name conflict, so that one of them sees the other.

        The unique index does that while there is one key. Of two workers the one may know the newest key a moment earlier.
        """
        if self._encryption.has_old_keys:
            for name in sorted({_bucket("username", compared_username(username)), _bucket("email", compared_email(email))}):
                together = {"$inc": {"changes": 1}}
                self._database.collection("settings").update_one({"_id": name}, together, upsert=True, session=session)

    def find_users(self, filters: Mapping[str, Any], before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` users, newest first, with ids below `before`."""
        query = {**filters, **({"_id": {"$lt": before}} if before is not None else {})}
        return self._database.find_many(_USERS, query, sort=(("_id", -1),), limit=limit)

    def has_role(self, role: str) -> bool:
        return self._database.find_one(_USERS, {"role": role, "status": "active"}, projection=("_id",)) is not None

    def update_user(self, user_id: str, fields: Mapping[str, Any], session: ClientSession | None = None) -> bool:
        """Set `fields`; a `profile` brings its look-up forms along. False when there is no such user."""
        stored = dict(fields)
        if "profile" in stored:
            stored.update(_names(stored["profile"]))
        return self._database.update_one(_USERS, {"_id": user_id}, {"$set": stored}, session).matched_count == 1

    def has_other_admin(self, user_id: str, session: ClientSession) -> bool:
        """Whether an active admin is left without `user_id`; two who ask this about each other cannot both commit."""
        together = {"$inc": {"changes": 1}}
        self._database.collection("settings").update_one({"_id": "admins"}, together, upsert=True, session=session)
        query = {"role": "admin", "status": "active", "_id": {"$ne": user_id}}
        return self._database.find_one(_USERS, query, projection=("_id",), session=session) is not None

    def erase_user(self, user_id: str, at: datetime, session: ClientSession) -> None:
        """Remove what is personal; the id stays, since the ledger names it."""
        gone = {"username": "", "email": "", "profile": "", "password_hash": "", "one_time_until": "", "familiar": ""}
        update = {"$unset": gone, "$set": {"status": "deleted", "deleted_at": at}}
        self._database.update_one(_USERS, {"_id": user_id}, update, session)

    # Sessions

    def insert_session(self, session_row: dict[str, Any], session: ClientSession | None = None) -> None:
        self._database.insert_one(_SESSIONS, session_row, session)

    def find_session(self, session_id: str, now: datetime) -> dict[str, Any] | None:
        """A session that still lives."""
        return self._database.find_one(_SESSIONS, {"_id": session_id, **_alive(now)})

    def find_sessions(self, user_id: str, now: datetime, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` living sessions of a user, newest first, with ids below `before`."""
        query = {"user_id": user_id, **_alive(now), **({"_id": {"$lt": before}} if before is not None else {})}
        return self._database.find_many(_SESSIONS, query, sort=(("_id", -1),), limit=limit)

    def living_session_ids(self, user_id: str, now: datetime, keep: str | None) -> list[str]:
        """Some of the living sessions of a user, without `keep`; empty when there are none left."""
        query = {"user_id": user_id, "_id": {"$ne": keep}, **_alive(now)}
        return [row["_id"] for row in self._database.find_many(_SESSIONS, query, limit=_SESSIONS_AT_ONCE, projection=("_id",))]

    def count_sessions(self, now: datetime) -> int:
        """How many live."""
        with self._database.errors(COUNT_SECONDS):
            return self._database.collection(_SESSIONS).count_documents(_alive(now))

    def count_users_since(self, since: datetime) -> int:
        """How many users opened or refreshed a session since then."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {"last_used_at": {"$gte": since}}},
            {"$group": {"_id": "$user_id"}},
            {"$count": "users"},
        ]
        with self._database.errors(COUNT_SECONDS):
            found = list(self._database.collection(_SESSIONS).aggregate(pipeline))
        return int(found[0]["users"]) if found else 0

    def owns_session(self, user_id: str, session_id: str) -> bool:
        """Whether the session, living or ended, is that user's."""
        return self._database.find_one(_SESSIONS, {"_id": session_id, "user_id": user_id}, projection=("_id",)) is not None


def _alive(now: datetime) -> dict[str, Any]:
    return {"revoked_at": None, "expires_at": {"$gt": now}}


def _names(profile: Mapping[str, str]) -> dict[str, str]:
    return {"username": compared_username(profile["username"]), "email": compared_email(profile["email"])}


def _bucket(field: str, name: str) -> str:
    """One of 4096 places for `name`: few enough to say nothing about it."""
    return f"names:{field}:{hashlib.sha256(name.encode()).hexdigest()[:3]}"


def _taken(error: DuplicateKeyError) -> Exception:
    fields = (error.details or {}).get("keyPattern", {})
    return errors.email_taken() if "email" in fields else errors.username_taken()
