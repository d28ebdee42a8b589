"""Fills an empty ledger from an export: all of it, proved to be sound, or nothing; also when it is killed on the way."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bson import Timestamp
from bson.errors import BSONError

from core.lease import Lease, LeaseLost
from core.modules.ledger_module import errors
from core.modules.ledger_module.export import FORMAT, KINDS, VERSION, parse
from core.modules.ledger_module.repository import FIRST, ProofRepository
from core.modules.ledger_module.store import DONE, LOADING, OPENING, LedgerStore, RowExists
from core.modules.ledger_module.verification import Verification
from tools.error_handling.errors import AppError
from tools.logger.custom_logger import custom_log

_ROWS_AT_ONCE = 500
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, BSONError)
_OF_WALLETS = ("grant", "hold")

# Much more often than the lease ends.
_KEEP_SECONDS = 3.0

Progress = Callable[[int], None]


class Importer:
    """Loads wallets that cannot be used yet, and all else; verifies the whole; then opens the wallets.

    Until the last of these steps whatever was loaded is taken out again, by this process or by the next import. From then on the
    ledger is what the export was, and the next import only ends what this one has begun.
    """

    def __init__(self, store: LedgerStore, proofs: ProofRepository, lease: Lease) -> None:
        self._store = store
        self._proofs = proofs
        self._lease = lease
        self._kept_at = float("-inf")

    def load(self, lines: Iterable[bytes], progress: Progress = lambda _rows: None) -> dict[str, Any]:
        """Import `lines`; `{imported: {wallet: 3, ...}, head}`. `progress` gets how many more rows were loaded.

        Raises Conflict (`ledger-not-empty`, `ledger-importing`) and Unprocessable (`import-invalid`).
        """
        with self._alone():
            self._end_what_was_begun()
            if not self._store.is_empty():
                raise errors.not_empty()
            try:
                reading = _Reading(lines)
                self._load(reading, progress)
                self._prove(reading)
            except BaseException as error:
                self._undo(error)
                raise
            self._open()
        return {"imported": reading.counts, "head": reading.header["head"]}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lease.take():
            raise errors.importing()
        try:
            yield
        finally:
            self._lease.release()

    def _end_what_was_begun(self) -> None:
        """An import that was killed: undo it while nothing could be used, else finish it."""
        phase = self._store.phase
        if phase == LOADING:
            self._take_out()
        elif phase == OPENING:
            self._open()

    def _load(self, reading: _Reading, progress: Progress) -> None:
        newest = reading.header["newest"]
        if newest >= self._lease.time:
            raise errors.not_an_export(1, "it is from a time that has not come here: set the clocks")
        self._store.mark(LOADING, newest)
        for kind, rows in reading.batches():
            self._keep()
            try:
                self._insert(kind, rows, newest)
            except RowExists as error:
                raise errors.not_an_export(reading.line, f"a {kind} is there already, or its reference") from error
            except _MALFORMED as error:
                raise errors.not_an_export(reading.line, f"a {kind} before it has not the shape of one") from error
            progress(len(rows))

    def _insert(self, kind: str, rows: list[dict[str, Any]], newest: Timestamp) -> None:
        """Only what could be taken out again; raises ValueError and the like for what could not."""
        if not all(isinstance(row["_id"], int if kind == "seal" else str) for row in rows):
            raise ValueError("an id of another kind")
        if kind in _OF_WALLETS and not self._store.are_loaded({row["wallet_id"] for row in rows}):
            raise ValueError("no such wallet")
        if kind == "transaction" and not all(FIRST < row["stamp"] <= newest for row in rows):
            raise ValueError("a stamp that the header does not know of")
        self._store.insert(KINDS[kind], rows)

    def _prove(self, reading: _Reading) -> None:
        verification = Verification(self._proofs, _ROWS_AT_ONCE, reading.header["head"])
        for _ in verification.steps():
            self._keep()
        report = verification.report
        if not report.ok:
            first = report.findings[0]
            raise errors.unsound(f"{first.collection} {first.id or ''}: {first.what}")

    def _keep(self) -> None:
        """Hold the lease for longer, where that is due; LeaseLost when somebody else has it."""
        if time.monotonic() - self._kept_at > _KEEP_SECONDS:
            self._lease.keep()
            self._kept_at = time.monotonic()

    def _open(self) -> None:
        self._store.mark(OPENING)
        for _ in self._store.open_wallets():
            self._keep()
        self._store.mark(DONE)

    def _undo(self, error: BaseException) -> None:
        """Leave the ledger as empty as it was; where that fails too, the next import does it."""
        try:
            self._take_out()
        except (AppError, LeaseLost):
            custom_log("an import was broken off, and the next one has to clear it away", level="WARNING", error=type(error).__name__)

    def _take_out(self) -> None:
        if self._store.phase == LOADING:
            self._keep()
            for _ in self._store.remove():
                self._keep()
            self._store.forget()


class _Reading:
    """The lines of an export, checked as they are read; `line` is the number of the last one."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.line = 0
        self.counts = dict.fromkeys(KINDS, 0)
        self._digest = hashlib.sha256()
        self._raw = b""
        self._lines = iter(lines)
        kind, self.header = self._next()
        if kind != "header" or not _is_header(self.header):
            raise errors.not_an_export(1, "it is no header of an export that this release can read")

    def batches(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Rows of one kind at a time, until the trailer, which must fit to them."""
        batch: list[dict[str, Any]] = []
        current = "wallet"
        while True:
            kind, document = self._next()
            if batch and (kind != current or len(batch) == _ROWS_AT_ONCE):
                yield current, batch
                batch = []
            if kind == "end":
                break
            if kind not in KINDS or (kind in _BEFORE and _rank(current) > _rank(kind)):
                raise errors.not_an_export(self.line, "it is of a kind that is not expected here")
            current = kind
            self.counts[kind] += 1
            batch.append(document)
        if document != {**self.counts, "sha256": self._digest.hexdigest()}:
            raise errors.not_an_export(self.line, "the trailer does not fit to what comes before it")
        if next(self._lines, None) is not None:
            raise errors.not_an_export(self.line + 1, "something follows the trailer")

    def _next(self) -> tuple[str, dict[str, Any]]:
        # The trailer is not in the sum that it tells.
        self._digest.update(self._raw)
        raw = next(self._lines, None)
        self.line += 1
        if raw is None:
            raise errors.not_an_export(self.line, "the export ends before its trailer")
        self._raw = raw
        try:
            return parse(raw)
        except _MALFORMED as error:
            raise errors.not_an_export(self.line, "it is no line of an export") from error


# What comes before all transactions, in this order.
_BEFORE = ("wallet", "grant", "hold")


def _rank(kind: str) -> int:
    return _BEFORE.index(kind) if kind in _BEFORE else len(_BEFORE)


def _is_header(header: dict[str, Any]) -> bool:
    known = (header.get("format"), header.get("version")) == (FORMAT, VERSION)
    return known and isinstance(header.get("head"), str) and isinstance(header.get("newest"), Timestamp)
