"""Rotation: what MongoDB keeps under an old encryption key is found, counted, and written anew under the newest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from core.audit import audit_entry
from core.contracts import DecryptionError
from utils.fields import found_at

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

Document = dict[str, Any]
# By its place (`profile`, `addresses.0.street`), a value as it is stored and as it should be.
Changes = dict[str, tuple[Any, Any]]
# A value that changes while it is looked at is left alone, and looked at again in the next pass.
_PASSES = 10
_DUPLICATE_KEY = 11000


@dataclass
class Tally:
    """What was found in a collection: fields under old keys, how many of them were written anew, and what nobody can read."""

    documents: int = 0
    fields: int = 0
    old: int = 0
    rewritten: int = 0
    # `(id, place)` each.
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Fields that are still not under the newest key."""
        return self.old - self.rewritten + len(self.unreadable)


class Rotation:
    """Works through every collection with declared field rules, while requests go on, in batches of `batch_size` documents.

    Each value is replaced only where it is still the one that was read, so that no change of a request is lost. Nothing is
    kept of how far it came: what is under the newest key already is passed over, so a new start goes on where one ended.
    """

    def __init__(self, app_manager: AppManager, batch_size: int = 200) -> None:
        self._database = app_manager.database_manager
        self._encryption = app_manager.encryption_manager
        self._batch_size = batch_size

    def collections(self) -> list[str]:
        """The names of the collections that hold encrypted fields, as this boot declared them: without those of plugins that are off."""
        return sorted(self._database.field_rules)

    def size(self, collection: str) -> int:
        """About how many documents it has."""
        return self._database.on_collection(collection, lambda driver: driver.estimated_document_count())

    def count(self, collection: str, progress: Callable[[int], object]) -> Tally:
        """Look at every document and change nothing; `progress` hears how many were looked at."""
        tally = Tally()
        for batch in self._batches(collection):
            self._examine(collection, batch, tally)
            progress(len(batch))
        return tally

    def rotate(self, collection: str, progress: Callable[[int], object]) -> Tally:
        """Write anew what is under old keys, until a whole pass finds nothing more of it."""
        tally = Tally()
        for _ in range(_PASSES):
            rewritten = tally.rewritten
            tally = Tally()
            for batch in self._batches(collection):
                changes = self._examine(collection, batch, tally)
                if changes:
                    tally.rewritten += self._replace(collection, changes, tally)
                progress(len(batch))
            finished = not tally.old
            tally.old += rewritten
            tally.rewritten += rewritten
            if finished:
                break
        return tally

    def _batches(self, collection: str) -> Iterator[list[Document]]:
        """All documents by their ids, each with its encrypted fields alone, as they are stored."""
        rules = self._database.field_rules[collection]
        wanted = [*rules.lookup, *rules.sealed]
        query: Document = {}
        while batch := self._database.on_collection(collection, partial(self._read, query=query, wanted=wanted)):
            yield batch
            query = {"_id": {"$gt": batch[-1]["_id"]}}

    def _read(self, driver: Collection[Document], query: Document, wanted: list[str]) -> list[Document]:
        return list(driver.find(query, wanted).sort("_id", 1).limit(self._batch_size))

    def _examine(self, collection: str, batch: list[Document], tally: Tally) -> dict[Any, Changes]:
        """What to change in which document, by its id."""
        changes = {document["_id"]: self._examine_one(collection, document, tally) for document in batch}
        return {document_id: changed for document_id, changed in changes.items() if changed}

    def _examine_one(self, collection: str, document: Document, tally: Tally) -> Changes:
        changes: Changes = {}
        tally.documents += 1
        for place, stored, renew in self._values(collection, document):
            tally.fields += 1
            try:
                renewed = renew(stored)
            except DecryptionError:
                tally.unreadable.append((str(document["_id"]), place))
                continue
            if renewed is not None:
                tally.old += 1
                changes[place] = (stored, renewed)
        return changes

    def _values(self, collection: str, document: Document) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
        """Each encrypted value of `document`: its place, what is stored there, and what writes it under the newest key."""
        rules, encryption = self._database.field_rules[collection], self._encryption
        for name in rules.lookup:
            for place, stored in found_at(document, name):
                yield place, stored, partial(encryption.renewed_lookup, field=f"{collection}.{name}")
        for name in rules.sealed:
            owner = f"{collection}/{document['_id']}/{name}"
            for place, stored in found_at(document, name):
                yield place, stored, partial(encryption.renewed, owner=owner)

    def _replace(self, collection: str, changes: dict[Any, Changes], tally: Tally) -> int:
        """Write `changes` in one round trip; how many fields were written. The audit entry comes first, so none is missing."""
        ids = [str(document_id) for document_id in changes]
        entry = audit_entry("keys.rotate", collection, documents=len(ids), first=ids[0], last=ids[-1])
        self._database.on_collection("audit_logs", lambda driver: driver.insert_one(entry))
        operations, fields = [], []
        for document_id, changed in changes.items():
            for place, (stored, renewed) in changed.items():
                operations.append(UpdateOne({"_id": document_id, place: stored}, {"$set": {place: renewed}}))
                fields.append((str(document_id), place))
        try:
            result = self._database.on_collection(collection, lambda driver: driver.bulk_write(operations, ordered=False))
        except BulkWriteError as error:
            details: Any = error.details or {}
            refused = details.get("writeErrors", [])
            if any(each["code"] != _DUPLICATE_KEY for each in refused) or details.get("writeConcernErrors"):
                raise
            # Somebody else has this name under the newest key: two records claim it, and an operator has to decide.
            tally.unreadable.extend(fields[each["index"]] for each in refused)
            tally.old -= len(refused)
            return int(details["nModified"])
        return result.modified_count
