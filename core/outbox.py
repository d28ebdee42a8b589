"""The outbox: what happened, written down in the transaction that made it happen, for the webhooks to tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import ObjectId

OUTBOX = "outbox"
# Something is wrong with the ledger itself, told of its first bad row.
CHAIN_BROKEN = "chain.broken"


@dataclass(frozen=True, slots=True)
class Notice:
    """One event: its type (`hold.captured`), the id of what it is about, and what is told of it.

    `data` None: whoever tells it loads the record, which by then says the same as now.
    """

    type: str
    id: str
    data: dict[str, Any] | None = None


def outbox_row(created_at: datetime, notices: Iterable[Notice]) -> dict[str, Any]:
    """The document that tells `notices`, in their order; to be inserted into `OUTBOX` in the transaction of what happened."""
    events = [{"type": notice.type, "id": notice.id, "data": notice.data} for notice in notices]
    return {"_id": ObjectId(), "created_at": created_at, "relayed_at": None, "events": events}
