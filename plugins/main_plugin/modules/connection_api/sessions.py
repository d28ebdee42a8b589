"""Sessions and tokens: log-in, refresh with rotation and reuse detection, log-out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from core import metrics
from core.contracts import REFRESH, fingerprint_of
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import Call, Principal
from plugins.main_plugin.modules.connection_api import errors
from plugins.main_plugin.modules.connection_api.identities import compared_email, compared_username
from plugins.main_plugin.modules.connection_api.login_brake import LoginBrake
from plugins.main_plugin.modules.connection_api.passwords import Passwords
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from plugins.main_plugin.modules.connection_api.schemas import session_view, user_view
from tools.error_handling.errors import Unauthenticated
from utils.clock import utc_now
from utils.ids import new_id

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from core.contracts import TokenPair
    from core.managers.jwt_manager import JWTManager

# What must not have changed between the check of a password and the session that it opens.
_CHECKED = ("password_hash", "role", "status", "one_time_until")


class Sessions:
    """A session is one log-in on one client; its refresh token is replaced at each use."""

    def __init__(
        self,
        repository: ConnectionRepository,
        passwords: Passwords,
        jwt: JWTManager,
        brake: LoginBrake,
        *,
        refresh_ttl: int,
        pager: Pager,
    ) -> None:
        self._repository = repository
        self._passwords = passwords
        self._jwt = jwt
        self._brake = brake
        self._refresh_life = timedelta(seconds=refresh_ttl)
        self._pager = pager

    def log_in(self, call: Call, login: str, password: str) -> tuple[dict[str, Any], str | None]:
        """Check the credentials and open a session: the token answer, and the value of a fingerprint cookie to set."""
        by_email = "@" in login
        user = self._repository.find_by_email(login) if by_email else self._repository.find_by_username(login)
        compared = compared_email(login) if by_email else compared_username(login)
        tries = self._brake.count(compared, user, call.fingerprint, call.remote_address)
        stored = user.get("password_hash") if user is not None and user["status"] == "active" and not _is_spent(user) else None
        if not self._passwords.verify(stored, password):
            metrics.AUTH_ATTEMPTS.labels("login", "refused").inc()
            raise errors.invalid_credentials()
        assert user is not None
        newer: dict[str, Any] = (
            {"password_hash": self._passwords.hash(password)} if self._passwords.is_outdated(user["password_hash"]) else {}
        )
        if user.get("one_time_until") is not None:
            newer["one_time_until"] = utc_now()

        def work(session: ClientSession) -> tuple[dict[str, Any], str | None]:
            # A new password, role or status may have come while this one was being checked, and ended all sessions.
            # Writing to the user makes the two transactions conflict, so that one of them sees the other.
            current = self._repository.find_user(user["_id"], session)
            if current is None or any(current.get(name) != user.get(name) for name in _CHECKED):
                raise errors.invalid_credentials()
            return self.open(call, current, session, newer)

        answer: tuple[dict[str, Any], str | None] = self._repository.transaction(work)
        self._brake.forgive(tries)
        metrics.AUTH_ATTEMPTS.labels("login", "ok").inc()
        return answer

    def open(
        self, call: Call, user: dict[str, Any], session: ClientSession, changes: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], str | None]:
        """A new session for `user` on the client of `call`, which is familiar from now on; `changes` to the user come along.

        The token answer, and the value of a fingerprint cookie to set.
        """
        cookie = secrets.token_urlsafe(32) if call.wants_cookie and not call.fingerprint else None
        fingerprint = fingerprint_of(cookie) if cookie is not None else call.fingerprint
        familiar = self._brake.with_marks(user.get("familiar", ()), fingerprint, call.remote_address)
        self._repository.update_user(user["_id"], {**(changes or {}), "last_login_at": utc_now(), "familiar": familiar}, session)
        return _token_answer(user, self.start(user, call.user_agent, fingerprint, session)), cookie

    def start(self, user: dict[str, Any], user_agent: str, fingerprint: str, session: ClientSession) -> TokenPair:
        """A new session for `user` with its tokens, in the transaction of `session`."""
        pair = self._jwt.generate_pair(user["_id"], user["role"], new_id("s"), fingerprint)
        now = utc_now()
        self._repository.insert_session(
            {
                "_id": pair.session_id,
                "user_id": user["_id"],
                "refresh_jti": pair.refresh_jti,
                "user_agent": user_agent or None,
                "created_at": now,
                "last_used_at": now,
                "expires_at": now + self._refresh_life,
                "revoked_at": None,
            },
            session,
        )
        return pair

    def open_for(self, user_id: str, user_agent: str, fingerprint: str) -> dict[str, Any]:
        """A new session for an active user, without a password: the token answer with its `session_id`; NotFound."""

        def work(session: ClientSession) -> dict[str, Any]:
            user = self._repository.find_user(user_id, session)
            if user is None or user["status"] != "active":
                raise errors.user_not_found()
            # As at a log-in: who suspends the user at this moment conflicts with us.
            self._repository.update_user(user_id, {"last_login_at": utc_now()}, session)
            return _with_session_id(user, self.start(user, user_agent, fingerprint, session))

        answer: dict[str, Any] = self._repository.transaction(work)
        return answer

    def renew(self, session_id: str, fingerprint: str) -> dict[str, Any]:
        """A new pair for a living session, whose refresh token until now is spent by it; Unauthenticated."""
        row = self._repository.find_session(session_id, utc_now())
        user = self._repository.find_user(row["user_id"]) if row is not None else None
        if row is None or user is None or user["status"] != "active":
            raise errors.session_ended()
        pair = self._jwt.generate_pair(user["_id"], user["role"], session_id, fingerprint)
        if not self._jwt.rotate(session_id, row["refresh_jti"], pair.refresh_jti):
            raise errors.session_ended()
        return _with_session_id(user, pair)

    def session_of(self, token: str) -> str:
        """The session of an access or a refresh token; Unauthenticated."""
        try:
            claims = self._jwt.read_token(token)
        except Unauthenticated:
            claims = self._jwt.read_token(token, REFRESH)
        session_id: str = claims["sid"]
        return session_id

    def refresh(self, refresh_token: str, fingerprint: str | None) -> dict[str, Any]:
        """A new pair for a refresh token, which is spent by it; a token that comes again ends its session.

        `fingerprint`: of the client that sends it; None skips the check.
        """
        claims = self._jwt.read_token(refresh_token, REFRESH, fingerprint=fingerprint)
        user = self._repository.find_user(claims["sub"])
        if user is None or user["status"] != "active":
            raise errors.session_ended()
        return _token_answer(user, self._jwt.refresh_token(refresh_token, role=user["role"], fingerprint=fingerprint))

    def end(self, principal: Principal, session_id: str) -> None:
        """End one of the caller's sessions; one that has ended already stays so."""
        if not self._repository.owns_session(principal.user_id, session_id):
            raise errors.session_not_found()
        self._jwt.revoke_session(session_id)

    def end_all(self, user_id: str, keep: str | None = None) -> None:
        """End all sessions of a user, except `keep`."""
        while session_ids := self._repository.living_session_ids(user_id, utc_now(), keep):
            self._jwt.revoke_sessions(session_ids)

    def page(self, principal: Principal, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: the caller's living sessions, newest first."""
        binding = f"sessions:{principal.user_id}"
        before = self._pager.position(query.cursor, binding)
        found = self._repository.find_sessions(principal.user_id, utc_now(), before, query.limit + 1)
        return self._pager.page([session_view(row, principal.session_id) for row in found], query.limit, binding)


def _is_spent(user: Mapping[str, Any]) -> bool:
    """Whether the password is a one-time password that has opened its session, or was not used in time."""
    until = user.get("one_time_until")
    return until is not None and until <= utc_now()


def _token_answer(user: dict[str, Any], pair: TokenPair) -> dict[str, Any]:
    return {
        "user": user_view(user),
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "token_type": "Bearer",
        "expires_in": pair.expires_in,
    }


def _with_session_id(user: dict[str, Any], pair: TokenPair) -> dict[str, Any]:
    return {"session_id": pair.session_id, **_token_answer(user, pair)}
