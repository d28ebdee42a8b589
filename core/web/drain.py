"""What the workers of both modes have in common: knowing their idle connections, and ending cleanly at a stop."""

from __future__ import annotations

from typing import Any

from tools.logger.custom_logger import custom_log


class DrainMixin:
    """For a gunicorn AsyncWorker. `_current()` and `_kill(greenlet)` come from the mode."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[Any] = set()

    def timeout_ctx(self) -> Any:
        """Around the wait for a connection's next request: here it may be closed without losing anything."""
        return _Idle(self._idle, self._current(), super().timeout_ctx())  # type: ignore[misc]

    def drain(self) -> None:
        """Say that we are leaving, close sockets with a goodbye and connections that wait; what runs goes on."""
        manager = self._app_manager()
        if manager is not None:
            manager.draining = True
            manager.websocket_manager.drain()
        for waiting in list(self._idle):
            self._kill(waiting)

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

    def _kill(self, waiting: Any) -> None:
        raise NotImplementedError


class _Idle:
    """A keep-alive time-out that also lists its greenlet as idle."""

    def __init__(self, idle: set[Any], greenlet: Any, timeout: Any) -> None:
        self._idle, self._greenlet, self._timeout = idle, greenlet, timeout

    def __enter__(self) -> None:
        self._idle.add(self._greenlet)
        self._timeout.__enter__()

    def __exit__(self, *raised: Any) -> Any:
        self._idle.discard(self._greenlet)
        return self._timeout.__exit__(*raised)
