"""How many sessions live and how many users are about, as metrics."""

from __future__ import annotations

from datetime import timedelta

from core import metrics
from core.census import Figures
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from utils.clock import utc_now

# Who is active refreshes an access token as often as it ends, after a quarter of an hour by default.
_WINDOWS = {"15m": timedelta(minutes=15), "1d": timedelta(days=1)}


class SessionCount:
    """`count` and `show` for a Census."""

    def __init__(self, repository: ConnectionRepository) -> None:
        self._repository = repository

    def count(self) -> Figures:
        """`{sessions, users: {window: number}}`; Unavailable."""
        now = utc_now()
        users = {window: self._repository.count_users_since(now - length) for window, length in _WINDOWS.items()}
        return {"sessions": self._repository.count_sessions(now), "users": users}

    @staticmethod
    def show(figures: Figures) -> None:
        """Set the metrics."""
        metrics.SESSIONS.set(figures["sessions"])
        for window, number in figures["users"].items():
            metrics.USERS_ACTIVE.labels(window).set(number)
