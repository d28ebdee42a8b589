"""DatabaseManager: MongoDB through one pool a role, with field encryption, audit entries and transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import pymongo
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.results import DeleteResult, UpdateResult
from pymongo.write_concern import WriteConcern

from core.audit import audit_entry
from core.contracts import FieldRules
from core.managers.base import BootError, Manager
from tools.error_handling.errors import OutcomeUnknown, Unavailable
from tools.logger.custom_logger import custom_log, log_function
from utils import deadline
from utils.collections import apply_collections

READ_WRITE, READ_ONLY, ADMIN = "read_write", "read_only", "admin"
_CREDENTIALS = {
    READ_WRITE: ("MONGODB_USER", "MONGODB_PASSWORD"),
    READ_ONLY: ("MONGODB_ANALYTICS_USER", "MONGODB_ANALYTICS_PASSWORD"),
    ADMIN: ("MONGODB_ADMIN_USER", "MONGODB_ADMIN_PASSWORD"),
}
_SMALL_POOL = 4
# A server that answered "shutting down" once counts as unknown until the next heartbeat: five times as often as by default.
_HEARTBEAT_MS = 2000
_PREPARE_SECONDS = 3600.0
_AUTHENTICATION_FAILED, _DUPLICATE_KEY = 18, 11000
_AWAY = (ConnectionFailure, ExecutionTimeout, NetworkTimeout, WTimeoutError)
_CACHE_SECONDS = 300

Document = dict[str, Any]
T = TypeVar("T")


class DatabaseManager(Manager):
    """The only door to MongoDB. Driver errors leave it as Unavailable or OutcomeUnknown, never with the driver's text."""

    name = "database"

    def initialize(self) -> bool:
        self._rules: dict[str, FieldRules] = {}
        self._clients: dict[str, MongoClient[Document]] = {}
        self._collections: dict[tuple[str, str], Collection[Document]] = {}
        for role in _CREDENTIALS:
            self._clients[role] = self._connect(role)
        for role in (READ_WRITE, ADMIN, READ_ONLY):
            self._refuse_unusable(role)
        self.initialized = True
        return True

    @log_function
    def prepare(self) -> None:
        """Make the collections and indexes that the product declares; done once a start, not in every worker."""
        # An index of a grown collection takes as long as it takes.
        with self._errors(_PREPARE_SECONDS):
            apply_collections(self._database(ADMIN))

    # Declarations

    def declare_fields(self, collection: str, rules: FieldRules) -> None:
        """Say once how `collection`'s fields are encrypted; the operations below then do it."""
        self._rules[collection] = rules

    @property
    def field_rules(self) -> Mapping[str, FieldRules]:
        """What was declared, by collection."""
        return self._rules

    # Operations

    def insert_one(self, collection: str, document: Document, session: ClientSession | None = None) -> str:
        """Insert `document` (which carries its `_id`) with an audit entry; returns the `_id`."""
        return self.insert_many(collection, [document], session)[0]

    def insert_many(self, collection: str, documents: Sequence[Document], session: ClientSession | None = None) -> list[str]:
        """Insert `documents`, all or none, with an audit entry each; returns their `_id`s."""
        stored = [self._encrypt(collection, document) for document in documents]

        def work(active: ClientSession) -> None:
            self.insert_rows(collection, stored, active)
            self._audit("insert", collection, [document["_id"] for document in stored], active)

        self._in_transaction(work, session)
        return [document["_id"] for document in stored]

    def find_one(
        self,
        collection: str,
        query: Mapping[str, Any],
        *,
        role: str = READ_WRITE,
        projection: Sequence[str] | None = None,
        session: ClientSession | None = None,
    ) -> Document | None:
        """The document that `query` names, decrypted, or None. Look-up fields in `query` are given in plain."""
        # Inside a transaction the driver has to see its own errors: it runs the transaction again after some of them.
        with self._errors() if session is None else nullcontext():
            found = self.collection(collection, role).find_one(self._encrypt_query(collection, query), projection, session=session)
        return None if found is None else self._decrypt(collection, found)

    def find_many(
        self,
        collection: str,
        query: Mapping[str, Any],
        *,
        limit: int,
        sort: Sequence[tuple[str, int]] = (("_id", 1),),
        role: str = READ_WRITE,
        projection: Sequence[str] | None = None,
    ) -> list[Document]:
        """Up to `limit` documents, sorted and decrypted."""
        with self._errors():
            cursor = self.collection(collection, role).find(self._encrypt_query(collection, query), projection)
            found = list(cursor.sort(list(sort)).limit(limit))
        return [self._decrypt(collection, document) for document in found]

    def update_one(
        self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any], session: ClientSession | None = None
    ) -> UpdateResult:
        """Update one document and write its audit entry, both or neither. `$set` names fields in plain, as `insert_one` does."""
        return self._update("update_one", collection, query, update, session)

    def update_many(
        self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any], session: ClientSession | None = None
    ) -> UpdateResult:
        """Update all documents that `query` names, with one audit entry."""
        return self._update("update_many", collection, query, update, session)

    def delete_one(self, collection: str, query: Mapping[str, Any]) -> DeleteResult:
        """Delete one document, as the admin role, with its audit entry."""
        return self._delete("delete_one", collection, query)

    def delete_many(self, collection: str, query: Mapping[str, Any]) -> DeleteResult:
        """Delete all documents that `query` names, as the admin role, with one audit entry."""
        return self._delete("delete_many", collection, query)

    def get_cached_query(self, query_key: str, query_func: Callable[[], Any], ttl: int = _CACHE_SECONDS) -> Any:
        """The result of `query_func` (JSON-able), kept in Redis under `query_key` for `ttl` seconds; asked anew while Redis is away."""
        redis = self.app_manager.redis_manager
        cached = None
        with suppress(Unavailable):
            cached = redis.get(query_key)
        if cached is None:
            cached = query_func()
            with suppress(Unavailable):
                redis.set(query_key, cached, ttl=ttl)
        return cached

    # Below the operations

    def collection(self, name: str, role: str = READ_WRITE) -> Collection[Document]:
        """The driver's collection, for repositories that write in bulk; use it inside `transaction`."""
        found = self._collections.get((role, name))
        if found is None:
            found = self._collections[role, name] = self._database(role)[name]
        return found

    def on_collection(self, name: str, work: Callable[[Collection[Document]], T]) -> T:
        """What `work` does with the driver's collection, on documents as they are stored; errors as in the operations above."""
        with self._errors():
            return work(self.collection(name))

    def insert_rows(self, collection: str, rows: Sequence[Document], session: ClientSession) -> None:
        """Insert `rows` as they are, in one command of a transaction; DuplicateKeyError as usual.

        For the bulk of a commit: the driver's `insert_many` and `bulk_write` cost an object and a check for each row.
        """
        command = {"insert": collection, "documents": rows, "ordered": False}
        _raise_write_errors(self._database(READ_WRITE).command(command, session=session))

    def update_rows(self, collection: str, updates: Sequence[tuple[Document, Document]], session: ClientSession) -> int:
        """Carry out `(query, update)` pairs, each for one document, in one command of a transaction; how many matched."""
        operations = [{"q": query, "u": update} for query, update in updates]
        reply = self._database(READ_WRITE).command({"update": collection, "updates": operations, "ordered": False}, session=session)
        _raise_write_errors(reply)
        matched: int = reply["n"]
        return matched

    def transaction(self, work: Callable[[ClientSession], T], role: str = READ_WRITE) -> T:
        """Run `work` in a transaction (snapshot, majority, journaled); it may run several times, so it only touches data.

        Raises Unavailable when nothing was changed, OutcomeUnknown when the commit's answer was lost.
        """
        with self._errors(), self._clients[role].start_session() as session:
            return session.with_transaction(work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority", j=True))

    def check(self) -> tuple[str, dict[str, Any]]:
        started = time.perf_counter()
        try:
            with pymongo.timeout(deadline.remaining(1.0)):
                self._clients[READ_WRITE].admin.command("ping")
                hello = self._clients[READ_WRITE].admin.command("hello")
        except PyMongoError:
            return "unhealthy", {"connection": "failed"}
        latency = round((time.perf_counter() - started) * 1000, 2)
        writable = bool(hello.get("isWritablePrimary"))
        return ("healthy" if writable else "unhealthy"), {"connection": "ok", "latency_ms": latency, "writable": writable}

    def dispose(self) -> None:
        for client in getattr(self, "_clients", {}).values():
            client.close()
        self._clients = {}
        self.initialized = False

    def _database(self, role: str) -> Database[Document]:
        return self._clients[role][self.app_manager.config["MONGODB_DATABASE"]]

    def _connect(self, role: str) -> MongoClient[Document]:
        config = self.app_manager.config
        user, password = _CREDENTIALS[role]
        timeout_ms = int(config["MONGODB_TIMEOUT"] * 1000)
        try:
            return MongoClient(
                config["MONGODB_URI"],
                username=config[user],
                password=config[password],
                appname=f"credit-system-{role}",
                tz_aware=True,
                w="majority",
                journal=True,
                readConcernLevel="majority",
                serverSelectionTimeoutMS=timeout_ms,
                connectTimeoutMS=timeout_ms,
                heartbeatFrequencyMS=_HEARTBEAT_MS,
                timeoutMS=int(config["REQUEST_TIMEOUT"] * 1000),
                maxPoolSize=config["MONGODB_POOL_SIZE"] if role == READ_WRITE else _SMALL_POOL,
            )
        except (ConfigurationError, InvalidURI, ValueError) as error:
            raise BootError("MONGODB_URI cannot be used: it must be a mongodb:// address without credentials") from error

    def _refuse_unusable(self, role: str) -> None:
        """Boot only on a replica set without arbiters that knows our three users."""
        client = self._clients[role]
        place = self.app_manager.config["MONGODB_URI"].split("//")[-1].split("/")[0].rsplit("@", 1)[-1]
        try:
            with pymongo.timeout(self.app_manager.config["MONGODB_TIMEOUT"] + 1):
                hello = client.admin.command("hello")
                client[self.app_manager.config["MONGODB_DATABASE"]].command("ping")
        except OperationFailure as error:
            if error.code == _AUTHENTICATION_FAILED:
                raise BootError(f"mongodb at {place}: log-in refused ({_CREDENTIALS[role][0].lower()} and its password)") from error
            raise BootError(f"mongodb at {place}: {type(error).__name__}") from error
        except PyMongoError as error:
            # The driver drops servers that are no members of the set that the address names.
            why = "not reachable" if client.topology_description.server_descriptions() else "no member of the replica set answers there"
            raise BootError(f"mongodb at {place}: {why}") from error
        if "setName" not in hello:
            raise BootError(f"mongodb at {place}: not a replica set, so it has no transactions")
        if hello.get("arbiters"):
            raise BootError(f"mongodb at {place}: has an arbiter, with which acknowledged writes can be lost")

    @contextmanager
    def _errors(self, seconds: float | None = None) -> Iterator[None]:
        """One seam: the time that the request has left, and typed errors instead of the driver's."""
        try:
            with pymongo.timeout(seconds or deadline.remaining(self.app_manager.config["REQUEST_TIMEOUT"])):
                yield
        except PyMongoError as error:
            translated = translate(error)
            if translated is None:
                raise
            custom_log("mongodb call failed", level="WARNING", error=type(error).__name__, code=translated.code)
            raise translated from error

    def _in_transaction(self, work: Callable[[ClientSession], Any], session: ClientSession | None, role: str = READ_WRITE) -> Any:
        """`work` in the caller's transaction when there is one, else in one of its own."""
        return work(session) if session is not None else self.transaction(work, role)

    def _update(
        self, method: str, collection: str, query: Mapping[str, Any], update: Mapping[str, Any], session: ClientSession | None
    ) -> UpdateResult:
        stored_query = self._encrypt_query(collection, query)
        stored_update = self._encrypt_update(collection, query, update)

        def work(active: ClientSession) -> UpdateResult:
            result: UpdateResult = getattr(self.collection(collection), method)(stored_query, stored_update, session=active)
            if result.matched_count:
                self._audit("update", collection, _targets(query), active)
            return result

        result: UpdateResult = self._in_transaction(work, session)
        return result

    def _delete(self, method: str, collection: str, query: Mapping[str, Any]) -> DeleteResult:
        stored_query = self._encrypt_query(collection, query)

        def work(session: ClientSession) -> DeleteResult:
            result: DeleteResult = getattr(self.collection(collection, ADMIN), method)(stored_query, session=session)
            if result.deleted_count:
                self._audit("delete", collection, [query.get("_id")], session, ADMIN)
            return result

        return self.transaction(work, ADMIN)

    def _audit(self, action: str, collection: str, targets: Sequence[Any], session: ClientSession, role: str = READ_WRITE) -> None:
        rows = [audit_entry(f"{collection}.{action}", target if isinstance(target, str) else None) for target in targets]
        self.collection("audit_logs", role).insert_many(rows, session=session)

    def _encrypt(self, collection: str, document: Document) -> Document:
        rules = self._rules.get(collection)
        if rules is None:
            return document
        encryption = self.app_manager.encryption_manager
        sealed = encryption.encrypt_fields(document, rules.sealed, f"{collection}/{document['_id']}")
        lookups = {f: encryption.encrypt_lookup(document[f], f"{collection}.{f}") for f in rules.lookup if document.get(f) is not None}
        return {**sealed, **lookups}

    def _encrypt_update(self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError for an encrypted field of a document that is not named by its id, to which a sealed value is bound."""
        rules = self._rules.get(collection)
        fields = update.get("$set", {})
        if rules is None or not {*rules.lookup, *rules.sealed}.intersection(fields):
            return dict(update)
        if not isinstance(query.get("_id"), str):
            raise ValueError("an update of encrypted fields has to name its document by _id")
        stored = self._encrypt(collection, {**fields, "_id": query["_id"]})
        return {**update, "$set": {name: stored[name] for name in fields}}

    def _encrypt_query(self, collection: str, query: Mapping[str, Any]) -> dict[str, Any]:
        rules = self._rules.get(collection)
        if rules is None:
            return dict(query)
        encryption = self.app_manager.encryption_manager
        candidates = {f: {"$in": encryption.lookup_candidates(query[f], f"{collection}.{f}")} for f in rules.lookup if f in query}
        return {**query, **candidates}

    def _decrypt(self, collection: str, document: Document) -> Document:
        rules = self._rules.get(collection)
        if rules is None:
            return document
        encryption = self.app_manager.encryption_manager
        opened = encryption.decrypt_fields(document, rules.sealed, f"{collection}/{document['_id']}")
        lookups = {f: encryption.decrypt_lookup(document[f], f"{collection}.{f}") for f in rules.lookup if document.get(f) is not None}
        return {**opened, **lookups}


def _raise_write_errors(reply: Mapping[str, Any]) -> None:
    """What a write command reports for single rows does not make it fail."""
    errors = reply.get("writeErrors")
    if errors:
        kind = DuplicateKeyError if errors[0]["code"] == _DUPLICATE_KEY else OperationFailure
        raise kind(errors[0].get("errmsg", ""), errors[0]["code"], errors[0])


def _targets(query: Mapping[str, Any]) -> list[Any]:
    """The ids that `query` names, for the audit log; [None] when it names none."""
    named = query.get("_id")
    return list(named["$in"]) if isinstance(named, Mapping) and "$in" in named else [named]


def translate(error: PyMongoError) -> Unavailable | None:
    """What a client is told about the driver's `error`; None when it is a fault of ours."""
    if error.has_error_label("UnknownTransactionCommitResult"):
        return OutcomeUnknown("It is not known whether this took effect; where you sent an Idempotency-Key, a retry with it tells.")
    if isinstance(error, _AWAY) or error.timeout or error.has_error_label("TransientTransactionError"):
        return Unavailable("The database does not answer.", retry_after=1)
    return None
