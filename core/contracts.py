"""Values that managers share with each other and with those who use them; a manager's module is imported by nobody."""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, NotRequired

from typing_extensions import TypedDict

ACCESS, REFRESH = "access", "refresh"
# The database's users, each with a pool of its own.
READ_WRITE, READ_ONLY, ADMIN = "read_write", "read_only", "admin"
IP, USER, API_KEY = "ip", "user", "api_key"
IDENTIFIER_TYPES = (IP, USER, API_KEY)
FIXED, SLIDING, BUCKET = "fixed", "sliding", "bucket"
# The service that knows the API keys (a KeyVerifier), registered by whoever keeps the users.
API_KEYS = "api_keys"
# The service that knows the users, registered by whoever keeps them: `find_user_ids(usernames) -> {username: id}`,
# `is_active(user_id)`, `find_active_roles(user_ids) -> {id: role}` and `username_of(user_id)`.
USER_DIRECTORY = "user_directory"


class DecryptionError(Exception):
    """A ciphertext that no key opens, or that belongs to another place than the one it was read from."""


class Kind(Enum):
    """GATE: a callback's exception stops what is going on. NOTICE: it is logged, and the others still run."""

    GATE = "gate"
    NOTICE = "notice"


class RequestFields(TypedDict):
    """What `after_request` tells: `route` is a template, `duration_ms` milliseconds, `user_id` None for the unknown."""

    request_id: str
    method: str
    route: str
    status: int
    duration_ms: float
    user_id: str | None
    # Only of requests with an API key.
    key_id: NotRequired[str]


class UserEvent(TypedDict):
    """What `user_created` and `user_erased` tell: the user, and the session of the transaction in which it happens."""

    user_id: str
    session: Any


@dataclass(frozen=True)
class FieldRules:
    """How a collection's fields are stored: `lookup` deterministic (searchable), `sealed` randomised.

    `private` ones are no criteria of a search, and only in what is found when the search names them.
    """

    lookup: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()
    private: tuple[str, ...] = ()


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
