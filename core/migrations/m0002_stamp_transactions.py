"""Gives transactions from before the ledger's chain their place in it: the server's time as they are touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.contracts import ADMIN
from core.migrations.migration import Migration, Progress

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_ROWS = "transactions"
_BATCH = 1000
_BATCH_SECONDS = 30.0
_COUNT_SECONDS = 600.0
# Rows without the field: found by the index on it.
_UNSTAMPED = {"stamp": None}


def pending(database: DatabaseManager) -> int:
    """How many transactions have no stamp yet."""
    with database.errors(_COUNT_SECONDS):
        return database.collection(_ROWS).count_documents(_UNSTAMPED)


def up(database: DatabaseManager, progress: Progress) -> None:
    """Stamp them, a thousand at a time."""
    # Nobody but the admin may change what is append-only.
    rows = database.collection(_ROWS, ADMIN)
    stamp = {"$currentDate": {"stamp": {"$type": "timestamp"}}}
    while True:
        with database.errors(_BATCH_SECONDS):
            ids = [row["_id"] for row in rows.find(_UNSTAMPED, ("_id",)).limit(_BATCH)]
            if ids:
                rows.update_many({"_id": {"$in": ids}, **_UNSTAMPED}, stamp)
        if not ids:
            return
        progress(len(ids))


MIGRATION = Migration("0002_stamp_transactions", "Transactions from before the ledger's chain get their place in it.", pending, up)
