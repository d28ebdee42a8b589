"""What is loaded once and kept for a while: single flight within a worker and across workers, and tags that end it at once."""

from __future__ import annotations

import itertools
import random
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from core.managers.redis_scripts import LOOK, RELEASE, STORE
from core.managers.redis_sealing import Unreadable
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log
from utils import deadline

# A loader that died holds the others up for so long.
_LOCK_MS = 2000
# How long a caller without a deadline of its own waits for another's load.
_WAIT_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.1
# The part of its life after which one caller loads a value anew, drawn for each, so that many do not end together.
_REFRESH_FROM, _REFRESH_TO = 0.8, 0.95
_NO_ANSWER = "What we wait for is still being loaded."


class Store(Protocol):
    """What the cache needs of Redis."""

    def run_script(self, source: str, keys: Sequence[str], args: Sequence[Any]) -> Any: ...

    def delete(self, *keys: str) -> int: ...

    def seal(self, name: str, value: Any) -> bytes: ...

    def unseal(self, name: str, sealed: bytes) -> Any: ...

    def pseudonym(self, value: str) -> str: ...


@dataclass(frozen=True)
class _Call:
    """One call of `cached`: the names it uses, its token, how to load, and until when it may wait (monotonic seconds)."""

    entry: str
    lock: str
    tags: tuple[str, ...]
    token: str
    load: Callable[[], Any]
    ttl: float
    give_up: float

    @property
    def keys(self) -> list[str]:
        return [self.entry, self.lock, *self.tags]

    def flight(self, lock: bytes) -> tuple[str, bytes]:
        """What all loads have in common that may answer this call: the entry, and the generations in the lock's text."""
        return self.entry, lock[len(self.token) :]

    def seconds_left(self) -> float:
        """How long it may still wait; Unavailable when that is over."""
        left = self.give_up - time.monotonic()
        if left <= 0:
            raise Unavailable(_NO_ANSWER, retry_after=1)
        return left


