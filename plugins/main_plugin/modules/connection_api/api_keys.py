"""API keys: made, listed and revoked by their owner, and recognised on the way of every request that brings one."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from core import metrics
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import ADMIN, ADMIN_SCOPE, Principal
from plugins.main_plugin.modules.connection_api import errors
from plugins.main_plugin.modules.connection_api.key_format import key_digest, key_id_of, make_key
from plugins.main_plugin.modules.connection_api.key_repository import KeyRepository
from plugins.main_plugin.modules.connection_api.key_uses import APART, KeyUses
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from plugins.main_plugin.modules.connection_api.schemas import ApiKeyBody, api_key_view
from tools.error_handling.errors import Forbidden, Unauthenticated, Unprocessable
from tools.logger.custom_logger import game_log
from utils.clock import utc_now
from utils.ids import new_id

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from core.managers.jwt_manager import JWTManager

KEYS_PER_USER = 20
_REMEMBERED_MAX = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    expires_at: datetime | None


class ApiKeys:
    """A key acts for its owner, within its scopes, and never beyond what the owner's role allows at that moment.

    Whose a key is, each worker remembers; whether that still holds, a flag in Redis says, as with sessions. The flag's
    name carries the owner's access version, which grows with every new role or status: with it the old flag ends, and
    the record is asked again.
    """

    def __init__(
        self,
        repository: KeyRepository,
        users: ConnectionRepository,
        jwt: JWTManager,
        pager: Pager,
        scopes: Callable[[], frozenset[str]],
    ) -> None:
        self._repository = repository
        self._users = users
        self._jwt = jwt
        self._pager = pager
        self._scopes = scopes
        self._known: dict[bytes, _Known] = {}
        self.uses = KeyUses(lambda used: repository.note_uses(used, APART))

    # For their owner

    def create(self, principal: Principal, body: ApiKeyBody) -> dict[str, Any]:
        """A new key; the answer is the only place where its text is ever seen."""
        self._refuse_unknown(body.scopes)
        now, key_id = utc_now(), new_id("k")
        key = make_key(key_id)
        row = {
            "_id": key_id,
            "user_id": principal.user_id,
            "name": body.name,
            "scopes": sorted(body.scopes),
            "digest": key_digest(key),
            "created_at": now,
            "expires_at": now + timedelta(seconds=body.expires_in) if body.expires_in is not None else None,
            "last_used_at": None,
            "revoked_at": None,
        }

        def work(session: ClientSession) -> None:
            owner = self._users.find_user(principal.user_id, session)
            if owner is None or owner["status"] != "active":
                raise errors.session_ended()
            if ADMIN_SCOPE in body.scopes and owner["role"] != ADMIN:
                raise Forbidden("Only an admin's key may have the scope admin.")
            if self._repository.count_living(principal.user_id, now, session) >= KEYS_PER_USER:
                raise errors.too_many_keys(KEYS_PER_USER)
            # Writing to the user makes two who ask for the last place conflict, so that one of them sees the other.
            self._users.update_user(principal.user_id, {"newest_key": key_id}, session)
            self._repository.insert(row, session)

        self._repository.transaction(work)
        game_log("api key made", user_id=principal.user_id, key_id=key_id, scopes=row["scopes"])
        return {**api_key_view(row), "key": key}

    def get(self, principal: Principal, key_id: str) -> dict[str, Any]:
        """One of the caller's living keys."""
        row = self._repository.find(key_id)
        if row is None or row["user_id"] != principal.user_id or not _lives(row):
            raise errors.key_not_found()
        return api_key_view(row)

    def page(self, principal: Principal, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: the caller's living keys, newest first."""
        binding = f"api-keys:{principal.user_id}"
        before = self._pager.position(query.cursor, binding)
        found = self._repository.find_page(principal.user_id, utc_now(), before, query.limit + 1)
        return self._pager.page([api_key_view(row) for row in found], query.limit, binding)

    def revoke(self, principal: Principal, key_id: str) -> None:
        """End one of the caller's keys for ever; one that has ended already stays so. An admin may end everyone's.

        The id stands in the key itself: of one that was found where it should not be, nobody has to know the owner.
        """
        row = self._repository.find(key_id)
        if row is None or (row["user_id"] != principal.user_id and principal.role != ADMIN):
            raise errors.key_not_found()
        self._repository.revoke(key_id, utc_now())
        # Asked after the key has ended in the record: no flag of a later version can be left any more.
        owner = self._users.find_user(row["user_id"])
        assert owner is not None
        self._jwt.announce_ended([_flag_id(key_id, owner)])

    # For those who change users

    def revoke_all(self, user_id: str, session: ClientSession) -> list[str]:
        """End all keys of a user who leaves, in the transaction of `session`; their ids, for `have_rechecked`."""
        return self._repository.revoke_all(user_id, utc_now(), session)

    def living_ids(self, user_id: str) -> list[str]:
        return self._repository.living_ids(user_id, utc_now(), KEYS_PER_USER)

    def have_rechecked(self, key_ids: list[str], owner_before: dict[str, Any]) -> None:
        """The owner's rights are not any more what they were: have every worker ask the record anew, from now on."""
        self._jwt.announce_ended([_flag_id(key_id, owner_before) for key_id in key_ids])

    # For the request chain (KeyVerifier)

    def recall(self, token: str) -> Principal | None:
        """Whose key `token` is, from memory; None: it has to be looked up."""
        if key_id_of(token) is None:
            raise self._refusal()
        known = self._known.get(key_digest(token))
        if known is None:
            return None
        if known.expires_at is not None and known.expires_at <= utc_now():
            raise self._refusal()
        assert known.principal.key_id is not None
        self.uses.note(known.principal.key_id)
        return known.principal

    def look_up(self, token: str) -> Principal:
        """Whose key `token` is, by the record; remembered for the next requests."""
        key_id, digest = key_id_of(token), key_digest(token)
        self._known.pop(digest, None)
        if key_id is None:
            raise self._refusal()
        # Key and owner as of one moment: what changes after it, finds the flag that is left here.
        row, owner = self._repository.transaction(lambda session: self._read(key_id, digest, session))
        if row is None or owner is None or owner["status"] != "active" or not _lives(row):
            raise self._refusal()
        # What was an admin's stays in the key, and is worth nothing while its owner is none.
        scopes = frozenset(row["scopes"]) - (frozenset() if owner["role"] == ADMIN else {ADMIN_SCOPE})
        principal = Principal(owner["_id"], owner["role"], _flag_id(key_id, owner), key_id, scopes)
        if len(self._known) >= _REMEMBERED_MAX:
            self._known.clear()
        self._known[digest] = _Known(principal, row["expires_at"])
        self._jwt.leave_flag(principal.session_id)
        self.uses.note(key_id)
        return principal

    def _read(self, key_id: str, digest: bytes, session: ClientSession) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        row = self._repository.find(key_id, session)
        if row is None or not hmac.compare_digest(row["digest"], digest):
            return None, None
        return row, self._users.find_user(row["user_id"], session)

    def _refuse_unknown(self, scopes: list[str]) -> None:
        known = self._scopes()
        for index, scope in enumerate(scopes):
            if scope not in known:
                raise Unprocessable.of_field(f"scopes.{index}", f"must be one of {', '.join(sorted(known))}")

    @staticmethod
    def _refusal() -> Unauthenticated:
        metrics.AUTH_ATTEMPTS.labels("api_key", "refused").inc()
        return errors.key_invalid()


def _flag_id(key_id: str, owner: dict[str, Any]) -> str:
    return f"{key_id}.{owner.get('access_version', 0)}"


def _lives(row: dict[str, Any]) -> bool:
    return row["revoked_at"] is None and (row["expires_at"] is None or row["expires_at"] > utc_now())
