"""How often each error happened lately, in memory that does not grow with their number."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

TRACKED_SECONDS = 300
# Counts are kept for steps of this length.
_STEP_SECONDS = 5
_MOST_CODES = 200
_OTHERS = "others"


class Frequencies:
    """Counts by code over the last five minutes, exact to a few seconds; codes beyond the first 200 share `others`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: deque[tuple[int, Counter[str]]] = deque(maxlen=TRACKED_SECONDS // _STEP_SECONDS)

    def add(self, code: str) -> None:
        """`code` happened now."""
        step = int(self._clock() // _STEP_SECONDS)
        with self._lock:
            if not self._steps or self._steps[-1][0] != step:
                self._steps.append((step, Counter()))
            counts = self._steps[-1][1]
            counts[code if code in counts or len(counts) < _MOST_CODES else _OTHERS] += 1

    def of(self, code: str, seconds: float = TRACKED_SECONDS) -> int:
        """How often `code` happened in the last `seconds` (at most five minutes)."""
        return self._since(seconds)[code]

    def all(self) -> dict[str, int]:
        """Every code of the last five minutes, the most frequent first."""
        return dict(self._since(TRACKED_SECONDS).most_common())

    def _since(self, seconds: float) -> Counter[str]:
        oldest = (self._clock() - seconds) // _STEP_SECONDS
        total: Counter[str] = Counter()
        with self._lock:
            for step, counts in self._steps:
                if step > oldest:
                    total.update(counts)
        return total
