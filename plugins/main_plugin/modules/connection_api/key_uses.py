"""When API keys were last used: noted in memory on the way of a request, written together and seldom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from tools.logger.custom_logger import custom_log
from utils.background import Ticker
from utils.clock import utc_now

APART = timedelta(minutes=1)
_TICK_SECONDS = 5.0


class KeyUses:
    """Calls `write({key id: time})` for keys that were used; for each of them at most once a minute."""

    def __init__(self, write: Callable[[Mapping[str, datetime]], None]) -> None:
        self._write = write
        self._used: dict[str, datetime] = {}
        self._written: dict[str, datetime] = {}
        self._ticker = Ticker("api-key-uses", _TICK_SECONDS, self.flush, _failed)

    def start(self) -> None:
        self._ticker.start()

    def stop(self) -> None:
        """End, after what is known was written."""
        self._ticker.stop()
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001  the database may be gone already, and the end goes on
            _failed(error)

    def note(self, key_id: str) -> None:
        self._used[key_id] = utc_now()

    def flush(self) -> None:
        """Write what is due; what cannot be written now stays for the next time."""
        now = utc_now()
        self._written = {key_id: at for key_id, at in self._written.items() if now - at < APART}
        due = {key_id: at for key_id, at in list(self._used.items()) if key_id not in self._written}
        if not due:
            return
        self._write(due)
        for key_id, at in due.items():
            self._written[key_id] = now
            if self._used.get(key_id) == at:
                del self._used[key_id]


def _failed(error: Exception) -> None:
    custom_log("the last uses of api keys are written later", level="WARNING", error=type(error).__name__)
