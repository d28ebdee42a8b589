"""DatabaseManager: MongoDB through one pool a role, with field encryption, audit entries and transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pymongo
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.results import DeleteResult, UpdateResult
from pymongo.write_concern import WriteConcern

from core.audit import AUDIT, audit_entry
from core.chain import Report
from core.chain_sealer import ChainSealer
from core.contracts import ADMIN, READ_ONLY, READ_WRITE, FieldRules
from core.lease import LeaseLost
from core.managers.base import BootError, Manager
from core.managers.database_clients import RoleClient
from core.managers.database_errors import raise_write_errors, translate
from core.managers.database_fields import FieldCodec
from core.managers.database_guard import check_bounds, check_document, check_query, check_update
from core.migrations import runner
from core.restore_marker import refuse_half_restored
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log, log_exception, log_function
from utils import deadline
from utils.background import Ticker
from utils.collections import apply_collections, create_collections

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_PREPARE_SECONDS = 3600.0
_UNAUTHORIZED = 13
_CACHE_SECONDS = 300
_LIMIT = 100

Document = dict[str, Any]
T = TypeVar("T")


class DatabaseManager(Manager):
    """The only door to MongoDB. Driver errors leave it as Unavailable or OutcomeUnknown, never with the driver's text."""

    name = "database"

    def __init__(self, app_manager: AppManager) -> None:
        super().__init__(app_manager)
        self._roles: dict[str, RoleClient] = {}
        self._ticker: Ticker | None = None

    def initialize(self) -> bool:
        config = self.app_manager.config
        self._fields = FieldCodec(self.app_manager)
        self._collections: dict[tuple[str, str], Collection[Document]] = {}
        self._of_plugins: dict[str, Mapping[str, Any]] = {}
        self._cached: frozenset[str] = frozenset()
        self._changed: dict[int, set[str]] = {}
        for role in (READ_WRITE, ADMIN, READ_ONLY):
            self._roles[role] = RoleClient(config, role)
        # The first one waits for all of them.
        for role, seconds in ((READ_WRITE, config["MONGODB_CONNECT_SECONDS"]), (ADMIN, 0.0), (READ_ONLY, 0.0)):
            self._roles[role].wait_until_usable(seconds)
        with self.errors():
            refuse_half_restored(self._roles[READ_WRITE].database)
        self._sealer = ChainSealer(self, AUDIT, delay=config["AUDIT_SEAL_DELAY"])
        self._ticker = Ticker("database", config["AUDIT_SEAL_SECONDS"], self._tick, self._tick_failed)
        self._ticker.start()
        self.initialized = True
        return True

    @log_function
    def prepare(self) -> None:
        """Make the collections and indexes that the product declares; done once a start, not in every worker."""
        # An index of a grown collection takes as long as it takes.
        with self.errors(_PREPARE_SECONDS):
            apply_collections(self._roles[ADMIN].database)
        runner.settle(self)

    # Declarations

    def declare_fields(self, collection: str, rules: FieldRules) -> None:
        """Say once how `collection`'s fields are encrypted, and which are private; the operations below then do it."""
        self._fields.declare(collection, rules)

    def declare_cached(self, *collections: str) -> None:
        """Say, in every worker, that queries of `collections` are cached: a write then has them forgotten, after its commit."""
        self._cached = self._cached.union(collections)

    def declare_plugin_collections(self, collections: Mapping[str, Mapping[str, Any]]) -> None:
        """Make `collections` (by name: `{indexes: [...], append_only}`) known; they live in the database of the plugins."""
        self._of_plugins.update(collections)

    def forget_plugin_collections(self, names: Iterable[str]) -> None:
        """Take back a declaration; what is stored stays."""
        for name in names:
            self._of_plugins.pop(name, None)

    @log_function
    def prepare_plugin_collections(self, collections: Mapping[str, Mapping[str, Any]]) -> None:
        """Make what is missing of a plugin's `collections` and of their indexes; raises BootError where they contradict each other."""
        try:
            with self.errors(_PREPARE_SECONDS):
                create_collections(self._roles[ADMIN].plugin_database, collections)
        except OperationFailure as error:
            why = (
                "init-scripts/mongodb-init.js has to run once more"
                if error.code == _UNAUTHORIZED
                else f"MongoDB refuses them ({error.code})"
            )
            raise BootError(f"collections {', '.join(collections)}: {why}") from error

    @property
    def field_rules(self) -> Mapping[str, FieldRules]:
        """What was declared, by collection."""
        return self._fields.declared

    # Operations

    def insert_one(self, collection: str, document: Document, session: ClientSession | None = None) -> str:
        """Insert `document` (which carries its `_id`) with an audit entry; returns the `_id`."""
        return self.insert_many(collection, [document], session)[0]

    def insert_many(self, collection: str, documents: Sequence[Document], session: ClientSession | None = None) -> list[str]:
        """Insert `documents`, all or none, with an audit entry each; returns their `_id`s."""
        for document in documents:
            check_document(document)
        stored = [self._fields.encrypt(collection, document) for document in documents]

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
        reveal: Sequence[str] = (),
        session: ClientSession | None = None,
    ) -> Document | None:
        """The document that `query` names, decrypted, or None. Look-up fields in `query` are given in plain.

        `projection`: the fields to return, all by default but for private ones; `reveal`: the private ones to add.
        Raises UnsafeValue for a value in `query` that is not plain.
        """
        stored, shown = self._read_arguments(collection, query, projection, reveal)

        def read() -> Document | None:
            return self.collection(collection, role).find_one(stored, shown, session=session)

        # Inside a transaction the driver has to see its own errors: it runs the transaction again after some of them.
        found = self._read(read) if session is None else read()
        return None if found is None else self._fields.decrypt(collection, found)

    def find_many(
        self,
        collection: str,
        query: Mapping[str, Any],
        *,
        limit: int = _LIMIT,
        sort: Sequence[tuple[str, int]] = (("_id", 1),),
        role: str = READ_WRITE,
        projection: Sequence[str] | None = None,
        reveal: Sequence[str] = (),
    ) -> list[Document]:
        """Up to `limit` documents (10,000 at the most), sorted and decrypted; else as `find_one`."""
        check_bounds(limit, sort)
        stored, shown = self._read_arguments(collection, query, projection, reveal)
        # For the server, 0 is no limit at all.
        if limit == 0:
            return []
        found = self._read(lambda: list(self.collection(collection, role).find(stored, shown).sort(list(sort)).limit(limit)))
        return [self._fields.decrypt(collection, document) for document in found]

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

    def get_cached_query(self, query_key: str, query_func: Callable[[], Any], ttl: int = _CACHE_SECONDS, tags: Sequence[str] = ()) -> Any:
        """The result of `query_func` (JSON-able), kept in Redis under `query_key` for `ttl` seconds; asked anew while Redis is away.

        `tags`: what ends its time earlier; a collection that was declared as cached does so with each of its writes.
        """
        named = [_tag(tag) if tag in self._cached else tag for tag in tags]
        return self.app_manager.redis_manager.cached(query_key, query_func, ttl, named)

    # The audit log

    def verify_audit(self, progress: Callable[[int, int], None] | None = None, anchor: str = "") -> Report:
        """Compare the audit log with its seals: names rows that were changed, deleted or inserted since. See Chain.verify."""
        return self._sealer.chain.verify(progress, anchor)

    # Below the operations

    def collection(self, name: str, role: str = READ_WRITE) -> Collection[Document]:
        """The driver's collection, for repositories that write in bulk; use it inside `transaction`."""
        found = self._collections.get((role, name))
        if found is None:
            found = self._collections[role, name] = self._database_of(name, role)[name]
        return found

    def on_collection(self, name: str, work: Callable[[Collection[Document]], T]) -> T:
        """What `work` does with the driver's collection, on documents as they are stored; errors as in the operations above."""
        with self.errors():
            return work(self.collection(name))

    def insert_rows(self, collection: str, rows: Sequence[Document], session: ClientSession) -> None:
        """Insert `rows` as they are, in one command of a transaction; DuplicateKeyError as usual.

        For the bulk of a commit: the driver's `insert_many` and `bulk_write` cost an object and a check for each row.
        """
        command = {"insert": collection, "documents": rows, "ordered": False}
        raise_write_errors(self._database_of(collection).command(command, session=session))
        self._note_change(collection, session)

    def update_rows(self, collection: str, updates: Sequence[tuple[Document, Document]], session: ClientSession) -> int:
        """Carry out `(query, update)` pairs, each for one document, in one command of a transaction; how many matched."""
        operations = [{"q": query, "u": update} for query, update in updates]
        command = {"update": collection, "updates": operations, "ordered": False}
        reply = self._database_of(collection).command(command, session=session)
        raise_write_errors(reply)
        self._note_change(collection, session)
        matched: int = reply["n"]
        return matched

    def transaction(self, work: Callable[[ClientSession], T], role: str = READ_WRITE) -> T:
        """Run `work` in a transaction (snapshot, majority, journaled); it may run several times, so it only touches data.

        Raises Unavailable when nothing was changed, OutcomeUnknown when the commit's answer was lost.
        """
        client = self._roles[role]
        with client.client.start_session() as session:
            try:
                with self.errors():
                    return session.with_transaction(
                        work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority", j=True)
                    )
            except Unavailable:
                client.free(session)
                raise
            finally:
                # Also after a failure: a commit whose answer was lost may have happened.
                changed = self._changed.pop(id(session), None)
                if changed:
                    self._forget_cached(changed)

    @contextmanager
    def snapshot(self, role: str = READ_ONLY) -> Iterator[ClientSession]:
        """A session whose reads all see one moment, which the server remembers for some minutes."""
        with self._roles[role].client.start_session(snapshot=True) as session:
            yield session

    def _database_of(self, collection: str, role: str = READ_WRITE) -> Database[Document]:
        client = self._roles[role]
        return client.plugin_database if collection in self._of_plugins else client.database

    @contextmanager
    def errors(self, seconds: float | None = None) -> Iterator[None]:
        """One seam: the time that the request has left (or `seconds`), and typed errors instead of the driver's."""
        try:
            with pymongo.timeout(seconds or deadline.remaining(self.app_manager.config["REQUEST_TIMEOUT"])):
                yield
        except PyMongoError as error:
            translated = translate(error)
            if translated is None:
                raise
            custom_log("mongodb call failed", level="WARNING", error=type(error).__name__, code=translated.code)
            raise translated from error

    # Life

    def check(self) -> tuple[str, dict[str, Any]]:
        started = time.perf_counter()
        client = self._roles[READ_WRITE].client
        try:
            with pymongo.timeout(deadline.remaining(1.0)):
                client.admin.command("ping")
                latency = round((time.perf_counter() - started) * 1000, 2)
                writable = bool(client.admin.command("hello").get("isWritablePrimary"))
        except PyMongoError:
            return "unhealthy", {"connection": "failed", **self._figures()}
        details = {"connection": "ok", "latency_ms": latency, "writable": writable, **self._figures()}
        return ("healthy" if writable else "unhealthy"), details

    def file_system(self) -> dict[str, int]:
        """`{size, available}` in bytes where the primary keeps its data; empty where it does not tell (a mongos)."""
        with self.errors():
            stats = self._roles[READ_WRITE].database.command("dbStats")
        if "fsTotalSize" not in stats:
            return {}
        return {"size": int(stats["fsTotalSize"]), "available": int(stats["fsTotalSize"] - stats["fsUsedSize"])}

    def dispose(self) -> None:
        self.initialized = False
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
            with suppress(Unavailable):
                self._sealer.stop()
        for each in self._roles.values():
            each.close()
        self._roles = {}

    def _figures(self) -> dict[str, Any]:
        pools = {role: each.pool.figures() for role, each in self._roles.items()}
        return {"pools": pools, "members": self._roles[READ_WRITE].members()}

    def _tick(self) -> None:
        for each in self._roles.values():
            each.pool.publish()
        self._roles[READ_WRITE].publish_members()
        self._sealer.tick()

    @staticmethod
    def _tick_failed(error: Exception) -> None:
        if not isinstance(error, (Unavailable, LeaseLost)):
            log_exception("the audit log could not be sealed", error)

    # Reading

    def _read_arguments(
        self, collection: str, query: Mapping[str, Any], projection: Sequence[str] | None, reveal: Sequence[str]
    ) -> tuple[dict[str, Any], Any]:
        check_query(query, self._fields.rules(collection))
        return self._fields.encrypt_query(collection, query), self._fields.projection(collection, projection, reveal)

    def _read(self, read: Callable[[], T]) -> T:
        # The driver looks for a server, and repeats a read that failed on the way, until the deadline: an election goes unnoticed.
        with self.errors():
            return read()

    # Writing

    def _in_transaction(self, work: Callable[[ClientSession], Any], session: ClientSession | None, role: str = READ_WRITE) -> Any:
        """`work` in the caller's transaction when there is one, else in one of its own."""
        return work(session) if session is not None else self.transaction(work, role)

    def _update(
        self, method: str, collection: str, query: Mapping[str, Any], update: Mapping[str, Any], session: ClientSession | None
    ) -> UpdateResult:
        if self._of_plugins.get(collection, {}).get("append_only"):
            # Those of ours are guarded by MongoDB itself.
            raise ValueError(f"{collection} is append-only")
        check_query(query, self._fields.rules(collection))
        check_update(update)
        stored_query = self._fields.encrypt_query(collection, query)
        stored_update = self._fields.encrypt_update(collection, query, update)

        def work(active: ClientSession) -> UpdateResult:
            result: UpdateResult = getattr(self.collection(collection), method)(stored_query, stored_update, session=active)
            if result.matched_count:
                self._note_change(collection, active)
                self._audit("update", collection, _targets(query), active)
            return result

        result: UpdateResult = self._in_transaction(work, session)
        return result

    def _delete(self, method: str, collection: str, query: Mapping[str, Any]) -> DeleteResult:
        check_query(query, self._fields.rules(collection))
        stored_query = self._fields.encrypt_query(collection, query)

        def work(session: ClientSession) -> DeleteResult:
            result: DeleteResult = getattr(self.collection(collection, ADMIN), method)(stored_query, session=session)
            if result.deleted_count:
                self._note_change(collection, session)
                self._audit("delete", collection, [query.get("_id")], session, ADMIN)
            return result

        return self.transaction(work, ADMIN)

    def _note_change(self, collection: str, session: ClientSession) -> None:
        if collection in self._cached:
            self._changed.setdefault(id(session), set()).add(collection)

    def _forget_cached(self, collections: set[str]) -> None:
        self.app_manager.redis_manager.invalidate_tags(*(_tag(name) for name in sorted(collections)))

    def _audit(self, action: str, collection: str, targets: Sequence[Any], session: ClientSession, role: str = READ_WRITE) -> None:
        rows = [audit_entry(f"{collection}.{action}", target if isinstance(target, str) else None) for target in targets]
        self.collection("audit_logs", role).insert_many(rows, session=session)


def _targets(query: Mapping[str, Any]) -> list[Any]:
    """The ids that `query` names, for the audit log; [None] when it names none."""
    named = query.get("_id")
    return list(named["$in"]) if isinstance(named, Mapping) and "$in" in named else [named]


def _tag(collection: str) -> str:
    return f"collection:{collection}"
