"""Users: create, read, change, erase."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from core.web.paging import Pager
from core.web.routing import ADMIN, Principal
from plugins.main_plugin.modules.connection_api import errors
from plugins.main_plugin.modules.connection_api.api_keys import ApiKeys
from plugins.main_plugin.modules.connection_api.identities import RESERVED, compared_username
from plugins.main_plugin.modules.connection_api.passwords import Passwords, weakness_of
from plugins.main_plugin.modules.connection_api.queries import Queries
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from plugins.main_plugin.modules.connection_api.schemas import UserPatch, UsersQuery, user_view
from tools.error_handling.errors import Forbidden, Unprocessable
from tools.logger.custom_logger import game_log
from utils.clock import utc_now
from utils.ids import new_id

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from core.managers.hooks_manager import HooksManager
    from plugins.main_plugin.modules.connection_api.sessions import Sessions

# A user comes and goes with the default wallet.
_WRITTEN = ("users", "wallets")
# How long a one-time password waits for its user.
ONE_TIME_LIFE = timedelta(days=1)
Also = Callable[[dict[str, Any], "ClientSession"], None]


class Users:
    """The accounts. Who may ask for what is decided here, by the principal."""

    def __init__(
        self,
        repository: ConnectionRepository,
        passwords: Passwords,
        sessions: Sessions,
        api_keys: ApiKeys,
        *,
        queries: Queries,
        hooks: HooksManager,
        pager: Pager,
    ) -> None:
        self._repository = repository
        self._passwords = passwords
        self._sessions = sessions
        self._api_keys = api_keys
        self._queries = queries
        self._hooks = hooks
        self._pager = pager

    def create(
        self, username: str, email: str, password: str, role: str = "user", *, trusted: bool = False, also: Also | None = None
    ) -> dict[str, Any]:
        """Make a user, with what the hook `user_created` and `also` make, all or nothing; the stored document.

        `trusted`: may have a reserved name. `also(user, session)` runs inside the transaction.
        """
        self._refuse_weak(password, username, email)
        if not trusted:
            _refuse_reserved(username)
        user = {
            "_id": new_id("u"),
            "profile": {"username": username, "email": email},
            "password_hash": self._passwords.hash(password),
            "role": role,
            "status": "active",
            "created_at": utc_now(),
        }

        def work(session: ClientSession) -> None:
            self._refuse_taken(username, email, None, session)
            self._repository.insert_user(user, session)
            self._hooks.trigger("user_created", {"user_id": user["_id"], "session": session})
            if also is not None:
                also(user, session)

        self._repository.transaction(work)
        self._queries.invalidate(*_WRITTEN)
        game_log("user created", user_id=user["_id"], role=role)
        return user

    def get(self, principal: Principal, user_id: str) -> dict[str, Any]:
        """A user; others than oneself only for an admin."""
        self._refuse_foreign(principal, user_id)
        user = self._repository.find_user(user_id)
        if user is None:
            raise errors.user_not_found()
        return user

    def find_user_ids(self, usernames: Sequence[str]) -> dict[str, str]:
        """`{username: id}` of the active users of those names; for modules that let people be named."""
        ids = self._repository.find_active_ids([compared_username(name) for name in usernames])
        return {name: ids[compared_username(name)] for name in usernames if compared_username(name) in ids}

    def id_of(self, named: str) -> str:
        """The id of the user whom an id, a username or an e-mail address names, whatever the status; NotFound."""
        find = self._repository.find_by_email if "@" in named else self._repository.find_by_username
        # An id comes first: somebody may have taken one for a username.
        user = self._repository.find_user(named) or find(named)
        if user is None:
            raise errors.user_not_found()
        user_id: str = user["_id"]
        return user_id

    def has_password(self, named: str, password: str) -> bool:
        """Whether `password` is the one of whom an id, a username or an e-mail address names; NotFound."""
        user = self._repository.find_user(self.id_of(named))
        return user is not None and self._passwords.verify(user.get("password_hash"), password)

    def username_of(self, user_id: str) -> str | None:
        """What the others see of a user; None when there is none."""
        user = self._repository.find_user(user_id)
        return None if user is None else user["profile"]["username"]

    def is_active(self, user_id: str) -> bool:
        """Whether there is such a user, who may be given something."""
        user = self._repository.find_user(user_id)
        return user is not None and user["status"] == "active"

    def find_active_roles(self, user_ids: Sequence[str]) -> dict[str, str]:
        """`{id: role}` of those of these users who are active; for what is done later in their name."""
        return self._repository.find_active_roles(user_ids)

    def page(self, principal: Principal, query: UsersQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: all users, newest first."""
        binding = f"users:{principal.user_id}:{query.role}"
        before = self._pager.position(query.cursor, binding)
        found = self._repository.find_users({"role": query.role} if query.role is not None else {}, before, query.limit + 1)
        return self._pager.page([user_view(user) for user in found], query.limit, binding)

    def change(self, principal: Principal, user_id: str, patch: UserPatch) -> dict[str, Any]:
        """Change what `patch` names. A new role or status ends the user's sessions, whose tokens carry the old one.

        API keys stay, and are from then on what the new role makes of them (nothing at all while their owner is suspended).
        """
        self._refuse_foreign(principal, user_id)
        privileged = {"role": patch.role, "status": patch.status}
        fields: dict[str, Any] = {name: value for name, value in privileged.items() if value is not None}
        if fields and principal.role != ADMIN:
            raise Forbidden("Only an admin may change role and status.")

        def work(session: ClientSession) -> dict[str, Any]:
            user = self._repository.find_user(user_id, session)
            if user is None or user["status"] == "deleted":
                raise errors.user_not_found()
            self._refuse_without_admin(user, {**user, **fields}, session)
            if patch.username is not None and compared_username(patch.username) != user["username"]:
                _refuse_reserved(patch.username)
            profile = {name: getattr(patch, name) or user["profile"][name] for name in ("username", "email")}
            changed = {**fields, **({"profile": profile} if profile != user["profile"] else {})}
            if fields:
                changed["access_version"] = user.get("access_version", 0) + 1
            if changed:
                self._refuse_taken(profile["username"], profile["email"], user_id, session)
                self._repository.update_user(user_id, changed, session)
            return user

        before = self._repository.transaction(work)
        self._queries.invalidate(*_WRITTEN)
        if fields:
            self._api_keys.have_rechecked(self._api_keys.living_ids(user_id), before)
            self._sessions.end_all(user_id)
        user = self._repository.find_user(user_id)
        assert user is not None
        return user

    def change_password(self, principal: Principal, current: str, new: str) -> None:
        """Set a new password and end all other sessions. API keys do not hang on the password: they stay."""
        user = self.get(principal, principal.user_id)
        if not self._passwords.verify(user.get("password_hash"), current):
            raise errors.invalid_credentials()
        self._refuse_weak(new, user["profile"]["username"], user["profile"]["email"], field="new_password")
        self._repository.update_user(principal.user_id, {"password_hash": self._passwords.hash(new), "one_time_until": None})
        self._sessions.end_all(principal.user_id, keep=principal.session_id)

    def reset_password(self, principal: Principal, user_id: str) -> str:
        """A one-time password for a user, whose sessions end: it opens one session, within a day, in which a new one is to be set."""
        user = self.get(principal, user_id)
        if user["status"] == "deleted":
            raise errors.user_not_found()
        password = secrets.token_urlsafe(15)
        fields = {"password_hash": self._passwords.hash(password), "one_time_until": utc_now() + ONE_TIME_LIFE}
        self._repository.update_user(user_id, fields)
        self._sessions.end_all(user_id)
        return password

    def erase(self, principal: Principal, user_id: str) -> None:
        """Remove the personal data of a user, end the sessions and the API keys; the ledger keeps the bare id."""
        self._refuse_foreign(principal, user_id)

        def work(session: ClientSession) -> tuple[dict[str, Any], list[str]]:
            user = self._repository.find_user(user_id, session)
            if user is None or user["status"] == "deleted":
                raise errors.user_not_found()
            self._refuse_without_admin(user, {"status": "deleted"}, session)
            self._repository.erase_user(user_id, utc_now(), session)
            self._hooks.trigger("user_erased", {"user_id": user_id, "session": session})
            return user, self._api_keys.revoke_all(user_id, session)

        before, key_ids = self._repository.transaction(work)
        self._queries.invalidate(*_WRITTEN)
        self._api_keys.have_rechecked(key_ids, before)
        self._sessions.end_all(user_id)

    def _refuse_without_admin(self, before: dict[str, Any], after: dict[str, Any], session: ClientSession) -> None:
        """Somebody has to be left who can undo it."""
        if _is_active_admin(before) and not _is_active_admin(after) and not self._repository.has_other_admin(before["_id"], session):
            raise errors.last_admin()

    def _refuse_taken(self, username: str, email: str, own_id: str | None, session: ClientSession) -> None:
        """Asked under all active keys: while two are in use, the unique index alone would let a name in twice."""
        self._repository.queue_for_names(username, email, session)
        for find, value, refusal in (
            (self._repository.find_by_username, username, errors.username_taken),
            (self._repository.find_by_email, email, errors.email_taken),
        ):
            found = find(value, session)
            if found is not None and found["_id"] != own_id:
                raise refusal()

    @staticmethod
    def _refuse_weak(password: str, username: str, email: str, field: str = "password") -> None:
        weakness = weakness_of(password, username, email)
        if weakness is not None:
            raise Unprocessable.of_field(field, weakness)

    @staticmethod
    def _refuse_foreign(principal: Principal, user_id: str) -> None:
        if principal.user_id != user_id and principal.role != ADMIN:
            raise errors.user_not_found()


def _refuse_reserved(username: str) -> None:
    if compared_username(username) in RESERVED:
        raise errors.username_taken()


def _is_active_admin(user: dict[str, Any]) -> bool:
    return user.get("role") == ADMIN and user["status"] == "active"
