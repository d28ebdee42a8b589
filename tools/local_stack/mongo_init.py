"""Applies the roles of init-scripts/collections.json and the three users that hold them."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from tools.local_stack.dev_secrets import SecretFiles
from utils.collections import load_collections, members_of, plugin_database

# Error codes of MongoDB.
USER_EXISTS = 51003
ROLE_EXISTS = 51002

Document = dict[str, Any]


def apply_access(client: MongoClient[Document], database: str, secrets: SecretFiles) -> None:
    """Create or update roles (in the database that they are for) and users (in `admin`, where drivers look for them by default)."""
    listed = load_collections()
    homes = apply_roles(client, database, listed)
    for user in listed["users"]:
        access = {
            "pwd": secrets[user["password_secret"]],
            "roles": [{"role": role, "db": homes[role]} for role in user["roles"]],
            "mechanisms": ["SCRAM-SHA-256"],
        }
        _create_or_update(client["admin"], "User", secrets[user["name_secret"]], USER_EXISTS, **access)


def apply_roles(client: MongoClient[Document], database: str, listed: Document) -> dict[str, str]:
    """Create or update the roles; which database each of them is in."""
    homes = {role: plugin_database(database) if definition.get("plugins") else database for role, definition in listed["roles"].items()}
    for role, home in homes.items():
        _apply_role(client[home], role, listed)
    return homes


def _apply_role(database: Database[Document], role: str, listed: Document) -> None:
    definition = listed["roles"][role]
    privileges = [
        {"resource": {"db": database.name, "collection": collection}, "actions": grant["actions"]}
        for grant in definition["grants"]
        for collection in members_of(listed, grant["on"])
    ]
    inherited = [{"role": name, "db": database.name} for name in definition["inherits"]]
    _create_or_update(database, "Role", role, ROLE_EXISTS, privileges=privileges, roles=inherited)


def _create_or_update(database: Database[Document], kind: str, name: str, exists: int, **definition: Any) -> None:
    try:
        database.command(f"create{kind}", name, **definition)
    except OperationFailure as error:
        if error.code != exists:
            raise
        database.command(f"update{kind}", name, **definition)
