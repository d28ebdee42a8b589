"""A log's chain: every row's hash covers the row and all rows before it, so that no row can be changed, taken or slipped in.

A row is hashed as the BSON bytes in which it lies in the database (a dump keeps them). Hashes lie beside the rows, since nobody
may update a row: one seal holds those of up to a thousand rows. Who can rewrite the whole database could rewrite the chain too:
its head is therefore written to the log at each seal, and `verify` can be given such an anchor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from core.contracts import READ_ONLY, READ_WRITE
from utils.clock import utc_now

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from core.managers.database_manager import DatabaseManager

SEAL_ROWS = 1000
# Before every row. Not (0, 0), in whose place the server would put its own time.
_BEGIN = Timestamp(0, 1)
_GENESIS = bytes(32)
_HASH_BYTES = 32
_PAGE = 10
_PAGE_SECONDS, _SCAN_SECONDS = 30.0, 3600.0
_PROBLEMS_SHOWN = 100
_UNSEALED_COUNTED = 10_000
_LONGEST_ID = 64

Raw = RawBSONDocument
Document = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """A collection of rows that nobody may change, each with the server's `stamp`; `id_type` is that of their ids.

    Its seals lie in a collection of their own. `gauges`: chain ok, rows without a seal, time of the last seal.
    """

    title: str
    rows: str
    seals: str
    id_type: type
    lease: str
    gauges: tuple[Gauge, Gauge, Gauge]

    def sealed_id(self, row: Raw) -> Any:
        """A row's id for its seal. One of another kind, or of any size, is none of ours: None."""
        row_id = row["_id"]
        own = isinstance(row_id, self.id_type) and not (isinstance(row_id, str) and len(row_id) > _LONGEST_ID)
        return row_id if own else None


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row: `changed`, `deleted`, `inserted`; or with a seal: `seal changed`, `seal deleted`.

    `seq` is the row's number in the chain (for an inserted row: of the one that should follow), `row` its id where it is known.
    """

    kind: str
    seq: int
    row: str | None = None


@dataclass
class Report:
    """What a verification found. `head` is the last row's number and hash, as `verify` takes it for an anchor."""

    rows: int = 0
    unsealed: int = 0
    head: str = ""
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


