"""Socket events as data: the model of the payload, who may send it, how it is limited, and what is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from core.web.routing import EVERYONE, Principal


@dataclass
class Connection:
    """One socket of this worker: who it belongs to, when its token ends, its rooms and what it may still send."""

    sid: str
    principal: Principal
    expires_at: float
    rooms: set[str] = field(default_factory=set)
    budget: float = 0.0
    refilled_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Event:
    """A client event; what `handler` returns goes into the ack.

    `limit` names a policy of the rate limiter, on top of the budget that each socket has.
    """

    name: str
    body: type[BaseModel]
    handler: Callable[[Connection, Any], dict[str, Any]]
    roles: frozenset[str] = EVERYONE
    limit: str | None = None
