"""Which migrations were applied, and running the others: in order, by one process at a time, beside the running application.

No boot applies one by itself: while nodes are being updated one after the other, the old ones still write as they always did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError

from core.lease import hold_lease
from core.migrations.migration import Migration
from core.migrations.registry import MIGRATIONS
from tools.logger.custom_logger import custom_log
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_APPLIED = "migrations"
_LEASE, _LEASE_SECONDS = "migrations", 120.0
_MOST = 10_000
APPLIED, PENDING, CHANGED = "applied", "pending", "changed"


class MigrationError(Exception):
    """A migration that was applied is not the one that lies here now; nothing is run then."""


@dataclass(frozen=True)
class Status:
    """How one migration stands. `documents`: of a pending one, how many it would change; else how many it changed."""

    migration: Migration
    state: str
    documents: int
    applied_at: datetime | None = None


def status(database: DatabaseManager, migrations: Sequence[Migration] = MIGRATIONS) -> list[Status]:
    """All migrations, in their order; what a dry run shows."""
    applied = {row["_id"]: row for row in database.find_many(_APPLIED, {}, limit=_MOST)}
    return [_status_of(database, migration, applied.get(migration.id)) for migration in migrations]


def run(
    database: DatabaseManager,
    begins: Callable[[Status], Callable[[int], None]],
    migrations: Sequence[Migration] = MIGRATIONS,
) -> list[Status]:
    """Apply what is pending, in order; `begins` is called for each and gives what is called with the size of each batch.

    Returns what was applied. An interrupted one is not recorded, and goes on where it was when it is run again.
    Raises LeaseTaken while another process runs them, LeaseLost, MigrationError, Unavailable.
    """
    done: list[Status] = []
    with hold_lease(database, _LEASE, _LEASE_SECONDS) as lease:
        for each in _pending(status(database, migrations)):
            report = begins(each)
            changed = 0

            def progress(documents: int) -> None:
                nonlocal changed
                lease.keep()
                changed += documents
                report(documents)  # noqa: B023  it is called before the next one begins

            began = time.monotonic()
            each.migration.up(database, progress)
            lease.keep()
            _record(database, each.migration, changed, time.monotonic() - began)
            done.append(Status(each.migration, APPLIED, changed, utc_now()))
    return done


def settle(database: DatabaseManager, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Count those as applied that have nothing to change (all of them, in a new database), and warn about the others."""
    for each in status(database, migrations):
        if each.state == CHANGED:
            custom_log("a migration was changed after it was applied", level="WARNING", migration=each.migration.id)
        elif each.state == PENDING and each.documents:
            custom_log("a migration is pending", level="WARNING", migration=each.migration.id, documents=each.documents)
        elif each.state == PENDING:
            # Nodes that start together may all do so.
            with suppress(DuplicateKeyError):
                _record(database, each.migration, 0, 0.0)


def _pending(all_of_them: Sequence[Status]) -> list[Status]:
    changed = [each.migration.id for each in all_of_them if each.state == CHANGED]
    if changed:
        raise MigrationError(f"changed after it was applied: {', '.join(changed)}")
    return [each for each in all_of_them if each.state == PENDING]


def _status_of(database: DatabaseManager, migration: Migration, row: dict[str, Any] | None) -> Status:
    if row is None:
        return Status(migration, PENDING, migration.pending(database))
    state = APPLIED if row["checksum"] == migration.checksum else CHANGED
    return Status(migration, state, row["documents"], row["applied_at"])


def _record(database: DatabaseManager, migration: Migration, documents: int, seconds: float) -> None:
    row = {"_id": migration.id, "checksum": migration.checksum, "documents": documents, "seconds": round(seconds, 3)}
    database.insert_one(_APPLIED, {**row, "applied_at": utc_now()})