class Chain:
    """Seals what lies in a log, and verifies what was sealed."""

    def __init__(self, database: DatabaseManager, log: Log) -> None:
        self._database = database
        self.log = log

    # Sealing

    def seal(self, horizon: Timestamp, fence: Callable[[ClientSession], None]) -> int:
        """Seal the next rows, up to SEAL_ROWS, whose stamp is not above `horizon`; how many it were.

        No transaction that could still bring a row from below `horizon` may be open. `fence` binds the write to the sealer's lease.
        """
        last = self.last_seal()
        rows = self._rows(upto(last), horizon, SEAL_ROWS)
        if not rows:
            return 0
        seal = self._new_seal(last, rows)

        def work(session: ClientSession) -> None:
            fence(session)
            self._database.insert_rows(self.log.seals, [seal], session)

        self._database.transaction(work)
        return len(rows)

    def _new_seal(self, last: Mapping[str, Any] | None, rows: Sequence[Raw]) -> Document:
        prev = _last_hash(last)
        return {
            "_id": (last["_id"] if last else 0) + 1,
            "first": rows_until(last) + 1,
            "count": len(rows),
            "after": upto(last),
            "upto": rows[-1]["stamp"],
            "prev": prev,
            "ids": [self.log.sealed_id(row) for row in rows],
            "hashes": b"".join(_chain(prev, rows)),
            "sealed_at": utc_now(),
        }

    def last_seal(self) -> Document | None:
        """The newest seal."""
        with self._database.errors():
            return self._database.collection(self.log.seals).find_one({}, sort=[("_id", -1)])

    def unsealed(self, last: Mapping[str, Any] | None) -> int:
        """How many rows came after `last`; counted up to ten thousand."""
        with self._database.errors():
            return self._database.collection(self.log.rows).count_documents({"stamp": {"$gt": upto(last)}}, limit=_UNSEALED_COUNTED)

    # Verifying

    def verify(self, progress: Callable[[int, int], None] | None = None, anchor: str = "") -> Report:
        """Read every seal and every row, as the read-only user, and compare; `progress` gets (rows done, rows in all).

        `anchor`, the head of an earlier time: the chain must still go through it. Raises ValueError for one that cannot be read.
        """
        pinned = parse_head(anchor) if anchor else None
        report = Report()
        last = self.last_seal()
        total = rows_until(last)
        previous: Document | None = None
        for seal in self._seals():
            report.problems += self.problems_of(seal, previous)
            report.problems += anchor_problems(seal, pinned)
            report.rows = rows_until(seal)
            previous = seal
            if progress is not None:
                progress(report.rows, max(total, report.rows))
        report.head = head_of(previous)
        if pinned is not None and pinned[0] > report.rows:
            report.problems.append(Problem("deleted", pinned[0]))
        report.problems += self.rows_without_stamp(report.rows)
        report.unsealed = self.unsealed(previous)
        del report.problems[_PROBLEMS_SHOWN:]
        return report

    def problems_of(self, seal: Mapping[str, Any], previous: Mapping[str, Any] | None) -> list[Problem]:
        """What is wrong with the rows of one seal, and with the seal as the successor of `previous`; in the chain's order."""
        return broken_link(seal, previous) or self.compare(seal, self.rows_of(seal))

    def rows_of(self, seal: Mapping[str, Any]) -> list[Raw]:
        """The rows where those of `seal` should be, as they lie in the database."""
        return self._rows(seal["after"], seal["upto"], 0, READ_ONLY)

    def compare(self, seal: Mapping[str, Any], rows: Sequence[Raw]) -> list[Problem]:
        """What is wrong with `rows`, those of one seal."""
        hashes = _split(seal["hashes"])
        return [] if list(_chain(seal["prev"], rows)) == hashes else list(self._compare(seal, hashes, rows))

    def seal_after(self, number: int) -> Document | None:
        """The seal with the next number above `number`, or None at the chain's end."""
        with self._database.errors():
            return self._database.collection(self.log.seals, READ_ONLY).find_one({"_id": {"$gt": number}}, sort=[("_id", 1)])

    def _seals(self) -> Iterator[Document]:
        seals = self._database.collection(self.log.seals, READ_ONLY)
        after = 0
        while True:
            with self._database.errors(_PAGE_SECONDS):
                page = list(seals.find({"_id": {"$gt": after}}).sort("_id", 1).limit(_PAGE))
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]["_id"]

    def _rows(self, after: Timestamp, upto: Timestamp, limit: int, role: str = READ_WRITE) -> list[Raw]:
        """The rows between two stamps as they lie in the database, by stamp; all of them when `limit` is 0."""
        with self._database.errors(_PAGE_SECONDS):
            found = self._raw(role).find({"stamp": {"$gt": after, "$lte": upto}}, batch_size=SEAL_ROWS + 1)
            return list(found.sort("stamp", 1).limit(limit))

    def _raw(self, role: str) -> Collection[Raw]:
        return self._database.collection(self.log.rows, role).with_options(codec_options=CodecOptions(document_class=RawBSONDocument))

    def _compare(self, seal: Mapping[str, Any], hashes: Sequence[bytes], rows: Sequence[Raw]) -> Iterator[Problem]:
        """Row by row: each against the hash of its own place, so that one bad row does not spoil those behind it."""
        found = {self.log.sealed_id(row): row for row in rows}
        before = seal["prev"]
        for number, (row_id, expected) in enumerate(zip(seal["ids"], hashes, strict=True), seal["first"]):
            row = found.get(row_id)
            if row is None:
                yield Problem("changed" if self._exists(row_id) else "deleted", number, _shown(row_id))
            elif _link(before, row) != expected:
                yield Problem("changed", number, _shown(row_id))
            before = expected
        sealed = set(seal["ids"])
        for row in rows:
            if self.log.sealed_id(row) not in sealed:
                yield Problem("inserted", seal["first"] + sum(each["stamp"] < row["stamp"] for each in rows), _shown(row["_id"]))

    def _exists(self, row_id: Any) -> bool:
        """Whether a row that is not in its place is still somewhere: its stamp was changed."""
        with self._database.errors(_PAGE_SECONDS):
            return self._database.collection(self.log.rows, READ_ONLY).find_one({"_id": row_id}, ("_id",)) is not None

    def rows_without_stamp(self, rows: int) -> list[Problem]:
        """Rows that no seal will ever reach: nothing that we write is without a stamp."""
        query = {"$or": [{"stamp": {"$not": {"$type": "timestamp"}}}, {"stamp": {"$lte": _BEGIN}}]}
        with self._database.errors(_SCAN_SECONDS):
            found = list(self._database.collection(self.log.rows, READ_ONLY).find(query, ("_id",)).limit(_PROBLEMS_SHOWN))
        return [Problem("inserted", rows + 1, _shown(row["_id"])) for row in found]


