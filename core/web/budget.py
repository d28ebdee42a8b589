"""A token bucket in memory: what one socket, user or link may still do."""

from __future__ import annotations

import time


class Budget:
    """`rate` a second, `burst` at once when nothing was spent for long."""

    __slots__ = ("__weakref__", "_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._at = time.monotonic()

    def spend(self) -> bool:
        """Take one; False when there is none left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
