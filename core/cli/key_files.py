"""A key ring in its secret file: one key a line, newest first; changed as a whole or not at all."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.keys import ring_lines


class KeyFile:
    """The file of one ring. OSError when it cannot be read or replaced, ValueError when it holds no key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        """The keys, newest first."""
        return ring_lines(self.path.read_text(encoding="utf-8"))

    def age(self) -> float:
        """Seconds since the file was changed."""
        return max(0.0, time.time() - self.path.stat().st_mtime)

    def change(self, change: Callable[[list[str]], list[str]]) -> None:
        """Replace the lines by what `change` makes of them; owner and mode stay."""
        with self._locked():
            lines = change(self.lines())
            was = self.path.stat()
            # Written aside and renamed: an interrupt never leaves half a ring under its name.
            aside = self.path.with_name(f".{self.path.name}.new")
            aside.unlink(missing_ok=True)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fchmod(file.fileno(), was.st_mode & 0o777)
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fsync(file.fileno())
            aside.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two operators, one after the other."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
