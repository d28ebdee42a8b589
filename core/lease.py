"""Leases: one holder among all processes for a while, by the database's clock, with a token that only ever grows.

M. Kleppmann, "How to do distributed locking", 2016: a holder that was paused may believe in a lease that has gone to somebody
else. So what it writes is fenced: inside the writing transaction the lease is touched as its holder, or nothing is written.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from utils.ids import new_id

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_COLLECTION = "leases"


class LeaseLost(Exception):
    """Somebody else holds the lease now; what was done under it until here stands, and nothing further may be."""


class LeaseTaken(Exception):
    """Somebody else holds the lease; `holder` says who."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"{name} is held by {holder}")
        self.holder = holder


class Lease:
    """The lease `name`, for `seconds` at a time. `token` grows with every change of hands; `time` is that of the last `take`."""

    def __init__(self, database: DatabaseManager, name: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._milliseconds = int(seconds * 1000)
        self._me = new_id(f"{socket.gethostname()}:{os.getpid()}")
        self.holder = ""
        self.token = 0
        # The cluster's logical clock: whatever is written after this `take` has a later time, also after an election.
        self.time = Timestamp(0, 0)

    @property
    def is_held(self) -> bool:
        """Whether the last `take` got it; it may have ended since."""
        return self.holder == self._me

    def take(self) -> bool:
        """Take the lease, or hold it for longer; False while somebody else has it. One round trip, Unavailable as usual."""
        with self._database.errors():
            leases = self._database.collection(_COLLECTION)
            after = leases.find_one_and_update({"_id": self._name}, self._taking(), upsert=True, return_document=ReturnDocument.AFTER)
        assert after is not None  # it was inserted, if it was not there
        self.holder, self.token, self.time = after["holder"], after["token"], after["time"]
        return self.is_held

    def keep(self) -> None:
        """Hold it for longer; raises LeaseLost."""
        token = self.token
        if not self.take() or self.token != token:
            raise LeaseLost(self._name)

    def fence(self, session: ClientSession) -> None:
        """Bind a transaction to the lease: it commits only if nobody else has taken it by then. Raises LeaseLost."""
        mine = {"_id": self._name, "holder": self._me, "token": self.token}
        if self._database.update_rows(_COLLECTION, [(mine, {"$inc": {"fenced": 1}})], session) != 1:
            raise LeaseLost(self._name)

    def release(self) -> None:
        """Let the next one have it at once; nothing happens when it is not held."""
        if not self.is_held:
            return
        mine = {"_id": self._name, "holder": self._me, "token": self.token}
        with self._database.errors(1.0):
            self._database.collection(_COLLECTION).update_one(mine, {"$currentDate": {"expires_at": True}})
        self.holder = ""

    def _taking(self) -> list[dict[str, Any]]:
        """An update that changes the lease only when it is free or ours: all by the server's clock, in one document's atomic write."""
        ours = {"$eq": ["$holder", self._me]}
        free = {"$lte": [{"$ifNull": ["$expires_at", "$$NOW"]}, "$$NOW"]}
        ends = {"$add": ["$$NOW", self._milliseconds]}

        def chosen(won: Any, kept: str) -> dict[str, Any]:
            return {"$cond": ["$won", won, kept]}

        return [
            {"$set": {"won": {"$or": [ours, free]}}},
            {
                "$set": {
                    "token": {"$cond": [{"$and": ["$won", {"$not": [ours]}]}, {"$add": [{"$ifNull": ["$token", 0]}, 1]}, "$token"]},
                    "expires_at": chosen(ends, "$expires_at"),
                    "time": chosen("$$CLUSTER_TIME", "$time"),
                    "holder": chosen(self._me, "$holder"),
                }
            },
            {"$unset": "won"},
        ]


@contextmanager
def hold_lease(database: DatabaseManager, name: str, seconds: float) -> Iterator[Lease]:
    """Hold the lease `name` for the block, which calls `keep` more often than every `seconds`; raises LeaseTaken."""
    lease = Lease(database, name, seconds)
    if not lease.take():
        raise LeaseTaken(name, lease.holder)
    try:
        yield lease
    finally:
        lease.release()
