"""Work that repeats beside the requests: one thread (a green one where the process is patched), stopped and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable

_JOIN_SECONDS = 5.0


class Ticker:
    """Calls `work` every `seconds` until `stop`; a failing call goes to `failed` and does not end the others.

    The first call comes after `first` intervals (0: at once).
    """

    def __init__(
        self, name: str, seconds: float, work: Callable[[], object], failed: Callable[[Exception], None], first: float = 1.0
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._work = work
        self._failed = failed
        self._first = first
        self._wake = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to count."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the next call made now."""
        self._wake.set()

    def stop(self) -> None:
        """End, after the call that is being made. Safe to call twice, and when it was never started."""
        self._ended = True
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        wait = self._seconds * self._first
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            if self._ended:
                return
            try:
                self._work()
            except Exception as error:  # noqa: BLE001  whatever went wrong this time, the next call comes
                self._failed(error)
            wait = self._seconds
