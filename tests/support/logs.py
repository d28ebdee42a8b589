"""The log of a test: opened in a folder of its own, and everything as before afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.logger.custom_logger import configure_logging

_NAMES = ("", "credit.server", "credit.game_play", "credit.function")


class Logs:
    """The three files that `configure_logging` opens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, name: str = "server") -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def lines(self, name: str = "server") -> list[dict[str, Any]]:
        """The JSON objects of a file, one a line."""
        return [json.loads(line) for line in self.text(name).split("\n")[:-1]]


@contextmanager
def kept_logging() -> Iterator[None]:
    """Put all handlers and levels back, those of pytest included."""
    loggers = [logging.getLogger(name) for name in _NAMES]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


@contextmanager
def logging_to(folder: Path, form: str = "json", level: str = "INFO", console: str = "ERROR", **more: int) -> Iterator[Logs]:
    """Log to `folder` as the settings LOG_FORMAT, LOG_LEVEL, LOG_CONSOLE and `more` would have it."""
    with kept_logging():
        own = {"LOG_DIR": str(folder), "LOG_FORMAT": form, "LOG_LEVEL": level, "LOG_CONSOLE": console}
        configure_logging({"LOG_MAX_BYTES": 0, "LOG_BACKUPS": 1, **own, **more})
        yield Logs(folder)
