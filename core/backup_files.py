"""A backup as it lies in its folder: a file of BSON for each collection, and a manifest, which is written last.

The files are as mongodump's (`mongodump --gzip`): documents one after the other, in the bytes in which they lie in the
database, ordered by `_id`. What is encrypted there stays so here; the manifest names the keys by fingerprint.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

MANIFEST = "manifest.json"
_FORMAT = 1
_COMPRESSION = 4
_CHUNK = 1 << 20
_LENGTH_BYTES = 4
# Of a document: 16 MB, and what the server adds for itself.
_LONGEST = 17 << 20


class BadBackup(Exception):
    """The folder holds no whole backup; the message says what is wrong with it."""


@dataclass(frozen=True)
class Part:
    """One collection: `plugins` says in which of the two databases. `sha256` is that of the file, `content` that of the BSON in it."""

    collection: str
    plugins: bool
    file: str
    documents: int
    bytes: int
    sha256: str
    content: str
    indexes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """`until`: the cluster's time at the end, as (seconds, number): no stamp in it is later.

    `keys`: fingerprints by the name of the secret, newest first.
    """

    id: str
    created_at: str
    database: str
    server: str
    until: tuple[int, int]
    keys: dict[str, list[str]]
    heads: dict[str, str]
    migrations: list[str]
    parts: list[Part]

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    def write(self, folder: Path) -> None:
        """Make the backup a whole one."""
        for part in self.parts:
            _sync(folder / part.file)
        aside = folder / f"{MANIFEST}.part"
        with _new_file(aside) as file:
            file.write(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1).encode() + b"\n")
        _sync(aside)
        aside.rename(folder / MANIFEST)
        _sync(folder)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a whole backup; raises BadBackup."""
        try:
            document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if document.pop("format") != _FORMAT:
                raise BadBackup(f"{folder / MANIFEST}: of another release")
            parts = [Part(**part) for part in document.pop("parts")]
            manifest = cls(parts=parts, **{**document, "until": tuple(document["until"])})
        except FileNotFoundError as error:
            raise BadBackup(f"{folder}: no backup, or one that was broken off ({MANIFEST} is missing)") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadBackup(f"{folder / MANIFEST}: cannot be read ({type(error).__name__})") from error
        if any(part.file != file_of(part.collection, plugins=part.plugins) for part in parts):
            raise BadBackup(f"{folder / MANIFEST}: names files that are none of a backup")
        return manifest


def file_of(collection: str, *, plugins: bool) -> str:
    """The name of a collection's file."""
    return f"{'plugins' if plugins else 'main'}.{quote(collection, safe='')}.bson.gz"


class PartWriter:
    """`with PartWriter(path) as writer: writer.add(...)`; then `part` tells what was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = hashlib.sha256()
        self._documents = self._bytes = 0

    def __enter__(self) -> Self:
        self._file = _new_file(self._path)
        self._zipped = gzip.GzipFile("", "wb", _COMPRESSION, self._file, mtime=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zipped.close()
        self._file.close()

    def add(self, documents: bytes) -> int:
        """Write whole documents; how many they were."""
        self._zipped.write(documents)
        self._content.update(documents)
        count = count_documents(documents)
        self._documents += count
        self._bytes += len(documents)
        return count

    def part(self, collection: str, *, plugins: bool, indexes: list[dict[str, Any]]) -> Part:
        """What was written, after the block."""
        return Part(
            collection, plugins, self._path.name, self._documents, self._bytes, sha256_of(self._path), self._content.hexdigest(), indexes
        )


def count_documents(batch: bytes) -> int:
    """How many BSON documents lie in `batch`, one after the other."""
    count = at = 0
    while at < len(batch):
        at += int.from_bytes(batch[at : at + _LENGTH_BYTES], "little")
        count += 1
    return count


def documents_of(folder: Path, part: Part) -> Iterator[bytes]:
    """The documents of a part, each in its bytes; raises BadBackup for a file that holds something else."""
    try:
        with gzip.open(folder / part.file) as file:
            while head := file.read(_LENGTH_BYTES):
                length = int.from_bytes(head, "little")
                body = file.read(length - _LENGTH_BYTES) if _LENGTH_BYTES < length <= _LONGEST else b""
                if len(body) != length - _LENGTH_BYTES:
                    raise BadBackup(f"{folder / part.file}: is cut off")
                yield head + body
    except (OSError, EOFError, zlib.error) as error:
        raise BadBackup(f"{folder / part.file}: cannot be read ({type(error).__name__})") from error


def check_file(folder: Path, part: Part) -> None:
    """Raises BadBackup when the file is not the one that was written."""
    try:
        found = sha256_of(folder / part.file)
    except OSError as error:
        raise BadBackup(f"{folder / part.file}: cannot be read ({type(error).__name__})") from error
    if found != part.sha256:
        raise BadBackup(f"{folder / part.file}: is not what was written (its SHA-256 is another one)")


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new_file(path: Path) -> BinaryIO:
    """One that nobody else may read."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
