"""Words that must not come out anywhere: in which forms they could, and where to look for them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import OperationFailure

_READERS = {b"string": "get", b"hash": "hgetall", b"set": "smembers", b"list": "lrange", b"zset": "zrange", b"stream": "xrange"}


def forms(word: str) -> set[bytes]:
    """`word` as it is, in hex, URL-encoded, in base64 wherever it begins, and hashed without a key; plain ones in lower case."""
    raw = word.encode()
    found = {raw.lower(), raw.hex().encode(), quote(word, safe="").lower().encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first and last characters hold bits of the neighbours too.
            found.add(encode(b"\0" * shift + raw).rstrip(b"=")[4 if shift else 0 : -1])
    for variant in {raw, raw.lower()}:
        for digest in (hashlib.sha256(variant), hashlib.sha1(variant), hashlib.md5(variant)):
            found |= {digest.digest(), digest.hexdigest().encode(), base64.b64encode(digest.digest())}
    return found


def leaks(words: Iterable[str], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """Where which word is to be seen; empty when all is well."""
    wanted = {word: forms(word) for word in words}
    return [
        f"{word!r} in {name}"
        for name, content in places
        for lowered in (content.lower(),)
        for word, shapes in wanted.items()
        if any(shape in content or shape in lowered for shape in shapes)
    ]


def in_files(*paths: Path) -> Iterator[tuple[str, bytes]]:
    """The files, and those in the folders, each with its content."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                yield str(file), file.read_bytes()


def in_redis(client: redis.Redis) -> Iterator[tuple[str, bytes]]:
    """Every key and its value."""
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        bounds = {b"list": (0, -1), b"zset": (0, -1)}.get(kind, ())
        if kind in _READERS:
            yield f"redis {key!r}", key + b" " + _flat(getattr(client, _READERS[kind])(key, *bounds))


def _flat(value: Any) -> bytes:
    if isinstance(value, dict):
        return b" ".join(_flat(key) + b" " + _flat(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return b" ".join(map(_flat, value))
    return value if isinstance(value, bytes) else str(value).encode()


def in_mongodb(client: MongoClient[Any]) -> Iterator[tuple[str, bytes]]:
    """Every collection as BSON, the oplog included: what was written and deleted again is there too."""
    for database in client.list_database_names():
        for collection in client[database].list_collection_names():
            documents = client[database].get_collection(collection, codec_options=_raw(client))
            try:
                yield f"mongodb {database}.{collection}", b" ".join(document.raw for document in documents.find())
            except OperationFailure:
                assert database in ("admin", "config", "local") or collection.startswith("system."), (
                    f"{database}.{collection} cannot be read"
                )


def _raw(client: MongoClient[Any]) -> Any:
    return client.codec_options.with_options(document_class=RawBSONDocument)