def broken_link(seal: Mapping[str, Any], previous: Mapping[str, Any] | None) -> list[Problem]:
    """What is wrong with `seal` as the successor of `previous`, its rows aside."""
    if seal["_id"] != (previous["_id"] if previous else 0) + 1:
        return [Problem("seal deleted", rows_until(previous) + 1)]
    if not _follows(seal, previous):
        return [Problem("seal changed", rows_until(previous) + 1)]
    return []


def head_of(seal: Mapping[str, Any] | None) -> str:
    """The number and the hash of the last sealed row, as `1042:9f86d0...`; `0:` and zeros before the first."""
    return f"{rows_until(seal)}:{_last_hash(seal).hex()}"


def _link(before: bytes, row: Raw) -> bytes:
    return hashlib.sha256(before + row.raw).digest()


def _chain(before: bytes, rows: Sequence[Raw]) -> Iterator[bytes]:
    for row in rows:
        before = _link(before, row)
        yield before


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]


def _follows(seal: Mapping[str, Any], previous: Mapping[str, Any] | None) -> bool:
    """Whether `seal` begins where `previous` ends, and has a hash and an id for each of its rows."""
    begins = (seal["prev"], seal["first"], seal["after"]) == (_last_hash(previous), rows_until(previous) + 1, upto(previous))
    return begins and seal["upto"] > seal["after"] and len(seal["ids"]) == seal["count"] == len(seal["hashes"]) // _HASH_BYTES


def upto(seal: Mapping[str, Any] | None) -> Timestamp:
    """The stamp of the last row that `seal` covers; before the first one, a stamp before all."""
    covered: Timestamp = seal["upto"] if seal else _BEGIN
    return covered


def rows_until(seal: Mapping[str, Any] | None) -> int:
    """How many rows are sealed up to and with `seal`."""
    return seal["first"] + seal["count"] - 1 if seal else 0


def _last_hash(seal: Mapping[str, Any] | None) -> bytes:
    return bytes(seal["hashes"][-_HASH_BYTES:]) if seal else _GENESIS


def _shown(row_id: Any) -> str | None:
    return str(row_id)[:64] if row_id is not None else None


def parse_head(text: str) -> tuple[int, bytes]:
    """The number and the hash of a head; raises ValueError."""
    number, _, digest = text.partition(":")
    parsed = int(number), bytes.fromhex(digest)
    if len(parsed[1]) != _HASH_BYTES:
        raise ValueError("an anchor is <number>:<64 hexadecimal digits>")
    return parsed


def anchor_problems(seal: Mapping[str, Any], pinned: tuple[int, bytes] | None) -> list[Problem]:
    """Whether the chain goes through `pinned`, where that lies in `seal`."""
    if pinned is None or not seal["first"] <= pinned[0] < seal["first"] + seal["count"]:
        return []
    at = pinned[0] - seal["first"]
    return [] if _split(seal["hashes"])[at : at + 1] == [pinned[1]] else [Problem("changed", pinned[0])]
