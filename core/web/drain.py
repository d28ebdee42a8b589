"""What the workers of both modes have in common: knowing their idle connections, and ending cleanly at a stop."""

from __future__ import annotations

import fcntl
import termios
import time
from array import array
from collections.abc import Callable
from typing import Any

from tools.logger.custom_logger import custom_log

# A connection without a request for so long is idle. One that was just opened gets the time to send its first.
_QUIET_SECONDS = 0.2


class DrainMixin:
    """For a gunicorn AsyncWorker. `_current()` and `_in_hub(function, argument)` come from the mode."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[Any, Any] = {}
        self._idle: dict[Any, float] = {}

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve one connection; which greenlet has which is known meanwhile."""
        greenlet = self._current()
        self._connections[greenlet] = client
        try:
            super().handle(listener, client, address)  # type: ignore[misc]
        finally:
            del self._connections[greenlet]

    def timeout_ctx(self) -> Any:
        """Around the wait for a connection's next request: here it may be closed without losing anything."""
        return _Idle(self._idle, self._current(), super().timeout_ctx())  # type: ignore[misc]

    def drain(self) -> None:
        """Say that we are leaving, close sockets with a goodbye and connections that wait; what runs goes on."""
        manager = self._app_manager()
        if manager is not None:
            manager.draining = True
            manager.websocket_manager.drain()
        for greenlet in self._idle:
            self._in_hub(self._end_if_idle, greenlet)

    def _end_if_idle(self, greenlet: Any) -> None:
        """Runs in the hub, so that no request begins between the look and the end."""
        idle_since = self._idle.get(greenlet, float("inf"))
        if time.monotonic() - idle_since > _QUIET_SECONDS and not _has_input(self._connections[greenlet]):
            # The handler takes StopIteration as the end of its connection.
            greenlet.throw(StopIteration)

    def dispose(self) -> None:
        """After the last request: stop the managers in reverse."""
        manager = self._app_manager()
        if manager is not None:
            manager.dispose()
            custom_log("worker stopped")

    def _app_manager(self) -> Any:
        application = getattr(self, "application", None)
        return application.extensions["app_manager"] if application is not None else None

    def _current(self) -> Any:
        raise NotImplementedError

    def _in_hub(self, function: Callable[[Any], None], argument: Any) -> None:
        raise NotImplementedError


class _Idle:
    """A keep-alive time-out that also lists its greenlet as idle."""

    def __init__(self, idle: dict[Any, float], greenlet: Any, timeout: Any) -> None:
        self._idle, self._greenlet, self._timeout = idle, greenlet, timeout

    def __enter__(self) -> None:
        self._idle[self._greenlet] = time.monotonic()
        self._timeout.__enter__()

    def __exit__(self, *raised: Any) -> Any:
        self._idle.pop(self._greenlet, None)
        return self._timeout.__exit__(*raised)


def _has_input(client: Any) -> bool:
    """Whether something has arrived that nobody has read yet."""
    count = array("i", [0])
    fcntl.ioctl(client.fileno(), termios.FIONREAD, count)
    return count[0] > 0
