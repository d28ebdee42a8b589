"""A log file that several processes append to, and that the first of them to find it too large rotates."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.logger.repeat_limit import RepeatLimit

_MODE = 0o640
_COMPLAINT_SECONDS = 60.0


class _Handler(logging.Handler):
    """A handler that limits what repeats, and whose own failures neither reach the caller nor show what was to be logged."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = RepeatLimit(self.handle)
        self._lost = 0
        self._complain_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        return self._limit.passes(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record) + "\n")
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  no event is worth a request
            self.handleError(record)

    def write(self, line: str) -> None:
        """Put a whole line where it belongs."""
        raise NotImplementedError

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is logging's
        """One line a minute on the console. What logging itself would print there is the unredacted event."""
        self._lost += 1
        if time.monotonic() < self._complain_at:
            return
        self._complain_at = time.monotonic() + _COMPLAINT_SECONDS
        error = sys.exc_info()[0]
        with suppress(Exception):
            sys.stderr.write(f"a log cannot be written ({error.__name__ if error else 'unknown'}); lines lost: {self._lost}\n")

    def close(self) -> None:
        self._limit.tell()
        super().close()


class Console(_Handler):
    """The standard error of the process."""

    def write(self, line: str) -> None:
        sys.stderr.write(line)
        sys.stderr.flush()


class LogFile(_Handler):
    """Appends each line with one write; follows the file when somebody else rotates it.

    `max_bytes`: rotate at that size (0: never) to `name.1` and so on, of which `backups` are kept. A line is never lost or
    written twice by it: who still holds the renamed file appends to that one.
    """

    def __init__(self, path: Path, max_bytes: int = 0, backups: int = 1) -> None:
        super().__init__()
        self._path = os.path.abspath(path)
        self._max_bytes = max_bytes
        self._backups = backups
        self._fd = -1
        self._identity = (-1, -1)
        self._torn = False
        self._open()

    def write(self, line: str) -> None:
        self._follow()
        # On a disk that was full half a line may stand there.
        text = ("\n" + line if self._torn else line).encode("utf-8", "backslashreplace")
        written = os.write(self._fd, text)
        self._torn = 0 < written < len(text)
        if written < len(text):
            raise OSError("the line was cut off")

    def close(self) -> None:
        super().close()
        self.acquire()
        try:
            self._release()
        finally:
            self.release()

    def _follow(self) -> None:
        """Open the file that has the name now, after rotating it where it is time."""
        try:
            now: Any = os.stat(self._path)
        except FileNotFoundError:
            now = None
        if now is not None and self._max_bytes and now.st_size >= self._max_bytes and self._rotate():
            now = None
        if now is None or (now.st_dev, now.st_ino) != self._identity:
            self._open()

    def _open(self) -> None:
        self._release()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        opened = os.fstat(self._fd)
        self._identity = (opened.st_dev, opened.st_ino)
        if stat.S_IMODE(opened.st_mode) & ~_MODE:
            with suppress(PermissionError):  # somebody else's file
                os.fchmod(self._fd, stat.S_IMODE(opened.st_mode) & _MODE)

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        self._identity = (-1, -1)
        if fd >= 0:
            os.close(fd)

    def _rotate(self) -> bool:
        """Whether it was rotated just now; not while another process is at it, nor after that one was."""
        directory = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(self._path).st_size < self._max_bytes:
                return False
            for number in range(self._backups - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.replace(self._path, f"{self._path}.1")
            return True
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(directory)
