"""Turns a fresh `mongod` into a replica set with a root user, keeps it one when its port changed, and lets others join it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tools.local_stack.ports import LOOPBACK
from tools.local_stack.process import ServerFailed

REPLICA_SET = "rs0"
ROOT_USER = "root"
# A member whose old port now belongs to somebody else who does not answer looks for itself there for 30 s.
PATIENCE_SECONDS = 60

# Error codes of MongoDB.
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
ALREADY_INITIALIZED = 23
NOT_YET_INITIALIZED = 94
CONFIGURATION_NOT_COMMITTED = 308

# Of a set with several members: a lost primary is replaced in about a second and a half.
ELECTION_SETTINGS = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 300}

Document = dict[str, Any]
Client = MongoClient[Document]
T = TypeVar("T")


def ensure_replica_set(port: int, root_password: str) -> bool:
    """Bring the member on `port` to be primary, with the root user in place; safe to repeat, and after a half start.

    False where it is one of several, who settle among themselves which of them is the primary.
    """
    with _client(port, username=ROOT_USER, password=root_password) as root:
        if not _may_log_in(root):
            _bootstrap(port, root_password)
        _set_address(root, f"{LOOPBACK}:{port}")
        if len(_configuration(root)["members"]) > 1:
            return False
        _wait_for_primary(root)
    return True


def join(first_port: int, port: int, number: int, root_password: str) -> None:
    """Add the fresh member on `port` to the set of the one on `first_port`, which is the primary."""
    with _client(first_port, username=ROOT_USER, password=root_password) as root:
        config = _configuration(root)
        address = f"{LOOPBACK}:{port}"
        config["members"] = [member for member in config["members"] if member["_id"] != number] + [{"_id": number, "host": address}]
        config["settings"].update(ELECTION_SETTINGS)
        config["version"] += 1
        _patiently(lambda: _reconfigured(root, config), "take a member in")
        # It has no vote before it has all data.
        voters = len(config["members"])
        _patiently(lambda: root.admin.command("replSetGetStatus")["votingMembersCount"] == voters, "give a member its vote")


def wait_for_member(port: int) -> None:
    """Return when the member on `port` has all data of its set."""
    with _client(port) as anyone:

        def is_member() -> bool:
            hello = anyone.admin.command("hello")
            return bool(hello["isWritablePrimary"] or hello["secondary"])

        _patiently(is_member, "catch up with its set")


def _reconfigured(root: Client, config: Document) -> bool:
    try:
        root.admin.command("replSetReconfig", config, maxTimeMS=PATIENCE_SECONDS * 1000)
    except OperationFailure as error:
        # The member before this one has not taken the last configuration over yet.
        if error.code != CONFIGURATION_NOT_COMMITTED:
            raise
        return False
    return True


def _client(port: int, **credentials: Any) -> Client:
    return MongoClient(LOOPBACK, port, directConnection=True, serverSelectionTimeoutMS=10_000, **credentials)


def _may_log_in(root: Client) -> bool:
    try:
        root.admin.command("ping")
    except OperationFailure as error:
        if error.code != AUTHENTICATION_FAILED:
            raise
        return False
    return True


def _bootstrap(port: int, root_password: str) -> None:
    """Initiate the set and create the first user, which the server allows over loopback while it has no user."""
    with _client(port) as anyone:
        try:
            _initiate(anyone, f"{LOOPBACK}:{port}")
            _wait_for_primary(anyone)
            anyone.admin.command("createUser", ROOT_USER, pwd=root_password, roles=["root"])
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            raise ServerFailed(
                "mongodb refuses mongodb_root_password: the data was made with other secrets. "
                "Use the SECRETS_DIR of that time, or a new DATA_DIR"
            ) from error


def _initiate(anyone: Client, address: str) -> None:
    try:
        anyone.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": address}]})
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:
            raise


def _set_address(root: Client, address: str) -> None:
    """A member whose port changed finds itself in no set until its configuration names the new one."""
    config = _configuration(root)
    if config["members"][0]["host"] == address:
        return
    config["members"][0]["host"] = address
    config["version"] += 1
    root.admin.command("replSetReconfig", config, force=True)


def _configuration(root: Client) -> Document:
    """The set's configuration; where the root user exists there is one, though loading it may take the member a while."""

    def load() -> Document | None:
        try:
            config: Document = root.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code != NOT_YET_INITIALIZED:
                raise
            return None
        return config

    return _patiently(load, "load its configuration")


def _wait_for_primary(client: Client) -> None:
    _patiently(lambda: client.admin.command("hello")["isWritablePrimary"], "become primary")


def _patiently(attempt: Callable[[], T | None], goal: str) -> T:
    """The first result of `attempt` that is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := attempt()):
        if time.monotonic() > deadline:
            raise ServerFailed(f"mongodb did not {goal} within {PATIENCE_SECONDS} s")
        time.sleep(0.02)
    return result
