"""The mark that a restore leaves in a database until all of it is there: nothing starts on half a database."""

from __future__ import annotations

from typing import Any

from pymongo.database import Database

from core.managers.base import BootError

COLLECTION = "restore_marker"
Document = dict[str, Any]


def interrupted_restore(database: Database[Document]) -> str | None:
    """The id of the backup whose restore was begun here and not ended."""
    found = database[COLLECTION].find_one({}, ("backup",))
    return None if found is None else str(found["backup"])


def refuse_half_restored(database: Database[Document]) -> None:
    """Raises BootError while a restore goes on, or after one that was broken off."""
    backup = interrupted_restore(database)
    if backup is not None:
        raise BootError(f"mongodb: {database.name} is only half restored, from {backup}; run `flask restore` again until it ends well")
