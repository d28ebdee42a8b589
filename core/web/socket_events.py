"""Socket events as data: the model of the payload, who may send it, how it is limited, and what is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from core.web.answers import Time, UserId, View, WalletId
from core.web.budget import Budget
from core.web.models import Body, Text
from core.web.routing import EVERYONE, Principal
from tools.error_handling.error_handler import from_validation
from tools.error_handling.errors import MalformedRequest


@dataclass(eq=False, slots=True)
class Connection:
    """One socket of this worker: who it belongs to, when its token ends, its rooms (since when) and what it may still send.

    `patience` is what is left of ours with a socket whose events are refused; `ended` says why it has to go; `doubtful` are
    rooms of which Redis may think otherwise, since it did not answer in time.
    """

    sid: str
    principal: Principal
    expires_at: float
    address: str
    budget: Budget
    user_budget: Budget
    patience: Budget
    username: str | None = None
    rooms: dict[str, float] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    ended: str | None = None


@dataclass(frozen=True)
class Event:
    """A client event; what `handler` returns goes into the ack.

    `limit` names a policy of the rate limiter, on top of the budgets that each socket and each user has.
    """

    name: str
    body: type[BaseModel]
    handler: Callable[[Connection, Any], dict[str, Any]]
    roles: frozenset[str] = EVERYONE
    limit: str | None = None

    def payload(self, args: tuple[Any, ...]) -> Any:
        """The one argument of the event as its model. What JSON has no word for would break every client that it is sent on to."""
        given = args[0] if len(args) == 1 else None
        try:
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise MalformedRequest("The payload is not valid JSON.") from error
        try:
            return self.body.model_validate(given)
        except ValidationError as error:
            raise from_validation(error) from None


# What clients send


class RoomBody(Body):
    room: Annotated[Text, Field(min_length=1, max_length=64, pattern=r"^[\w:.-]+$")]


class MessageBody(RoomBody):
    data: Any


class DirectBody(Body):
    user_id: Annotated[Text, Field(min_length=1, max_length=64)]
    data: Any


class BroadcastBody(Body):
    data: Any


# What the server sends


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


class Present(View):
    """`since`: when the user's first socket joined."""

    user_id: UserId
    username: str | None
    since: Time


class PresenceChanged(View):
    """To a room, after somebody came or went; `size` counts sockets, `users` lists the first of them."""

    room: str
    users: list[Present]
    size: int


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
    version: int


# What the server sends to clients by itself, by name; modules say what theirs is (BaseModule.SENDS).
SERVER_EVENTS: Mapping[str, type[BaseModel]] = {
    "room_joined": RoomJoined,
    "room_left": RoomLeft,
    "message": Message,
    "presence": PresenceChanged,
    "session_revoked": SessionRevoked,
    "wallet_updated": WalletUpdated,
}
