"""What one worker knows by itself: windows and bans for the time without Redis, and how often it told the log."""

from __future__ import annotations

import threading
import time

from core.contracts import Policy
from tools.logger.custom_logger import custom_log

_MOST = 50_000
_LOG_SECONDS = 10.0
# Who asks first when all places are taken is counted together with the others who do.
_OTHERS = "others"


class LocalWindows:
    """Fixed windows in this process only, with a share of each quota; `most` of them at a time, whoever asks."""

    def __init__(self, share: float, most: int = _MOST) -> None:
        self._share = share
        self._most = most
        self._lock = threading.Lock()
        # (name, policy): when the window ends, and what was used up in it.
        self._windows: dict[tuple[str, str], tuple[int, int]] = {}
        self._swept_at = 0

    def count(self, name: str, policy: Policy) -> int:
        """Count one request: 0 when it fits, else the seconds until the next window."""
        now = int(time.time())
        with self._lock:
            place = self._place(name, policy, now)
            end, used = self._window(place, policy, now)
            if used >= self._granted(policy):
                return end - now
            self._windows[place] = end, used + 1
        return 0

    def fits(self, name: str, policy: Policy) -> bool:
        """Whether another request would fit; counts nothing."""
        now = int(time.time())
        with self._lock:
            return self._window(self._place(name, policy, now), policy, now)[1] < self._granted(policy)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._windows.clear()

    def __len__(self) -> int:
        return len(self._windows)

    def _granted(self, policy: Policy) -> int:
        return max(1, int(policy.quota * self._share)) if self._share else 0

    def _window(self, place: tuple[str, str], policy: Policy, now: int) -> tuple[int, int]:
        end, used = self._windows.get(place, (0, 0))
        return (end, used) if end > now else (now - now % policy.seconds + policy.seconds, 0)

    def _place(self, name: str, policy: Policy, now: int) -> tuple[str, str]:
        place = name, policy.name
        if place in self._windows or len(self._windows) < self._most:
            return place
        if self._swept_at != now:
            self._swept_at = now
            self._windows = {place: window for place, window in self._windows.items() if window[0] > now}
        return place if len(self._windows) < self._most else (_OTHERS, policy.name)


class KnownBans:
    """The bans that this worker has seen, newest last; the oldest make room."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        """`name` is banned for `seconds` from now."""
        with self._lock:
            self._ends.pop(name, None)
            if len(self._ends) >= _MOST:
                del self._ends[next(iter(self._ends))]
            self._ends[name] = time.monotonic() + seconds

    def forget(self, name: str) -> None:
        with self._lock:
            self._ends.pop(name, None)

    def left(self, name: str) -> float:
        """Seconds that a ban of `name` still runs, as far as this worker knows; else 0."""
        return max(0.0, self._ends.get(name, 0.0) - time.monotonic())


class ShadowLog:
    """One line for each shadow policy in ten seconds, with how many requests it would have refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, tuple[float, int]] = {}

    def add(self, policy: str) -> None:
        """A request that `policy` would have refused."""
        now = time.monotonic()
        with self._lock:
            said_at, count = self._since.get(policy, (-_LOG_SECONDS, 0))
            due = now - said_at >= _LOG_SECONDS
            self._since[policy] = (now, 0) if due else (said_at, count + 1)
        if due:
            custom_log("a shadow limit would have refused", level="WARNING", policy=policy, requests=count + 1)
