"""A backup into an empty database: checked before anything is written, marked until it is whole, and compared afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pymongo
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database

from core.backup import fingerprints, own_collections, raw_batches
from core.backup_files import Manifest, Part, check_file, count_documents, documents_of
from core.managers.database_clients import RoleClient
from core.migrations.registry import MIGRATIONS
from core.restore_marker import COLLECTION as MARKER
from utils.clock import utc_now
from utils.collections import apply_collections

_SECONDS = 24 * 3600.0
_AT_ONCE, _BYTES_AT_ONCE = 1000, 8 << 20

Document = dict[str, Any]
Progress = Callable[[int, int], None]


class RestoreRefused(Exception):
    """Nothing was changed; the message says why."""


class RestoreFailed(Exception):
    """What lies in the database now is not what was backed up; it stays marked, so that nothing starts on it."""


def check(folder: Path, progress: Progress) -> Manifest:
    """The manifest of a backup all of whose files are as they were written; `progress` gets (files, files in all). Raises BadBackup."""
    manifest = Manifest.read(folder)
    for number, part in enumerate(manifest.parts, start=1):
        check_file(folder, part)
        progress(number, len(manifest.parts))
    return manifest


def refuse_unfit(client: RoleClient, config: Mapping[str, Any], manifest: Manifest, *, without_keys: bool) -> None:
    """Raises RestoreRefused where the backup cannot be used with this release, these keys, this server or this database."""
    unknown = sorted(set(manifest.migrations) - {migration.id for migration in MIGRATIONS})
    if unknown:
        raise RestoreRefused(f"It was made by a newer release: this one does not know {', '.join(unknown)}.")
    missing = {name: sorted(set(prints) - set(fingerprints(config)[name])) for name, prints in manifest.keys.items()}
    named = ", ".join(f"{name.lower()} {' '.join(prints)}" for name, prints in missing.items() if prints)
    if named and not without_keys:
        raise RestoreRefused(f"Keys are not here, without which nobody can use what it holds: {named}. (--without-keys: all the same.)")
    now: Timestamp = client.client.admin.command("hello")["operationTime"]
    if now < Timestamp(*manifest.until):
        # New rows of the logs would come before old ones.
        raise RestoreRefused(f"The clock of this MongoDB is {manifest.until[0] - now.time + 1} s behind the backup: set it right first.")
    with pymongo.timeout(_SECONDS):
        filled = [name for name in own_collections(client.database) if name != MARKER and client.database[name].find_one({}, ("_id",))]
        filled += [name for name in own_collections(client.plugin_database) if client.plugin_database[name].find_one({}, ("_id",))]
        if filled and not is_marked(client.database):
            raise RestoreRefused(f"{client.database.name} is not empty ({', '.join(filled[:5])}): a restore only fills an empty database.")


def is_marked(database: Database[Document]) -> bool:
    """Whether a restore was begun here and not ended; all that is there is then of that restore."""
    return database[MARKER].find_one({}) is not None


def restore(client: RoleClient, folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Fill the database, and read everything again; `progress` gets (documents, documents in all), each once for both.

    Whatever was begun before is begun anew. Raises RestoreFailed, BadBackup, PyMongoError; after each of them start it again.
    """
    done = 0

    def advance(documents: int) -> None:
        nonlocal done
        done += documents
        progress(done, 2 * manifest.documents)

    with pymongo.timeout(_SECONDS):
        client.database[MARKER].insert_one({"backup": manifest.id, "begun_at": utc_now()})
        # Without indexes, and above all without those that have the server remove what has expired.
        for database in (client.database, client.plugin_database):
            for name in own_collections(database):
                if name != MARKER:
                    database.drop_collection(name)
        for part in manifest.parts:
            _load(_collection(client, part), folder, part, advance)
        for part in manifest.parts:
            _compare(_collection(client, part), part, advance)
        apply_collections(client.database)
        for part in manifest.parts:
            if part.plugins and part.indexes:
                client.plugin_database.command("createIndexes", part.collection, indexes=part.indexes)
        client.database.drop_collection(MARKER)


def _collection(client: RoleClient, part: Part) -> Collection[Document]:
    return (client.plugin_database if part.plugins else client.database)[part.collection]


def _load(collection: Collection[Document], folder: Path, part: Part, advance: Callable[[int], None]) -> None:
    collection.database.create_collection(collection.name)
    # As they are: no bytes of a document are made anew, or the chains would not hold.
    raw = collection.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    for batch in _batches(documents_of(folder, part)):
        raw.insert_many([RawBSONDocument(document) for document in batch], ordered=False)
        advance(len(batch))


def _batches(documents: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == _AT_ONCE or size + len(document) > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch


def _compare(collection: Collection[Document], part: Part, advance: Callable[[int], None]) -> None:
    """Read what lies there now: the same documents, in the same bytes."""
    content, documents = hashlib.sha256(), 0
    for batch in raw_batches(collection):
        content.update(batch)
        count = count_documents(batch)
        documents += count
        advance(count)
    if (documents, content.hexdigest()) != (part.documents, part.content):
        raise RestoreFailed(f"{part.collection}: {documents} documents of {part.documents}, and not in the bytes that were backed up.")
