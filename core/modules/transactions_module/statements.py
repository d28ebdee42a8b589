"""Rows as text, piece by piece: CSV for spreadsheets, NDJSON for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

CSV = "text/csv; charset=utf-8"
NDJSON = "application/x-ndjson"
_ROWS_IN_A_PIECE = 200
_COLUMNS = ("created_at", "seq", "type", "delta", "balance_after", "held_after", "counterparty", "reference", "memo", "transaction_id")
# What makes a spreadsheet take a text for a formula (OWASP, CSV Injection); memos are written by other people.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_ndjson(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One JSON object a line."""
    for piece in _pieces(rows):
        yield "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in piece)


def as_csv(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line of column names, then one line a row (RFC 4180)."""
    yield ",".join(_COLUMNS) + "\r\n"
    for piece in _pieces(rows):
        text = io.StringIO()
        csv.writer(text).writerows([_cell(row[column]) for column in _COLUMNS] for row in piece)
        yield text.getvalue()


def _pieces(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    remaining = iter(rows)
    while piece := list(islice(remaining, _ROWS_IN_A_PIECE)):
        yield piece


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
