"""Routes as data: each says who may call it, how it is limited, and which models its input must fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

USER, SERVICE, ANALYST, ADMIN = "user", "service", "analyst", "admin"
EVERYONE = frozenset({USER, SERVICE, ANALYST, ADMIN})
WRITERS = frozenset({USER, SERVICE, ADMIN})
ISSUERS = frozenset({SERVICE, ADMIN})
ADMINS = frozenset({ADMIN})
# Marks a route that needs no token.
PUBLIC: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a request, as its token says."""

    user_id: str
    role: str
    session_id: str

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


@dataclass(frozen=True)
class Route:
    """One method on one path. `limit` names a policy of the rate limiter on top of the caller's own; None: only those."""

    method: str
    path: str
    handler: Handler
    roles: frozenset[str]
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    limit: str | None = None
    # A money verb: it takes an Idempotency-Key and refuses to run without one.
    idempotent: bool = False
    # Health and metrics must answer a prober however busy it is.
    unlimited: bool = False
    html: bool = False
