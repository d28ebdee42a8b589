"""Which events webhooks are told of, how a webhook names those that it wants, and the body in which one is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.modules.schedules_module.schedule import SCHEDULE_FAILED
from core.modules.transactions_module import notices
from utils.clock import rfc3339

# Every type that somebody writes into the outbox: what is not in this list cannot be subscribed to by its name.
EVENT_TYPES = (
    notices.TRANSACTION_POSTED,
    notices.TRANSACTION_REVERSED,
    notices.HOLD_CREATED,
    notices.HOLD_CAPTURED,
    notices.HOLD_RELEASED,
    notices.HOLD_ADJUSTED,
    notices.HOLD_EXPIRED,
    notices.GRANT_CREATED,
    notices.GRANT_EXPIRED,
    notices.GRANT_VOIDED,
    notices.ALERT_CROSSED,
    SCHEDULE_FAILED,
)
_ALL, _ANY_OF_KIND = "*", ".*"


@dataclass(frozen=True, slots=True)
class Event:
    """One event, complete: `body` is the JSON that every receiver gets, byte for byte."""

    id: str
    type: str
    body: str

    @classmethod
    def of(cls, event_id: str, event_type: str, created_at: datetime, data: dict[str, Any] | None) -> Event:
        """`{id, type, created_at, data}` as a body."""
        told = {"id": event_id, "type": event_type, "created_at": rfc3339(created_at), "data": data}
        return cls(event_id, event_type, json.dumps(told, ensure_ascii=False, separators=(",", ":")))


def event_id(outbox_id: Any, index: int) -> str:
    """The id by which receivers drop what they got before: the place of the event in the outbox."""
    return f"ev_{outbox_id}_{index}"


def matches(pattern: str, event_type: str) -> bool:
    """Whether `pattern` (a type, all of a kind as `hold.*`, or `*`) means `event_type`."""
    if pattern.endswith(_ANY_OF_KIND):
        return event_type.startswith(pattern[:-1])
    return pattern in (_ALL, event_type)


def wants(patterns: Sequence[str], event_type: str) -> bool:
    """Whether one of `patterns` means `event_type`."""
    return any(matches(pattern, event_type) for pattern in patterns)


def is_known(pattern: str) -> bool:
    """Whether there is an event that `pattern` means."""
    return any(matches(pattern, event_type) for event_type in EVENT_TYPES)