class Cache:
    """Values by key, each under any number of tags. Without Redis every caller's value is loaded, once for all who wait."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mutex = threading.Lock()
        # The loads that run in this worker, by entry and generations of its tags, or (Redis away) by invalidations so far.
        self._flights: dict[Hashable, Future[bytes]] = {}
        self._serial = itertools.count(1)
        self._invalidations = 0
        # Invalidations that Redis has not confirmed: each tag's name, and which of them it was.
        self._owed: dict[str, int] = {}

    def cached(self, key: str, load: Callable[[], Any], ttl: float, tags: Sequence[str] = ()) -> Any:
        """The value of `key`, or what `load` returns, kept for `ttl` seconds or until one of its tags is invalidated."""
        name = self._store.pseudonym(key)
        call = _Call(
            entry=f"cache:{name}",
            lock=f"load:{name}",
            tags=tuple(self._tag(tag) for tag in sorted(set(tags))),
            token=secrets.token_hex(16),
            load=load,
            ttl=ttl,
            give_up=time.monotonic() + deadline.remaining(_WAIT_SECONDS),
        )
        try:
            return self._through_redis(call)
        except _Away:
            return self._alone(call)

    def invalidate_tags(self, *tags: str) -> None:
        """End all that is cached under any of `tags`. While Redis is away this is remembered and done when it answers."""
        with self._mutex:
            self._invalidations += 1
            self._owed.update({self._tag(tag): next(self._serial) for tag in tags})
        try:
            self.settle()
        except Unavailable:
            custom_log("an invalidation waits for redis", level="WARNING", tags=len(tags))

    def settle(self) -> None:
        """Carry out the invalidations that are owed, in one round trip; raises Unavailable."""
        with self._mutex:
            owed = dict(self._owed)
        if owed:
            self._store.delete(*owed)
            with self._mutex:
                for tag, serial in owed.items():
                    if self._owed.get(tag) == serial:
                        del self._owed[tag]

    def _tag(self, tag: str) -> str:
        return f"tag:{self._store.pseudonym(tag)}"

    # With Redis

    def _through_redis(self, call: _Call) -> Any:
        pause = _FIRST_PAUSE
        while True:
            state, sealed, lock = self._look(call)
            if state in (b"hit", b"refresh"):
                try:
                    value = self._store.unseal(call.entry, sealed)
                except Unreadable:
                    self._forget(call, lock)
                    continue
                return value if state == b"hit" else self._refresh(call, lock, value)
            if state == b"load":
                return self._lead(call, lock)
            flight = self._flights.get(call.flight(lock))
            if flight is not None:
                return self._join(call, flight)
            # Another worker loads it.
            time.sleep(min(pause, call.seconds_left()))
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _look(self, call: _Call) -> tuple[bytes, bytes, bytes]:
        try:
            if self._owed:
                self.settle()
            state, sealed, lock = self._store.run_script(LOOK, call.keys, [call.token, _LOCK_MS])
        except Unavailable as error:
            raise _Away from error
        return state, sealed, lock

    def _refresh(self, call: _Call, lock: bytes, value: Any) -> Any:
        """Load anew ahead of the end, while the others still get `value`; so do we, when that does not work just now."""
        if call.flight(lock) in self._flights:
            return value
        try:
            return self._lead(call, lock, keep_lock=True)
        except Unavailable:
            return value

    def _lead(self, call: _Call, lock: bytes, *, keep_lock: bool = False) -> Any:
        """Load for all who wait, and store it. With `keep_lock` a failed load is not tried again before the lock ends."""
        key = call.flight(lock)
        flight, is_mine = self._board(key)
        if not is_mine:
            return self._join(call, flight)
        try:
            value, sealed = self._fly(call, flight)
            self._store_value(call, lock, sealed)
        except BaseException as error:
            if not (keep_lock and isinstance(error, Unavailable)):
                with suppress(Unavailable):
                    self._store.run_script(RELEASE, [call.lock], [lock])
            raise
        finally:
            del self._flights[key]
        return value

    def _store_value(self, call: _Call, lock: bytes, sealed: bytes) -> None:
        life = int(call.ttl * 1000)
        refresh = int(life * random.uniform(_REFRESH_FROM, _REFRESH_TO))  # noqa: S311  nothing secret depends on it
        with suppress(Unavailable):
            self._store.run_script(STORE, call.keys, [lock, call.token, sealed, life, refresh])

    def _forget(self, call: _Call, lock: bytes) -> None:
        """The entry is not one of ours (any more): make room for a new one."""
        with suppress(Unavailable):
            self._store.delete(call.entry, *([call.lock] if lock else []))
        call.seconds_left()

    # In this worker

    def _alone(self, call: _Call) -> Any:
        """Redis is away: whoever comes first loads, and those who come meanwhile share it."""
        key = (call.entry, self._invalidations)
        flight, is_mine = self._board(key)
        if not is_mine:
            return self._join(call, flight)
        try:
            return self._fly(call, flight)[0]
        finally:
            del self._flights[key]

    def _board(self, key: Hashable) -> tuple[Future[bytes], bool]:
        """The load of `key` that runs in this worker, or a new one; and whether it is ours to carry out."""
        with self._mutex:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Future()
            return flight, True

    def _fly(self, call: _Call, flight: Future[bytes]) -> tuple[Any, bytes]:
        """Load, and tell those who wait how it went. They get it sealed: nobody shares an object with another."""
        try:
            value = call.load()
            sealed = self._store.seal(call.entry, value)
        except BaseException as error:
            # What ends the greenlet of the loader is not meant for those who wait.
            flight.set_exception(error if isinstance(error, Exception) else Unavailable(_NO_ANSWER, retry_after=1))
            raise
        flight.set_result(sealed)
        return value, sealed

    def _join(self, call: _Call, flight: Future[bytes]) -> Any:
        try:
            sealed = flight.result(call.seconds_left())
        except TimeoutError as error:
            if flight.done():
                raise
            raise Unavailable(_NO_ANSWER, retry_after=1) from error
        return self._store.unseal(call.entry, sealed)


class _Away(Exception):
    """Redis could not be asked."""
