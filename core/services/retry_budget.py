"""How much of a service's traffic may be retries, so that an outage is not made worse by those who try again."""

from __future__ import annotations

import threading


class RetryBudget:
    """Each call pays in a share of a retry, each retry takes a whole one; at most `reserve` are saved up (gRPC A6)."""

    def __init__(self, share: float = 0.1, reserve: float = 5.0) -> None:
        self._share = share
        self._reserve = reserve
        self._saved = reserve
        self._lock = threading.Lock()

    def called(self) -> None:
        """A first attempt was made."""
        with self._lock:
            self._saved = min(self._reserve, self._saved + self._share)

    def take(self) -> bool:
        """Whether there is a retry left; it is spent."""
        with self._lock:
            # Ten tenths are a little less than one.
            if self._saved < 1 - 1e-6:
                return False
            self._saved -= 1
            return True
