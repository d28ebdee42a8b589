"""Rows of the audit log, and how they are sealed."""

from __future__ import annotations

from typing import Any

from bson import ObjectId, Timestamp

from core import context, metrics
from core.chain import Log
from utils.clock import utc_now

# The server puts its cluster time in its place as it inserts the row: the order in which rows are sealed (core/chain.py).
STAMPED_BY_THE_SERVER = Timestamp(0, 0)
AUDIT = Log(
    title="audit log",
    rows="audit_logs",
    seals="audit_seals",
    id_type=ObjectId,
    lease="audit-sealer",
    gauges=(metrics.AUDIT_CHAIN_OK, metrics.AUDIT_UNSEALED, metrics.AUDIT_LAST_SEALED),
)


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
