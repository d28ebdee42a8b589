"""Figures that only the database as a whole knows, for gauges: counted by one worker of all, and told by every one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from core import metrics
from core.lease import Lease
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import log_exception
from utils.background import Ticker

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

Figures = Mapping[str, Any]

_COLLECTION = "settings"
# Leases that outlive some ticks keep the work where it is.
_LEASE_TICKS, _LEASE_LEAST_SECONDS = 3, 30.0
# A count of a grown collection takes its time: of which it gets one part in twenty.
_REST = 20
# Not at once: a worker that has just started has better things to do.
_FIRST = 0.1


class Census:
    """Every `seconds`, and the more seldom the longer it takes: `count` in the holder of the lease, `show` in each worker.

    What was counted lies in MongoDB meanwhile, so that all workers of all machines tell the same.
    """

    def __init__(
        self, database: DatabaseManager, name: str, seconds: float, count: Callable[[], Figures], show: Callable[[Figures], None]
    ) -> None:
        """`count`: one document of plain values; Unavailable as usual."""
        self._database = database
        self._name = f"{name}-census"
        self._count = count
        self._show = show
        self._lease = Lease(database, self._name, max(_LEASE_LEAST_SECONDS, _LEASE_TICKS * seconds))
        self._next = float("-inf")
        self._ticker = Ticker(self._name, seconds, self.tick, self._failed, first=_FIRST)

    def start(self) -> None:
        """Begin, shortly after."""
        self._ticker.start()

    def stop(self) -> None:
        """End, and let another worker go on at once. Safe to call twice."""
        self._ticker.stop()
        with suppress(Unavailable):
            self._lease.release()

    def tick(self) -> None:
        """Count where it is our turn, and tell what was counted; Unavailable."""
        if self._lease.take():
            if time.monotonic() >= self._next:
                self._take()
            metrics.note_run(self._name)
        row = self._database.on_collection(_COLLECTION, lambda settings: settings.find_one({"_id": self._name}))
        if row is not None:
            self._show(row["figures"])

    def _take(self) -> None:
        began = time.monotonic()
        figures = dict(self._count())
        self._next = time.monotonic() + _REST * (time.monotonic() - began)
        change = {"$set": {"figures": figures}, "$currentDate": {"at": True}}
        self._database.on_collection(_COLLECTION, lambda settings: settings.update_one({"_id": self._name}, change, upsert=True))

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, Unavailable):
            log_exception(f"the {self._name} stumbled", error)
