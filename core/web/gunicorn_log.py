"""gunicorn's own log, without what clients sent: neither why their request was invalid nor which address it was for."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from tools.logger.custom_logger import traceback_of
from tools.logger.redaction import redact_text

_INVALID = "Invalid request from ip="


class _Redacted(logging.Formatter):
    """gunicorn's format, masked like our own lines."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is logging's
        return traceback_of(ei[1])


class GunicornLog(Logger):
    """What gunicorn logs with; named in gunicorn.conf.py."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(_Redacted(self.error_fmt, self.datefmt))

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # After the address comes the line or the header that cannot be read.
        super().warning(msg.partition(": ")[0] if msg.startswith(_INVALID) else msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # The arguments are the method and the address, with its query.
        super().exception(msg.partition(" %s")[0], **kwargs)
