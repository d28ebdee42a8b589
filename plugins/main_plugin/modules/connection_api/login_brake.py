"""A brake on guessing the password of one account from many addresses, which its owner does not feel where it was used before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from core import metrics
from tools.error_handling.errors import RateLimited, Unavailable

if TYPE_CHECKING:
    from core.managers.redis_manager import RedisManager

FREE_TRIES = 10
_WINDOW_SECONDS = 3600
_LONGEST_SECONDS = 300
_FAMILIAR_MAX = 20


class LoginBrake:
    """Tries for one login name that all fail are answered 429 after the first ten, for twice as long each time, up to five minutes.

    A client that has signed in to the account before (by its fingerprint or its address) has a count of its own, so that
    strangers cannot keep it out (the device cookies of OWASP). Whether there is such an account makes no difference. While
    Redis is away there is no brake: then the limit on log-ins is small.
    """

    def __init__(self, redis: RedisManager, keys: Callable[[], Sequence[bytes]]) -> None:
        """`keys`: whom to ask for the keys of now: the first one writes marks, those of any are known."""
        self._redis = redis
        self._keys = keys

    def count(self, login: str, user: dict[str, Any] | None, fingerprint: str, address: str) -> str:
        """Count one try for `login` (in its compared form), and name what it was counted under; RateLimited."""
        familiar = user.get("familiar", ()) if user is not None else ()
        keys = self._keys()
        # Whichever key its mark is under, the count of a client is one.
        known = next((trait for trait in _traits(fingerprint, address) if any(_hash(key, trait) in familiar for key in keys)), "")
        bucket = _hash(keys[0], f"{login}/{known}")
        with suppress(Unavailable):
            args = [_WINDOW_SECONDS, FREE_TRIES, _LONGEST_SECONDS]
            seconds = int(self._redis.run_script(_COUNT, _names(bucket), args))
            if seconds > 0:
                metrics.AUTH_ATTEMPTS.labels("login", "braked").inc()
                raise RateLimited("Too many log-ins to this account have failed.", retry_after=seconds)
        return bucket

    def forgive(self, bucket: str) -> None:
        """The try that was counted was the owner's."""
        with suppress(Unavailable):
            self._redis.run_script(_FORGIVE, _names(bucket), [])

    def with_marks(self, familiar: Sequence[str], fingerprint: str, address: str) -> list[str]:
        """What is familiar to an account once this client has signed in, the newest first; its own marks are under the newest key."""
        keys, traits = self._keys(), _traits(fingerprint, address)
        own = {_hash(key, trait) for key in keys for trait in traits}
        return [*(_hash(keys[0], trait) for trait in traits), *(mark for mark in familiar if mark not in own)][:_FAMILIAR_MAX]


def _traits(fingerprint: str, address: str) -> list[str]:
    """By what a client is known again: its device before its address, which it may share."""
    return [*([f"device/{fingerprint}"] if fingerprint else []), f"address/{address}"]


def _hash(key: bytes, value: str) -> str:
    return hashlib.blake2b(value.encode(), key=key, digest_size=12).hexdigest()


def _names(bucket: str) -> list[str]:
    return [f"login_tries:{bucket}", f"login_brake:{bucket}"]


# Count a try, and brake those after it. ARGV: window, free tries, longest brake. Answer: seconds that are left of a brake.
_COUNT = """
local left = redis.call('TTL', KEYS[2])
if left > 0 then return left end
local over = redis.call('INCR', KEYS[1]) - tonumber(ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
if over >= 0 then redis.call('SET', KEYS[2], '1', 'EX', math.min(2 ^ (over + 2), tonumber(ARGV[3]))) end
return 0
"""

_FORGIVE = """
redis.call('DEL', KEYS[2])
if tonumber(redis.call('GET', KEYS[1]) or 0) > 0 then redis.call('DECR', KEYS[1]) end
"""
