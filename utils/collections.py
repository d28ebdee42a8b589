"""The collections, views and indexes of the database, as listed in init-scripts/collections.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure

COLLECTIONS_FILE = Path(__file__).parents[1] / "init-scripts" / "collections.json"
NAMESPACE_EXISTS = 48


def load_collections() -> dict[str, Any]:
    """The whole list: `collections`, `views`, `roles` and `users`."""
    listed: dict[str, Any] = json.loads(COLLECTIONS_FILE.read_text(encoding="utf-8"))
    return listed


def apply_collections(db: Database[dict[str, Any]]) -> None:
    """Create what is missing, views as they are listed now; any number of processes may do so at once.

    Raises OperationFailure when an index exists under the same name with another definition.
    """
    listed = load_collections()
    for name, options in listed["collections"].items():
        _create(db, name)
        if options["indexes"]:
            db.command("createIndexes", name, indexes=options["indexes"])
    for name, view in listed["views"].items():
        if not _create(db, name, **view):
            db.command("collMod", name, **view)


def _create(db: Database[dict[str, Any]], name: str, **options: Any) -> bool:
    """Whether it was created just now."""
    try:
        db.command("create", name, **options)
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        return False
    return True
