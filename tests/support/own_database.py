"""A database of a test's own on the shared MongoDB, for what would spoil the others': rotations, above all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database

from tools.local_stack import LocalStack
from tools.local_stack.mongo_init import apply_roles
from utils.collections import apply_collections, load_collections


@contextmanager
def own_database(servers: LocalStack, name: str) -> Iterator[Database[dict[str, Any]]]:
    """Collections, indexes and roles as in the real one, and our three users with them; as root sees it. Dropped at the end."""
    listed = load_collections()
    assert servers.mongod is not None
    with servers.mongod.client() as client:
        database = client[name]
        apply_collections(database)
        homes = apply_roles(client, name, listed)
        for user in listed["users"]:
            roles = [{"role": role, "db": homes[role]} for role in user["roles"]]
            client.admin.command("grantRolesToUser", servers.secrets[user["name_secret"]], roles=roles)
        yield database
        client.drop_database(name)
