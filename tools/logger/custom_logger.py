"""Structured logs: server.log, game_play.log and function.log, one JSON object (or text line) an event, redacted."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from traceback import format_tb
from typing import Any

from tools.logger.log_file import Console, LogFile
from tools.logger.redaction import may_be_sensitive, redact, text_of
from utils.clock import rfc3339

_SERVER = logging.getLogger("credit.server")
_GAME = logging.getLogger("credit.game_play")
_FUNCTION = logging.getLogger("credit.function")
_FILES = {_SERVER: "server.log", _GAME: "game_play.log", _FUNCTION: "function.log"}
# Their texts hold what was to be stored, sent, or validated.
_DRIVERS = ("pymongo", "bson", "redis", "hvac", "requests", "urllib3", "pydantic", "jwt", "cryptography")
# `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
_CAUSES = 8
_FIELDS, _LINE = "credit_fields", "credit_line"
# What json leaves as it is and still ends a line somewhere, moves a terminal's cursor, or has no UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Line(logging.Formatter):
    """Formats a record once, however many handlers write it."""

    def format(self, record: logging.LogRecord) -> str:
        line: str | None = getattr(record, _LINE, None)
        if line is None:
            traceback = self.formatException(record.exc_info) if record.exc_info else ""
            parts = (record.getMessage(), getattr(record, _FIELDS, {}), traceback)
            line = self.render(record, *parts)
            if may_be_sensitive(line):
                # Part by part: in the finished line a mask could cut an escape in two, and it would be no JSON any more.
                line = self.render(record, *redact(parts))
            if not line.isprintable():
                line = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
            setattr(record, _LINE, line)
        return line

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is logging's
        return traceback_of(ei[1])

    def render(self, record: logging.LogRecord, message: str, fields: dict[str, Any], traceback: str) -> str:
        raise NotImplementedError


class _JsonLine(_Line):
    """One JSON object a line; json escapes line breaks, so that nobody can forge a second line."""

    def render(self, record: logging.LogRecord, message: str, fields: dict[str, Any], traceback: str) -> str:
        line = {"timestamp": _time_of(record), "level": record.levelname, "logger": record.name, "message": message, **fields}
        if traceback:
            line["exception"] = traceback
        return _encode(line)


class _TextLine(_Line):
    """`time level message key=value ...` on one line."""

    def render(self, record: logging.LogRecord, message: str, fields: dict[str, Any], traceback: str) -> str:
        parts = [_time_of(record), f"{record.levelname:<7}", message, *(f"{key}={value}" for key, value in fields.items())]
        text = " ".join([*parts, traceback]).rstrip()
        return text.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")


def traceback_of(error: BaseException | None) -> str:
    """A traceback and those of its causes; of a driver's error only the name, since its text may hold what was to be stored."""
    parts: list[str] = []
    while error is not None and len(parts) < _CAUSES:
        text = "" if type(error).__module__.startswith(_DRIVERS) else f": {text_of(error)}"
        parts.append("".join(format_tb(error.__traceback__)) + type(error).__qualname__ + text)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\ncaused by:\n".join(parts)


def _time_of(record: logging.LogRecord) -> str:
    return rfc3339(datetime.fromtimestamp(record.created, UTC))


def configure_logging(config: Mapping[str, Any]) -> None:
    """Open the three log files and the console as the settings say. Calling it again replaces the handlers."""
    directory = Path(config["LOG_DIR"])
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    formatter = _JsonLine if config["LOG_FORMAT"] == "json" else _TextLine
    for logger, file_name in _FILES.items():
        logger.setLevel(config["LOG_LEVEL"])
        logger.propagate = False
        handlers: list[logging.Handler] = [LogFile(directory / file_name, config["LOG_MAX_BYTES"], config["LOG_BACKUPS"])]
        if logger is _SERVER:
            console = Console()
            console.setLevel(config["LOG_CONSOLE"])
            handlers.append(console)
        for handler in handlers:
            handler.setFormatter(formatter())
        _replace_handlers(logger, handlers)
    # What no line of ours shows, and what asking the green threads for it costs with every line.
    logging.logThreads = logging.logMultiprocessing = False
    # What libraries have to say goes the same way, redacted like the rest.
    logging.getLogger().setLevel("WARNING")
    # Its warnings repeat whole addresses, with what is in their paths and queries.
    logging.getLogger("urllib3").setLevel("ERROR")
    _replace_handlers(logging.getLogger(), list(_SERVER.handlers))


def _replace_handlers(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    for old in list(logger.handlers):
        logger.removeHandler(old)
        if isinstance(old, (LogFile, Console)):
            old.close()
    for handler in handlers:
        logger.addHandler(handler)


def custom_log(message: str, level: str = "INFO", **fields: Any) -> None:
    """Log an event of the server. `fields` become members of the line; sensitive ones are masked by name."""
    _emit(_SERVER, message, level, fields)


def log_request(fields: dict[str, Any]) -> None:
    """The one line a request; its fields are ours (no bodies, no headers), so they are not searched for names."""
    if _SERVER.isEnabledFor(logging.INFO):
        # As `info` does it, but for the search through the stack for who logs: it is this line.
        _SERVER.handle(_SERVER.makeRecord(_SERVER.name, logging.INFO, __file__, 0, "request", (), None, extra={_FIELDS: fields}))


def log_exception(message: str, error: BaseException, **fields: Any) -> None:
    """Log `error` with its traceback, redacted."""
    _SERVER.error(message, exc_info=error, extra={_FIELDS: redact(fields)})


def game_log(event: str, **fields: Any) -> None:
    """Log an event of the application's own world (credits granted, a room joined) to game_play.log."""
    _emit(_GAME, event, "INFO", fields)


def _emit(logger: logging.Logger, message: str, level: str, fields: dict[str, Any]) -> None:
    number = logging.getLevelNamesMapping()[level.upper()]
    if logger.isEnabledFor(number):
        logger.log(number, "%s", message, extra={_FIELDS: redact(fields)})


def log_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: each call's name, duration and outcome go to function.log (never its arguments: they may be secret)."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        outcome: dict[str, Any] = {"outcome": "returned"}
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            outcome = {"outcome": "raised", "error": type(error).__name__}
            raise
        finally:
            elapsed = round((time.perf_counter() - started) * 1000, 3)
            _emit(_FUNCTION, function.__qualname__, "INFO", {**outcome, "duration_ms": elapsed})

    return wrapper


def log_game_event(event: str, *arguments: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a successful call of the function is an event of that name in game_play.log.

    `arguments`: the names of those of its parameters whose values are fields of the event; ValueError for one it does not have.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        unknown = [name for name in arguments if name not in signature.parameters]
        if unknown:
            raise ValueError(f"{function.__qualname__} has no parameter {', '.join(unknown)}")

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            _emit(_GAME, event, "INFO", {name: given.arguments[name] for name in arguments})
            return result

        return wrapper

    return decorate
