"""The ledger as lines of JSON: a header, what lies in it at one moment, and a trailer by which a copy is known to be whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bson import Timestamp, json_util
from bson.raw_bson import RawBSONDocument

from core.chain import head_of, upto
from core.modules.ledger_module.repository import FIRST, decoded
from utils.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from core.modules.ledger_module.store import LedgerStore

FORMAT, VERSION = "credit-ledger", 1
# In this order they lie in an export, and go into a ledger: nothing can be done to a wallet that is not there yet.
KINDS = {"wallet": "wallets", "grant": "grants", "hold": "holds", "transaction": "transactions", "seal": "ledger_seals"}
_LINES_IN_A_PIECE = 100
# Dates and numbers as everybody writes them. Nothing is lost: what we store are the smallest integers that hold a number.
_JSON = json_util.JSONOptions(json_mode=json_util.JSONMode.RELAXED, tz_aware=True)

_PLAIN = (str, int, datetime, bytes, Timestamp)


def export(store: LedgerStore) -> Iterator[str]:
    """The whole ledger, in pieces of lines that end in a newline; what is committed meanwhile is not in it."""
    digest = hashlib.sha256()
    counts = dict.fromkeys(KINDS, 0)
    for piece in _pieces(_lines(store, counts)):
        digest.update(piece.encode())
        yield piece
    yield _line("end", {**counts, "sha256": digest.hexdigest()})


def _lines(store: LedgerStore, counts: dict[str, int]) -> Iterator[str]:
    with store.moment() as moment:
        last = moment.last_seal()
        # Whatever has no seal yet: their ids are what of the transactions is known to belong to this moment.
        tail, newest = moment.transactions_after(upto(last))
        yield _line("header", _header(moment.assets(), head_of(last), newest))
        for kind in ("wallet", "grant", "hold"):
            for row in moment.rows(KINDS[kind]):
                counts[kind] += 1
                yield _line(kind, decoded(row))
    # From here on no moment is needed: what is sealed changes no more, and neither does a transaction.
    for rows, seal in store.sealed(until=last["_id"] if last is not None else 0):
        yield from _transactions(rows, counts)
        counts["seal"] += 1
        yield _line("seal", decoded(seal))
    for rows in store.transactions(tail):
        yield from _transactions(rows, counts)


def _header(assets: Iterable[str], head: str, newest: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "exported_at": rfc3339(utc_now()),
        "assets": list(assets),
        "head": head,
        "newest": newest or FIRST,
    }


def _transactions(rows: Iterable[RawBSONDocument], counts: dict[str, int]) -> Iterator[str]:
    for row in rows:
        counts["transaction"] += 1
        yield _line("transaction", decoded(row))


def _line(kind: str, document: dict[str, Any]) -> str:
    return json_util.dumps({kind: document}, json_options=_JSON, separators=(",", ":")) + "\n"


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    piece: list[str] = []
    for line in lines:
        piece.append(line)
        if len(piece) == _LINES_IN_A_PIECE:
            yield "".join(piece)
            piece = []
    if piece:
        yield "".join(piece)


def parse(line: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and document of a line; raises ValueError for anything else."""
    parsed = json_util.loads(line.decode(), json_options=_JSON)
    if not isinstance(parsed, dict) or len(parsed) != 1:
        raise ValueError("not one kind and its document")
    kind, document = next(iter(parsed.items()))
    if not isinstance(document, dict) or not _is_plain(document):
        raise ValueError("not a document of ours")
    return kind, document


def _is_plain(value: Any) -> bool:
    """Whether there is nothing in it that a ledger has no use for: code, patterns, names that mean something to the server."""
    if isinstance(value, dict):
        return all(not name.startswith("$") and "." not in name and _is_plain(each) for name, each in value.items())
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, _PLAIN)
