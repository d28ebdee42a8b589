"""Password hashes: argon2id on native threads, a bounded number at a time, and which passwords are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from tools.error_handling.errors import Unavailable
from utils import deadline
from utils.green import run_native

_COMMON = frozenset(files(__package__).joinpath("common_passwords.txt").read_text(encoding="utf-8").split())
_FEW = 4


class Passwords:
    """Hashes and verifies; one for each process. A wait that would take too long is Unavailable."""

    def __init__(self, time_cost: int, memory_kib: int, concurrency: int, queue: int) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._slots = threading.BoundedSemaphore(concurrency)
        self._waiting = threading.BoundedSemaphore(concurrency + queue)
        # Verified for unknown users, so that their answer takes as long as everyone's.
        self._dummy = self._hasher.hash("no user has this password")

    def hash(self, password: str) -> str:
        """The argon2id hash of `password`, in PHC form."""
        hashed: str = self._run(self._hasher.hash, password)
        return hashed

    def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` belongs to `stored`; None (no such user) takes as long and is False."""
        matches: bool = self._run(self._matches, stored or self._dummy, password)
        return matches and bool(stored)

    def is_outdated(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def _run(self, function: Callable[..., Any], *args: str) -> Any:
        if not self._waiting.acquire(blocking=False):
            raise Unavailable("Too many log-ins at a time.", code="backpressure", retry_after=2)
        try:
            if not self._slots.acquire(timeout=deadline.remaining(5.0)):
                raise Unavailable("Too many log-ins at a time.", code="backpressure", retry_after=2)
            try:
                return run_native(function, *args)
            finally:
                self._slots.release()
        finally:
            self._waiting.release()


def weakness_of(password: str, username: str, email: str) -> str | None:
    """Why `password` is refused, or None. Length is checked by the model; there are no composition rules."""
    lowered = password.casefold()
    if lowered in _COMMON or len(set(lowered)) <= _FEW:
        return "is too common"
    if lowered in (username.casefold(), email.casefold(), email.partition("@")[0].casefold()):
        return "must not be the username or the e-mail address"
    return None
