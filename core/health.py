"""Asking many for their health at once, in a bounded time, whatever one of them does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from utils import green

Answer = dict[str, Any]


@dataclass
class _Question:
    """One that is being answered; `late_at` (time.monotonic) is when nobody waits for it any longer."""

    late_at: float
    future: Future[Answer | None]


class HealthChecks:
    """Each question has a thread of its own (a green one where the process is patched), and at most one.

    A green thread that takes too long is ended. A native one cannot be: its question is not asked again until it has ended.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._asked: dict[str, _Question] = {}

    def ask(self, questions: Mapping[str, Callable[[], Answer]]) -> dict[str, Answer | None]:
        """The answers by name; None where one takes more than the seconds, from when it was first asked."""
        for name, question in questions.items():
            if name not in self._asked or self._asked[name].future.done():
                self._asked[name] = self._begin(name, question)
        asked = {name: self._asked[name] for name in questions}
        self._wait(asked.values())
        return {name: each.future.result() if each.future.done() else None for name, each in asked.items()}

    def stop(self) -> None:
        """Wait for those that are being answered."""
        self._wait(self._asked.values())
        self._asked = {}

    def _begin(self, name: str, question: Callable[[], Answer]) -> _Question:
        asked = _Question(time.monotonic() + self._seconds, Future())
        threading.Thread(target=self._answer, args=(asked.future, question), name=f"health-{name}", daemon=True).start()
        return asked

    def _answer(self, future: Future[Answer | None], question: Callable[[], Answer]) -> None:
        answer = None
        try:
            with green.time_limit(self._seconds):
                answer = question()
        except green.TimeLimitReached:
            pass
        finally:
            future.set_result(answer)

    def _wait(self, asked: Any) -> None:
        waiting = [each for each in asked if not each.future.done()]
        if waiting:
            wait([each.future for each in waiting], max(0.0, max(each.late_at for each in waiting) - time.monotonic()))
