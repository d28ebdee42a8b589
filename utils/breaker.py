"""A circuit breaker: after repeated failures calls are refused at once, and one call at a time tries again.

Our own, because the library of the field (pybreaker) holds its lock during the call and so lets only one run at a time.
"""

from __future__ import annotations

import threading
import time


class CircuitBreaker:
    """Ask `allows()` before a call, then say `succeeded()` or `failed()`.

    After `threshold` failures in a row it is open: for `reset_seconds` nothing is allowed, then one trial call.
    """

    def __init__(self, threshold: int, reset_seconds: float) -> None:
        self._threshold = threshold
        self._reset_seconds = reset_seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._threshold

    def allows(self) -> bool:
        """Whether a call may be tried now; while open this is True once in each `reset_seconds`."""
        if self._failures < self._threshold:
            return True
        with self._lock:
            if time.monotonic() < self._retry_at:
                return False
            self._retry_at = time.monotonic() + self._reset_seconds
            return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._retry_at = time.monotonic() + self._reset_seconds
