"""All that MongoDB keeps for us, as it was at one moment, into files; while the application runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from core.audit import AUDIT
from core.backup_files import Manifest, Part, PartWriter, file_of
from core.chain import head_of
from core.managers.database_clients import RoleClient
from core.modules.ledger_module.repository import LEDGER
from core.restore_marker import refuse_half_restored
from utils.clock import rfc3339, utc_now
from utils.ids import new_id
from utils.keys import ENCRYPTION_RING, JWT_RING, REDIS_RING, Stretcher, key_fingerprint

if TYPE_CHECKING:
    from bson import Timestamp

# By the secret that holds them, without which what lies in the database cannot be used.
_RINGS = {"ENCRYPTION_KEY": ENCRYPTION_RING, "REDIS_ENCRYPTION_KEY": REDIS_RING, "JWT_SECRET": JWT_RING}
# Who holds which lease is true of the running application alone.
_LEFT_OUT = ("leases",)
_SECONDS = 24 * 3600.0
_TOO_OLD, _UNAVAILABLE = 239, 246
# Of the time that a whole backup would have taken, as a moment that the server should keep.
_AMPLE = 1.5

Document = dict[str, Any]
Progress = Callable[[int, int], None]


class BackupFailed(Exception):
    """There is no backup; the message says why, and what helps."""


def back_up(client: RoleClient, config: Mapping[str, Any], folder: Path, progress: Progress) -> Manifest:
    """Write a backup into `folder`, which is there and empty; `progress` gets (documents written, documents in all).

    All reads are of one moment (read concern snapshot), so what is committed together is there together. The server keeps a
    moment for minSnapshotHistoryWindowInSeconds only: BackupFailed when that was too short. Raises PyMongoError.
    """
    began, done = time.monotonic(), 0

    def written(documents: int) -> None:
        nonlocal done
        done += documents
        progress(done, max(total, done))

    with pymongo.timeout(_SECONDS), client.client.start_session(snapshot=True) as session:
        refuse_half_restored(client.database)
        collections = list(_collections(client))
        total = sum(collection.estimated_document_count() for collection, _ in collections)
        try:
            parts = [_write(folder, collection, session, plugins=plugins, written=written) for collection, plugins in collections]
            heads = {"audit": _head(client.database, AUDIT.seals, session), "ledger": _head(client.database, LEDGER.seals, session)}
            migrations = [row["_id"] for row in client.database["migrations"].find({}, ("_id",), session=session).sort("_id", 1)]
        except OperationFailure as error:
            raise _translated(error, time.monotonic() - began, done / max(total, 1)) from error
        now: Timestamp = client.client.admin.command("hello")["operationTime"]
        manifest = Manifest(
            id=new_id("backup"),
            created_at=rfc3339(utc_now()),
            database=client.database.name,
            server=client.client.server_info()["version"],
            until=(now.time, now.inc),
            keys=fingerprints(config),
            heads=heads,
            migrations=migrations,
            parts=parts,
        )
    manifest.write(folder)
    return manifest


def fingerprints(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The keys that the settings hold, by secret, newest first; nothing leads back from these to a key."""
    return {key: [key_fingerprint(master) for master in Stretcher(ring).masters(config[key])] for key, ring in _RINGS.items()}


def own_collections(database: Database[Document]) -> list[str]:
    """The collections in a database: no views, and nothing of the server's own."""
    names = database.list_collection_names(filter={"type": "collection"})
    return sorted(name for name in names if not name.startswith("system."))


def raw_batches(collection: Collection[Document], session: ClientSession | None = None) -> Iterator[bytes]:
    """All documents by `_id`, in the bytes in which they lie there."""
    yield from collection.find_raw_batches({}, session=session, sort=[("_id", 1)], hint="_id_")


def _collections(client: RoleClient) -> Iterator[tuple[Collection[Document], bool]]:
    """What is backed up, and whether it is the plugins'."""
    for database, plugins in ((client.database, False), (client.plugin_database, True)):
        for name in own_collections(database):
            if plugins or name not in _LEFT_OUT:
                yield database[name], plugins


def _write(
    folder: Path, collection: Collection[Document], session: ClientSession, *, plugins: bool, written: Callable[[int], None]
) -> Part:
    with PartWriter(folder / file_of(collection.name, plugins=plugins)) as writer:
        for batch in raw_batches(collection, session):
            written(writer.add(batch))
    return writer.part(collection.name, plugins=plugins, indexes=list(_indexes(collection)))


def _indexes(collection: Collection[Document]) -> Iterator[Document]:
    """As `createIndexes` wants them; the one of `_id` is there by itself."""
    for index in collection.list_indexes():
        if index["name"] != "_id_":
            yield {name: dict(value) if name == "key" else value for name, value in index.items() if name not in ("v", "ns")}


def _head(database: Database[Document], seals: str, session: ClientSession) -> str:
    return head_of(database[seals].find_one({}, sort=[("_id", -1)], session=session))


def _translated(error: OperationFailure, seconds: float, share: float) -> Exception:
    if error.code == _UNAVAILABLE:
        return BackupFailed("Collections or indexes were made or dropped meanwhile; start the backup again.")
    if error.code != _TOO_OLD:
        return error
    needed = int(_AMPLE * seconds / max(share, 0.01)) + 60
    return BackupFailed(
        f"The server forgot the moment after {seconds:.0f} s, with {share:.0%} of the documents written. Let it keep one for longer, as an "
        f"admin of the cluster: db.adminCommand({{setParameter: 1, minSnapshotHistoryWindowInSeconds: {needed}}}), on every member."
    )
