"""Calls that come at the same time made as one: whoever finds nobody at it takes all that wait along."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Waiting(Generic[T]):
    """One call: what it asks for, and its answer once `turn` is set (without one it is its turn to lead)."""

    __slots__ = ("answer", "answered", "error", "item", "turn")

    def __init__(self, item: T) -> None:
        self.item = item
        self.turn = threading.Event()
        self.answered = False
        self.answer: Any = None
        self.error: Exception | None = None


class Batcher(Generic[T, R]):
    """`run(items)` returns an answer for each, in order; what it raises reaches all of that batch."""

    def __init__(self, run: Callable[[list[T]], Sequence[R]], at_most: int) -> None:
        self._run = run
        self._at_most = at_most
        self._lock = threading.Lock()
        self._queue: list[_Waiting[T]] = []
        self._busy = False

    def call(self, item: T) -> R:
        """The answer for `item`."""
        mine = _Waiting(item)
        with self._lock:
            self._queue.append(mine)
            leads, self._busy = not self._busy, True
        if not leads:
            mine.turn.wait()
        if not mine.answered:
            self._lead()
        if mine.error is not None:
            raise mine.error
        answer: R = mine.answer
        return answer

    def _lead(self) -> None:
        """Run what waits, the leader's own call first in it; then leave the lead to the next."""
        with self._lock:
            batch, self._queue = self._queue[: self._at_most], self._queue[self._at_most :]
        try:
            for waiting, answer in zip(batch, self._run([waiting.item for waiting in batch]), strict=True):
                waiting.answer = answer
        except Exception as error:  # noqa: BLE001  it belongs to those who called
            for waiting in batch:
                waiting.error = error
        for waiting in batch:
            waiting.answered = True
            waiting.turn.set()
        with self._lock:
            self._busy = bool(self._queue)
            following = self._queue[0] if self._queue else None
        if following is not None:
            following.turn.set()
