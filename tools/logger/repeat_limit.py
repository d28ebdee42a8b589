"""Limits lines that repeat: after so many of a kind in a minute the others are only counted, and one line says how many."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_SECONDS = 60.0
_LINES = 100
# More kinds than these share one count, so that nobody fills our memory with them.
_KINDS = 256
_OTHERS = ("credit.server", logging.WARNING, "(others)")
_SUMMARY = "credit_summary"

Kind = tuple[str, int, str]


@dataclass
class _Count:
    began: float
    seen: int = 0

    @property
    def suppressed(self) -> int:
        return max(0, self.seen - _LINES)


class RepeatLimit:
    """Passes everything below WARNING, and of what is worse the first lines of each logger, level and message.

    `handle` takes the line that tells how many were left out. Different fields do not make a different message.
    """

    def __init__(self, handle: Callable[[logging.LogRecord], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._handle = handle
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[Kind, _Count] = {}
        self._tell_at: float | None = None

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether `record` is to be written."""
        if self._tell_at is not None and self._clock() > self._tell_at:
            self.tell(over_only=True)
        # Every request passes here.
        if record.levelno < logging.WARNING or hasattr(record, _SUMMARY):
            return True
        with self._lock:
            count = self._count(record)
            count.seen += 1
            if count.suppressed and self._tell_at is None:
                self._tell_at = count.began + _SECONDS
            return not count.suppressed

    def tell(self, *, over_only: bool = False) -> None:
        """Say how many lines were left out, and forget them; with `over_only` of those whose minute is over."""
        with self._lock:
            told = self._forget(over_only)
            self._tell_at = min((count.began + _SECONDS for count in self._counts.values() if count.suppressed), default=None)
        for kind, suppressed in told:
            self._handle(_summary(kind, suppressed))

    def _forget(self, over_only: bool) -> list[tuple[Kind, int]]:
        horizon = self._clock() - _SECONDS
        over = [kind for kind, count in self._counts.items() if not over_only or count.began < horizon]
        return [(kind, count.suppressed) for kind in over if (count := self._counts.pop(kind)).suppressed]

    def _count(self, record: logging.LogRecord) -> _Count:
        # Our own lines are "%s" and the message; of those of libraries the template is what repeats.
        message = str(record.args[0]) if record.msg == "%s" and isinstance(record.args, tuple) and record.args else str(record.msg)
        kind = (record.name, record.levelno, message[:200])
        found = self._counts.get(kind)
        if found is not None and (found.suppressed or self._clock() - found.began <= _SECONDS):
            return found
        if found is None and len(self._counts) >= _KINDS:
            # Quiet kinds go with their minute; while all are busy the newcomers share one count.
            for old in [kind for kind, count in self._counts.items() if not count.suppressed and self._clock() - count.began > _SECONDS]:
                del self._counts[old]
            if len(self._counts) >= _KINDS:
                return self._counts.setdefault(_OTHERS, _Count(self._clock()))
        fresh = self._counts[kind] = _Count(self._clock())
        return fresh


def _summary(kind: Kind, suppressed: int) -> logging.LogRecord:
    name, level, message = kind
    record = logging.LogRecord(name, level, "", 0, "suppressed %d more of: %s", (suppressed, message), None)
    setattr(record, _SUMMARY, True)
    return record
