"""Values that managers share with each other and with those who use them; a manager's module is imported by nobody."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import Enum

ACCESS, REFRESH = "access", "refresh"
IDENTIFIER_TYPES = ("ip", "user", "api_key")


class DecryptionError(Exception):
    """A ciphertext that no key opens, or that belongs to another place than the one it was read from."""


class Kind(Enum):
    """GATE: a callback's exception stops what is going on. NOTICE: it is logged, and the others still run."""

    GATE = "gate"
    NOTICE = "notice"


@dataclass(frozen=True)
class FieldRules:
    """How a collection's fields are stored: `lookup` deterministic (searchable), `sealed` randomised."""

    lookup: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenPair:
    """What a log-in hands out; `refresh_jti` is what the session remembers of the refresh token."""

    session_id: str
    access_token: str
    refresh_token: str
    refresh_jti: str
    expires_in: int


@dataclass(frozen=True)
class Policy:
    """`quota` requests in each window of `seconds`, counted for identifiers of `type`."""

    name: str
    type: str
    quota: int
    seconds: int


@dataclass(frozen=True)
class Identifier:
    """Whom a request is counted for. `id` is plain here and becomes a keyed hash in every name."""

    type: str
    id: str


@dataclass(frozen=True)
class Standing:
    """How a policy stands after this request."""

    policy: Policy
    remaining: int
    reset: int


@dataclass(frozen=True)
class Admission:
    """What letting a request in told: the tightest standing, and the session's flag (None: not known to Redis)."""

    standing: Standing | None
    session_active: bool | None


def rate_limit_headers(standing: Standing) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): seconds and requests, no identity."""
    policy = standing.policy
    return {
        "RateLimit-Policy": f'"{policy.name}";q={policy.quota};w={policy.seconds}',
        "RateLimit": f'"{policy.name}";r={standing.remaining};t={standing.reset}',
    }


def fingerprint_of(value: str | None) -> str:
    """What goes into `fpt` for a client's fingerprint value: its SHA-256; empty when the client sends none."""
    if not value:
        return ""
    return base64.urlsafe_b64encode(hashlib.sha256(value.encode()).digest()).decode().rstrip("=")
