"""One deadline a request: how much of its time is left, wherever in the call chain one asks."""

from __future__ import annotations

import time
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def start(seconds: float) -> None:
    """Start the clock of the current request (or job): it has `seconds` from now."""
    _deadline.set(time.monotonic() + seconds)


def clear() -> None:
    """Forget the deadline, so that the next user of this thread starts without one."""
    _deadline.set(None)


def remaining(default: float) -> float:
    """Seconds left, at least 0.05 so that a driver never reads it as "no limit"; `default` outside of a request."""
    at = _deadline.get()
    return default if at is None else max(0.05, at - time.monotonic())
