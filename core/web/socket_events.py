"""Socket events as data: the model of the payload, who may send it, how it is limited, and what is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from core.web.answers import Time, UserId, View, WalletId
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


class RoomJoined(View):
    room: str
    size: int


class RoomLeft(View):
    room: str


class Message(View):
    """`room` null: a direct message, or one to everybody."""

    room: str | None
    from_: UserId = Field(alias="from")
    data: Any
    at: Time


class SessionRevoked(View):
    """The socket is closed after it; `reason`: session-revoked or token-expired."""

    reason: str


class WalletUpdated(View):
    """After each change of one of the user's wallets; `seq` grows with each entry: who misses one reads the wallet again."""

    wallet_id: WalletId
    settled: int
    held: int
    available: int
    seq: int


# What the server sends to clients by itself, by name.
SERVER_EVENTS: Mapping[str, type[BaseModel]] = {
    "room_joined": RoomJoined,
    "room_left": RoomLeft,
    "message": Message,
    "session_revoked": SessionRevoked,
    "wallet_updated": WalletUpdated,
}
