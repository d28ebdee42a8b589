"""MongoDB as our three users find it: reachable, whole, durable, and with the rights that each of them needs and no more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

import pymongo
from pymongo.errors import OperationFailure

from core.contracts import ADMIN, READ_ONLY, READ_WRITE
from core.doctor.finding import Finding, fail, ok, warn
from core.managers.base import BootError
from core.managers.database_clients import RoleClient
from core.restore_marker import interrupted_restore
from utils.collections import granted_actions, load_collections

_SECONDS = 5.0
_OLDEST = (6, 0)
_SKEW_WARN, _SKEW_FAIL = 1.0, 30.0
# The server's default for transactionLifetimeLimitSeconds, and how much of it a row can come late by.
_LIFETIME, _LATE = 60, 1.5
_INIT = "Run init-scripts/mongodb-init.js once more."
_ROLES = {READ_WRITE: "creditReadWrite", READ_ONLY: "creditAnalytics", ADMIN: "creditAdmin"}


def mongodb(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Each user's log-in, and then what the set itself says."""
    clients = {}
    try:
        for role in (READ_WRITE, READ_ONLY, ADMIN):
            try:
                clients[role] = RoleClient(config, role)
                clients[role].wait_until_usable(0.0)
                yield ok(f"mongodb.{role}", "logs in")
            except BootError as error:
                yield fail(f"mongodb.{role}", str(error), "Look at MONGODB_URI, at the server, and at the secrets of this user.")
                clients.pop(role, None)
        with pymongo.timeout(_SECONDS):
            for role, client in clients.items():
                yield from _rights(client, role)
            if READ_WRITE in clients:
                yield from _server(clients[READ_WRITE], config)
            if ADMIN in clients:
                yield from _schema(clients[ADMIN])
    finally:
        for client in clients.values():
            client.close()


def _server(client: RoleClient, config: Mapping[str, Any]) -> Iterator[Finding]:
    before = time.time()
    hello = client.client.admin.command("hello")
    yield skew("mongodb.clock", hello["localTime"].replace(tzinfo=UTC).timestamp(), before, time.time())
    version = client.client.server_info()["version"]
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        yield fail("mongodb.version", version, "Use 6.0 or newer.")
    else:
        yield ok("mongodb.version", version)
    members = hello.get("hosts", [])
    if len(members) < 3:
        yield warn("mongodb.members", f"{len(members)} members: one that fails stops everything", "Have three, on machines of their own.")
    else:
        yield ok("mongodb.members", f"{len(members)} members")
    began = time.perf_counter()
    # Changes nothing, and is only answered when a majority has what was written before on its disks.
    client.database["settings"].update_one({"_id": "doctor"}, {"$set": {"looked": True}})
    yield ok("mongodb.durable", f"a majority acknowledges journaled writes, in {(time.perf_counter() - began) * 1000:.0f} ms")
    yield _seal_delay(client, config["AUDIT_SEAL_DELAY"])
    half = interrupted_restore(client.database)
    if half is not None:
        yield fail("mongodb.restore", f"a restore from {half} was broken off", "Run `flask restore` again until it ends well.")


def skew(check: str, theirs: float, before: float, after: float) -> Finding:
    """A clock that was read between two looks at ours."""
    off = max(before - theirs, theirs - after, 0.0)
    said, advice = f"its clock is {off:.1f} s off ours", "Have NTP set the clocks of all machines."
    if off > _SKEW_FAIL:
        return fail(check, said, advice)
    return warn(check, said, advice) if off > _SKEW_WARN else ok(check, said)


def _seal_delay(client: RoleClient, delay: float) -> Finding:
    name = "transactionLifetimeLimitSeconds"
    try:
        lifetime, how = client.client.admin.command({"getParameter": 1, name: 1})[name], "is"
    except OperationFailure:
        # Only an admin of the cluster may ask.
        lifetime, how = _LIFETIME, "is by default"
    said = f"AUDIT_SEAL_DELAY is {delay:g} s; {name} {how} {lifetime}"
    if delay > _LATE * lifetime:
        return ok("mongodb.seal_delay", said)
    return warn("mongodb.seal_delay", said, f"Rows may come too late for their seal: make it more than {_LATE} times that.")


def _rights(client: RoleClient, role: str) -> Iterator[Finding]:
    """The rights that the server says our user has, against those of the list; too many are as wrong as too few."""
    status = client.client.admin.command({"connectionStatus": 1, "showPrivileges": True})["authInfo"]
    held = {each["role"] for each in status["authenticatedUserRoles"] if each["db"] == client.database.name}
    above = sorted(
        each["role"] for each in status["authenticatedUserRoles"] if each["role"] == "root" or each["role"].endswith("AnyDatabase")
    )
    if above:
        yield fail(f"mongodb.{role}.rights", f"has {', '.join(above)}", f"Take that away: {_ROLES[role]} is all that it needs.")
    if _ROLES[role] not in held:
        yield fail(f"mongodb.{role}.rights", f"lacks the role {_ROLES[role]}", _INIT)
        return
    wanted = granted_actions(_ROLES[role], load_collections())
    actual = _actions(status["authenticatedUserPrivileges"], client.database.name)
    missing = {name: sorted(actions - actual.get(name, set()) - actual.get("", set())) for name, actions in wanted.items()}
    lacking = [f"{' '.join(actions)} on {name or 'the database'}" for name, actions in missing.items() if actions]
    if lacking:
        yield fail(f"mongodb.{role}.rights", f"may not {'; '.join(lacking[:5])}", _INIT)
    elif role == READ_WRITE and (loose := _loose(actual)):
        yield fail(f"mongodb.{role}.rights", f"may change what is append-only: {', '.join(loose)}", _INIT)
    elif not above:
        yield ok(f"mongodb.{role}.rights", f"as {_ROLES[role]} has them")


def _actions(privileges: list[dict[str, Any]], database: str) -> dict[str, set[str]]:
    """What may be done, by collection; an empty name stands for all of them."""
    found: dict[str, set[str]] = {}
    for each in privileges:
        resource = each["resource"]
        if resource.get("db") == database:
            found.setdefault(resource["collection"], set()).update(each["actions"])
    return found


def _loose(actual: Mapping[str, set[str]]) -> list[str]:
    changes = {"update", "remove"}
    listed = load_collections()["collections"]
    everywhere = actual.get("", set())
    return [name for name, options in listed.items() if options.get("append_only") and changes & (actual.get(name, set()) | everywhere)]


def _schema(client: RoleClient) -> Iterator[Finding]:
    """Collections, views and indexes, against the list."""
    listed = load_collections()
    there = set(client.database.list_collection_names())
    missing = [name for name in (*listed["collections"], *listed["views"]) if name not in there]
    if missing:
        yield fail("mongodb.collections", f"missing: {', '.join(missing)}", "Start the application, which makes them; or mongodb-init.js.")
    else:
        yield ok("mongodb.collections", f"{len(listed['collections'])} collections and {len(listed['views'])} views")
    wrong = []
    for name, options in listed["collections"].items():
        if name in there:
            actual = {index["name"]: dict(index["key"]) for index in client.database[name].list_indexes()}
            wrong += [f"{name}.{index['name']}" for index in options["indexes"] if actual.get(index["name"]) != index["key"]]
    if wrong:
        yield fail("mongodb.indexes", f"missing, or other ones: {', '.join(wrong)}", "Start the application, which makes them.")
    else:
        yield ok("mongodb.indexes", "as listed in init-scripts/collections.json")
