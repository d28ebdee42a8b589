"""Routes as data: each says who may call it, how it is limited, and which models its input must fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel

from core.web.answers import Answers

USER, SERVICE, ANALYST, ADMIN = "user", "service", "analyst", "admin"
EVERYONE = frozenset({USER, SERVICE, ANALYST, ADMIN})
WRITERS = frozenset({USER, SERVICE, ADMIN})
ISSUERS = frozenset({SERVICE, ADMIN})
ADMINS = frozenset({ADMIN})
# Marks a route that needs no token.
PUBLIC: frozenset[str] = frozenset()
# The scope of everything that is an admin's; only an admin's key can have it.
ADMIN_SCOPE = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, as its token or API key says.

    Redis holds the flag that says whether `session_id` still lives. `scopes`: what an API key may do; None: all that the
    role may, as with a token.
    """

    user_id: str
    role: str
    session_id: str
    key_id: str | None = None
    scopes: frozenset[str] | None = None

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN


@dataclass(slots=True)
class Call:
    """One request as a handler sees it: checked, parsed, and without a word of HTTP where that can be helped."""

    params: Mapping[str, str]
    body: Any
    query: Any
    principal: Principal | None
    route: str
    request_id: str
    idempotency_key: str
    remote_address: str
    user_agent: str
    fingerprint: str
    wants_cookie: bool
    if_match: str = ""

    @property
    def caller(self) -> Principal:
        """The principal of a route that needs one."""
        assert self.principal is not None
        return self.principal


@dataclass(slots=True)
class Answer:
    """What a handler returns: a JSON-able body (None: no content), or ready-made `content` of `content_type`, perhaps in pieces."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | str | Iterator[str] | None = None
    content_type: str = ""


Handler = Callable[[Call], Answer]


class KeyVerifier(Protocol):
    """Who knows the API keys; the request chain asks it. Both raise Unauthenticated."""

    def recall(self, token: str) -> Principal | None:
        """Whose key `token` is, from memory; None: it has to be looked up. Whether it still lives, its flag says."""

    def look_up(self, token: str) -> Principal:
        """Whose key `token` is, by the record, in which it lives."""


@dataclass(frozen=True)
class Route:
    """One method on one path. `limit` names a policy of the rate limiter on top of the caller's own; None: only those.

    `scope` is what an API key needs for it; None: no API key may do this. `answers`: what comes back where it is done
    (core/web/answers.py). `refuses`: the refusals of its own, such as "409 hold-closed"; those that follow from the rest of
    this record are known. Both are what clients are told in /openapi.json.
    """

    method: str
    path: str
    handler: Handler
    roles: frozenset[str]
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    limit: str | None = None
    scope: str | None = None
    # A money verb: it takes an Idempotency-Key and refuses to run without one.
    idempotent: bool = False
    # Health and metrics must answer a prober however busy it is.
    unlimited: bool = False
    html: bool = False
    answers: Answers | None = None
    refuses: tuple[str, ...] = ()
    # The secret (a setting) that its callers send as a bearer token where it is set: of a program, not of a user.
    secret: str = ""
    # Answers with an ETag; what changes the record takes it back as If-Match.
    versioned: bool = False
    # The content type of a body that the handler gets as bytes; empty: it gets `body`.
    upload: str = ""
