"""Managers in the test's own process: some of them with real servers behind, or the whole application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.managers.app_manager import BOOT_ORDER, AppManager
from core.managers.base import Manager
from tests.support.logs import kept_logging
from tools.error_handling.error_handler import ErrorHandler
from utils.config.config import load_config

NAMES = tuple(manager_class.name for manager_class in BOOT_ORDER)


class Managers:
    """What managers know of an AppManager: the settings, the error handler, and those of them that a test needs."""

    def __init__(self, environ: Mapping[str, str], *names: str) -> None:
        self._environ = environ
        self.config = load_config(None, environ)
        self.error_handler = ErrorHandler()
        self.started: list[Manager] = []
        for manager_class in BOOT_ORDER:
            if manager_class.name in names:
                self.start(manager_class)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} was not started for this test")

    def start(self, manager_class: type[Manager]) -> None:
        manager = manager_class(self)  # type: ignore[arg-type]
        setattr(self, f"{manager.name}_manager", manager)
        self.started.append(manager)
        assert manager.initialize() is True

    def reload(self, name: str) -> None:
        """Read the settings again and have one manager take them over."""
        self.config = load_config(None, self._environ)
        getattr(self, f"{name}_manager").reload()

    def dispose(self) -> None:
        """In reverse, as the AppManager does."""
        while self.started:
            self.started.pop().dispose()


@contextmanager
def booted(environ: Mapping[str, str], folder: Path, **settings: object) -> Iterator[AppManager]:
    """The whole application, with its logs in `folder`; `environ` is that of a LocalStack."""
    own = {"LOG_DIR": folder / "logs", "LOG_CONSOLE": "ERROR", "DATA_DIR": folder, "RATE_LIMIT_SCALE": 1000, **settings}
    with pytest.MonkeyPatch.context() as patch, kept_logging():
        for key, value in {**environ, **own}.items():
            patch.setenv(key, str(value))
        app_manager = AppManager()
        try:
            app_manager.initialize()
            yield app_manager
        finally:
            app_manager.dispose()
