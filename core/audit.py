"""Rows of the audit log."""

from __future__ import annotations

from typing import Any

from bson import ObjectId, Timestamp

from core import context
from utils.clock import utc_now

# The server puts its cluster time in its place as it inserts the row: the order in which rows are sealed (core/audit_chain.py).
STAMPED_BY_THE_SERVER = Timestamp(0, 0)


def audit_entry(action: str, target: str | None, **details: Any) -> dict[str, Any]:
    """One row of the audit log: who did what to which record, in which request; never the values themselves."""
    return {
        "_id": ObjectId(),
        "created_at": utc_now(),
        "actor_id": context.actor_id.get(),
        "action": action,
        "target": target,
        "request_id": context.request_id.get(),
        "stamp": STAMPED_BY_THE_SERVER,
        **details,
    }
