"""The collections, views and indexes of the database, as listed in init-scripts/collections.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def members_of(listed: Mapping[str, Any], group: str) -> list[str]:
    """The collections that a grant of the list means; an empty name stands for all of the database."""
    collections = listed["collections"]
    if group == "database":
        return [""]
    if group == "mutable":
        return [name for name, options in collections.items() if not options.get("append_only")]
    if group == "public":
        return [*(name for name, options in collections.items() if not options.get("private")), *listed["views"]]
    raise ValueError(f"init-scripts/collections.json: no group named {group}")


def granted_actions(role: str, listed: Mapping[str, Any]) -> dict[str, set[str]]:
    """What a role of the list may do, by collection."""
    granted: dict[str, set[str]] = {}
    for grant in listed["roles"][role]["grants"]:
        for name in members_of(listed, grant["on"]):
            granted.setdefault(name, set()).update(grant["actions"])
    return granted


def plugin_database(database: str) -> str:
    """The database of the plugins' collections. They have their own because MongoDB grants rights by database or by full name:

    so a plugin can update what it brings without anyone who may change roles, and never the ledger.
    """
    return f"{database}_plugins"


def apply_collections(db: Database[dict[str, Any]]) -> None:
    """Create what is missing, views as they are listed now; any number of processes may do so at once.

    Raises OperationFailure when an index exists under the same name with another definition.
    """
    listed = load_collections()
    create_collections(db, listed["collections"])
    for name, view in listed["views"].items():
        if not _create(db, name, **view):
            db.command("collMod", name, **view)


def create_collections(db: Database[dict[str, Any]], collections: Mapping[str, Mapping[str, Any]]) -> None:
    """Create what is missing of `collections` (by name: `{indexes: [...]}`) and of their indexes."""
    for name, options in collections.items():
        _create(db, name)
        if options.get("indexes"):
            db.command("createIndexes", name, indexes=options["indexes"])


def _create(db: Database[dict[str, Any]], name: str, **options: Any) -> bool:
    """Whether it was created just now."""
    try:
        db.command("create", name, **options)
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise
        return False
    return True
