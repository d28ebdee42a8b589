"""JWTManager: access and refresh tokens, each with its own key and type, bound to a session and a client fingerprint."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.contracts import ACCESS, REFRESH, TokenPair
from core.managers.base import Manager
from tools.error_handling.errors import AppError, Unauthenticated, Unavailable
from utils.clock import utc_now
from utils.ids import new_id
from utils.keys import stretch

_ALGORITHM = "HS256"
_HEADER_TYPES = {ACCESS: "at+jwt", REFRESH: "rt+jwt"}
_REQUIRED = ["sub", "sid", "jti", "iat", "nbf", "exp", "iss", "aud", "typ", "role", "fpt"]
_LEEWAY_SECONDS = 30
# How long a session counts as active without asking the record again.
_FLAG_SECONDS = 60
_RETRY_SECONDS = 0.5
_VERIFIED_MAX = 4096
_UNUSABLE = "The token is not valid."


class JWTManager(Manager):
    """Makes and checks tokens. Whether a session still lives is asked where the request is let in, not here."""

    name = "jwt"

    def initialize(self) -> bool:
        config = self.app_manager.config
        master = stretch(config["JWT_SECRET"], "credit-system/jwt")
        self._keys = {kind: _derive(master, kind) for kind in _HEADER_TYPES}
        self._key_id = hashlib.sha256(master).hexdigest()[:8]
        self._ttl = {ACCESS: config["JWT_ACCESS_TTL"], REFRESH: config["JWT_REFRESH_TTL"]}
        self._issuer, self._audience = config["JWT_ISSUER"], config["JWT_AUDIENCE"]
        # Claims of tokens that were verified before: a signature stays right, and checking it costs more than the rest.
        self._verified: dict[tuple[str, str], dict[str, Any]] = {}
        self._codec = jwt.PyJWT(options={"enforce_minimum_key_length": True})
        self.initialized = True
        return True

    def generate_token(
        self, user_id: str, role: str = "user", *, session_id: str | None = None, fingerprint: str = "", kind: str = ACCESS
    ) -> str:
        """A signed token of `kind` for `user_id`; `fingerprint` is what `fingerprint_of` made of the client's value."""
        return self._sign(kind, self._claims(kind, user_id, role, session_id or new_id("s"), fingerprint))

    def generate_pair(self, user_id: str, role: str, session_id: str, fingerprint: str = "") -> TokenPair:
        """A fresh access and refresh token of one session."""
        refresh = self._claims(REFRESH, user_id, role, session_id, fingerprint)
        return TokenPair(
            session_id=session_id,
            access_token=self.generate_token(user_id, role, session_id=session_id, fingerprint=fingerprint),
            refresh_token=self._sign(REFRESH, refresh),
            refresh_jti=refresh["jti"],
            expires_in=self._ttl[ACCESS],
        )

    def validate_token(self, token: str, kind: str = ACCESS, *, fingerprint: str | None = None) -> dict[str, Any]:
        """The claims of `token`; raises Unauthenticated when anything about it is wrong or its session was revoked.

        `fingerprint`: of the client that sends it; None skips the check (callers that have no client at hand).
        """
        claims = self.read_token(token, kind, fingerprint=fingerprint)
        if self.is_session_revoked(claims["sid"]):
            raise Unauthenticated("The session has ended.", code="session-revoked")
        return claims

    def read_token(self, token: str, kind: str = ACCESS, *, fingerprint: str | None = None) -> dict[str, Any]:
        """As `validate_token`, without asking about the session; for those who ask for that together with other things."""
        claims = self._verified.get((kind, token))
        if claims is None:
            claims = self._verify(token, kind)
            if len(self._verified) >= _VERIFIED_MAX:
                self._verified.clear()
            self._verified[kind, token] = claims
        elif claims["exp"] <= time.time() - _LEEWAY_SECONDS:
            raise Unauthenticated("The token has expired.", code="token-expired")
        if fingerprint is not None and claims["fpt"] and not hmac.compare_digest(claims["fpt"], fingerprint):
            raise Unauthenticated("The token belongs to another client.", code="token-invalid")
        return dict(claims)

    def _verify(self, token: str, kind: str) -> dict[str, Any]:
        """Check everything about `token` that cannot change: signature, type, claims; and whether it has begun and not ended."""
        try:
            decoded = self._codec.decode_complete(
                token,
                self._keys[kind],
                algorithms=[_ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": _REQUIRED, "strict_aud": True},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired.", code="token-expired") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise Unauthenticated(_UNUSABLE, code="token-invalid") from error
        claims: dict[str, Any] = decoded["payload"]
        if decoded["header"].get("typ") != _HEADER_TYPES[kind] or claims["typ"] != kind:
            raise Unauthenticated(_UNUSABLE, code="token-invalid")
        return claims

    def is_token_valid(self, token: str, kind: str = ACCESS) -> bool:
        """Whether `validate_token` would accept it."""
        try:
            self.validate_token(token, kind)
        except AppError:
            return False
        return True

    # Sessions: MongoDB is the record of what is revoked, a flag in Redis answers the usual case

    def session_key(self, session_id: str) -> str:
        """The name of the session's flag in Redis: `1` while it is known to be active, `0` once it is revoked."""
        return f"session:{session_id}"

    def is_session_active(self, session_id: str) -> bool:
        """Ask the record, and leave a flag for the next requests. Works while Redis is away."""
        active = session_id in self.active_sessions([session_id])
        if active:
            self.leave_flag(session_id)
        return active

    def is_session_revoked(self, session_id: str) -> bool:
        """Whether the session was ended; of one that was never recorded nobody can say so."""
        with suppress(Unavailable):
            is_active = self.app_manager.redis_manager.get_token(self.session_key(session_id))
            if is_active is not None:
                return not is_active
        session = self.app_manager.database_manager.find_one("user_sessions", {"_id": session_id}, projection=("revoked_at",))
        return session is not None and session["revoked_at"] is not None

    def active_sessions(self, session_ids: Iterable[str]) -> set[str]:
        """Which of `session_ids` still live, by the record, in one query."""
        wanted = list(session_ids)
        query = {"_id": {"$in": wanted}, "revoked_at": None, "expires_at": {"$gt": utc_now()}}
        found = self.app_manager.database_manager.find_many("user_sessions", query, limit=max(1, len(wanted)), projection=("_id",))
        return {row["_id"] for row in found}

    def revoke_session(self, session_id: str) -> None:
        """End a session for ever: first in the record, then in Redis."""
        self.revoke_sessions([session_id])

    def revoke_sessions(self, session_ids: Sequence[str]) -> None:
        """End several sessions; every one of their tokens fails from now on."""
        query = {"_id": {"$in": list(session_ids)}, "revoked_at": None}
        self.app_manager.database_manager.update_many("user_sessions", query, {"$set": {"revoked_at": utc_now()}})
        self.announce_ended(session_ids)

    def announce_ended(self, session_ids: Sequence[str]) -> None:
        """Say everywhere that these sessions (or API keys, by their flags) have ended; the record says so already."""
        if not session_ids:
            return
        try:
            self._announce(session_ids)
        except Unavailable:
            # Ended they are: the record is asked while Redis is away.
            threading.Thread(target=self._announce_later, args=(list(session_ids),), daemon=True).start()

    def _announce(self, session_ids: Sequence[str]) -> None:
        """Say in Redis, and to who else wants to know, that these sessions have ended."""
        keys = [self.session_key(session_id) for session_id in session_ids]
        self.app_manager.redis_manager.revoke_tokens(keys, self._ttl[ACCESS] + 2 * _LEEWAY_SECONDS)
        self.app_manager.hooks_manager.trigger("session_revoked", list(session_ids))

    def _announce_later(self, session_ids: list[str]) -> None:
        """A Redis that comes back with its memory would take the sessions for active, for as long as their flags last."""
        give_up = time.monotonic() + _FLAG_SECONDS
        while self.initialized and time.monotonic() < give_up:
            time.sleep(_RETRY_SECONDS)
            with suppress(Unavailable):
                self._announce(session_ids)
                return

    def leave_flag(self, session_id: str) -> None:
        """Let the next requests know, for a while, that the session (or API key) was found alive in the record."""
        try:
            # Only where there is none: a revocation that came in between must not be overwritten.
            self.app_manager.redis_manager.set_token(self.session_key(session_id), _FLAG_SECONDS)
        except Unavailable:
            return

    def check(self) -> tuple[str, dict[str, Any]]:
        return "healthy", {"algorithm": _ALGORITHM, "key_id": self._key_id}

    def dispose(self) -> None:
        self._keys, self._verified = {}, {}
        self.initialized = False

    def _claims(self, kind: str, user_id: str, role: str, session_id: str, fingerprint: str) -> dict[str, Any]:
        now = int(time.time())
        return {
            "sub": user_id,
            "sid": session_id,
            "jti": new_id("t"),
            "iat": now,
            "nbf": now,
            "exp": now + self._ttl[kind],
            "iss": self._issuer,
            "aud": self._audience,
            "typ": kind,
            "role": role,
            "fpt": fingerprint,
        }

    def _sign(self, kind: str, claims: dict[str, Any]) -> str:
        headers = {"typ": _HEADER_TYPES[kind], "kid": self._key_id}
        return self._codec.encode(claims, self._keys[kind], algorithm=_ALGORITHM, headers=headers)


def _derive(master: bytes, kind: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=None, info=f"jwt:{kind}".encode()).derive(master)
