"""JWTManager: access and refresh tokens, each with its own keys and type, bound to a session and a client fingerprint."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from core import metrics
from core.contracts import ACCESS, REFRESH, TokenPair
from core.managers.base import Manager
from core.managers.jwt_keys import TokenKey, TokenRing
from tools.error_handling.errors import AppError, Unauthenticated, Unavailable
from tools.logger.custom_logger import custom_log
from utils import green
from utils.clock import utc_now
from utils.ids import new_id
from utils.keys import JWT_RING, Stretcher, key_fingerprint

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
    live_settings = frozenset({"JWT_SECRET", "JWT_ALGORITHM"})

    def initialize(self) -> bool:
        config = self.app_manager.config
        self._ttl = {ACCESS: config["JWT_ACCESS_TTL"], REFRESH: config["JWT_REFRESH_TTL"]}
        self._issuer, self._audience = config["JWT_ISSUER"], config["JWT_AUDIENCE"]
        self._codec = jwt.PyJWT(options={"enforce_minimum_key_length": True})
        self._stretcher = Stretcher(JWT_RING)
        self._take(self._stretcher.masters(config["JWT_SECRET"]))
        self.initialized = True
        return True

    def reload(self) -> None:
        """Take over new keys. Tokens of a key that is gone fail at once; raises ValueError for a ring without keys."""
        self._take(green.run_native(self._stretcher.masters, self.app_manager.config["JWT_SECRET"]))

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

    def refresh_token(self, token: str, *, role: str | None = None, fingerprint: str | None = None) -> TokenPair:
        """A new pair for a refresh token, which is spent by it; a token that comes again ends its session.

        `role`: that of the user by now; None keeps the token's. Raises Unauthenticated (`session-revoked`, `refresh-reused`,
        or as `read_token` does).
        """
        claims = self.read_token(token, REFRESH, fingerprint=fingerprint)
        pair = self.generate_pair(claims["sub"], role or claims["role"], claims["sid"], claims["fpt"])
        if not self.rotate(claims["sid"], claims["jti"], pair.refresh_jti):
            raise self._refusal_of_spent(claims["sid"])
        metrics.AUTH_ATTEMPTS.labels("refresh", "ok").inc()
        return pair

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
        # The ring of now: what it verifies is remembered with it, and forgotten with it.
        ring = self._ring
        claims = ring.verified.get((kind, token))
        if claims is None:
            claims = self._verify(token, kind, ring)
            if len(ring.verified) >= _VERIFIED_MAX:
                ring.verified.clear()
            ring.verified[kind, token] = claims
        elif claims["exp"] <= time.time() - _LEEWAY_SECONDS:
            raise Unauthenticated("The token has expired.", code="token-expired")
        if fingerprint is not None and claims["fpt"] and not hmac.compare_digest(claims["fpt"], fingerprint):
            raise Unauthenticated("The token belongs to another client.", code="token-invalid")
        return dict(claims)

    def _verify(self, token: str, kind: str, ring: TokenRing) -> dict[str, Any]:
        """Check everything about `token` that cannot change: signature, type, claims; and whether it has begun and not ended."""
        try:
            key = _named_key(token, kind, ring)
            decoded = self._codec.decode_complete(
                token,
                key.verifying,
                algorithms=[key.algorithm],
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

    def revoke_token(self, token: str, kind: str = ACCESS) -> None:
        """End the session of a token, and with it all of its tokens; one that nobody recorded is recorded as ended."""
        claims = self.read_token(token, kind)
        database = self.app_manager.database_manager
        if database.find_one("user_sessions", {"_id": claims["sid"]}, projection=("_id",)) is None:
            ends = datetime.fromtimestamp(claims["exp"] + _LEEWAY_SECONDS, UTC)
            row = {"_id": claims["sid"], "user_id": claims["sub"], "created_at": utc_now(), "expires_at": ends, "revoked_at": None}
            database.insert_one("user_sessions", row)
        self.revoke_session(claims["sid"])

    def rotate(self, session_id: str, spent_jti: str, new_jti: str) -> bool:
        """Replace the refresh token of a living session, in one conditional update: of two who try, one wins."""
        now = utc_now()
        query = {"_id": session_id, "refresh_jti": spent_jti, "revoked_at": None, "expires_at": {"$gt": now}}
        fields = {"refresh_jti": new_jti, "last_used_at": now, "expires_at": now + timedelta(seconds=self._ttl[REFRESH])}
        return self.app_manager.database_manager.update_one("user_sessions", query, {"$set": fields}).matched_count == 1

    def _refusal_of_spent(self, session_id: str) -> Unauthenticated:
        """Why a genuine refresh token was not current: its session ended, or (then it ends now) someone used it before."""
        if session_id not in self.active_sessions([session_id]):
            metrics.AUTH_ATTEMPTS.labels("refresh", "ended").inc()
            return Unauthenticated("The session has ended.", code="session-revoked", title="Session ended")
        metrics.AUTH_ATTEMPTS.labels("refresh", "reused").inc()
        custom_log("a refresh token was used twice, its session ends", level="WARNING", session_id=session_id)
        self.revoke_session(session_id)
        return Unauthenticated(
            "This refresh token was used before; its session has ended.", code="refresh-reused", title="Refresh token reused"
        )

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

    # Keys

    def public_keys(self) -> list[dict[str, str]]:
        """JSON Web Keys with which other services can verify access tokens: under EdDSA all of the ring, else none."""
        return self._ring.public_keys()

    def fingerprints(self) -> list[str]:
        """Of each key, newest first, what people may see of it."""
        return list(self._fingerprints)

    def check(self) -> tuple[str, dict[str, Any]]:
        signer = self._ring.signers[ACCESS]
        return "healthy", {"algorithm": signer.algorithm, "keys": len(self._fingerprints)}

    def dispose(self) -> None:
        self.initialized = False
        # No key outlives its manager.
        for name in ("_ring", "_stretcher"):
            vars(self).pop(name, None)

    def _take(self, masters: Sequence[bytes]) -> None:
        self._ring = TokenRing.of(masters, self.app_manager.config["JWT_ALGORITHM"])
        self._fingerprints = [key_fingerprint(master) for master in masters]
        metrics.KEYS.labels("jwt").set(len(masters))

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
        key = self._ring.signers[kind]
        return self._codec.encode(claims, key.signing, algorithm=key.algorithm, headers={"typ": _HEADER_TYPES[kind], "kid": key.id})


def _named_key(token: str, kind: str, ring: TokenRing) -> TokenKey:
    """The one key that the header names; there is no trying of others. Raises PyJWTError when we have none of that name."""
    key_id = jwt.get_unverified_header(token).get("kid")
    key = ring.keys.get((kind, key_id)) if isinstance(key_id, str) else None
    if key is None:
        raise jwt.InvalidKeyError("no key of this id")
    return key
