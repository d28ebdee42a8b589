"""Values that managers share with each other and with those who use them; a manager's module is imported by nobody."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from enum import Enum

ACCESS, REFRESH = "access", "refresh"
IP, USER, API_KEY = "ip", "user", "api_key"
IDENTIFIER_TYPES = (IP, USER, API_KEY)
FIXED, SLIDING, BUCKET = "fixed", "sliding", "bucket"


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
    """`quota` requests in `seconds`, as `algorithm` has it, for the first of `types` that a request has an identifier of.

    `burst`: what a full bucket holds. `fail_closed`: while Redis is away little passes, and the rest is told to come
    back. `shadow`: it counts and refuses nothing.
    """

    name: str
    types: tuple[str, ...]
    algorithm: str
    quota: int
    seconds: int
    burst: int
    fail_closed: bool = False
    shadow: bool = False

    @property
    def most(self) -> int:
        """How many requests pass at once when none were made for long."""
        return self.burst if self.algorithm == BUCKET else self.quota

    @property
    def window(self) -> int:
        """Seconds after which all of it is there again; for a bucket: to fill an empty one."""
        return math.ceil(self.burst * self.seconds / self.quota) if self.algorithm == BUCKET else self.seconds


@dataclass(frozen=True)
class Identifier:
    """Whom a request is counted for. `id` is plain here and becomes a keyed hash in every name."""

    type: str
    id: str


@dataclass(frozen=True)
class Standing:
    """How a policy stands after this request; `reset`: seconds until more than `remaining` is left."""

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
        "RateLimit-Policy": f'"{policy.name}";q={policy.most};w={policy.window}',
        "RateLimit": f'"{policy.name}";r={standing.remaining};t={standing.reset}',
    }


def fingerprint_of(value: str | None) -> str:
    """What goes into `fpt` for a client's fingerprint value: its SHA-256; empty when the client sends none."""
    if not value:
        return ""
    return base64.urlsafe_b64encode(hashlib.sha256(value.encode()).digest()).decode().rstrip("=")
