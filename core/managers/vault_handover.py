"""A log-in that gunicorn's processes share: one-use secret ids can be used once, and every worker needs a token."""

from __future__ import annotations

import json
import os
from contextlib import suppress

NAME = "vault-handover"
_SIZE = 8192


class VaultHandover:
    """The latest token and an unwrapped secret id, in memory behind a file descriptor (a memfd that gunicorn.conf.py makes).

    Nothing of it is on a disk, in an environment or in a command line, and it is gone with the last of the processes.
    """

    def __init__(self, descriptor: int) -> None:
        """`descriptor` 0, or one that is something else in this process: there is nobody to share with."""
        self._descriptor = descriptor if _is_memory(descriptor) else 0

    @property
    def shared(self) -> bool:
        return self._descriptor > 0

    def read(self) -> dict[str, str]:
        """What was written last; empty when nothing was."""
        if not self.shared:
            return {}
        try:
            values: dict[str, str] = json.loads(os.pread(self._descriptor, _SIZE, 0) or b"{}")
        except (OSError, ValueError):
            return {}
        return values

    def write(self, **values: str) -> None:
        """In one call of one size, so that nobody reads half of it."""
        if self.shared:
            os.pwrite(self._descriptor, json.dumps(values).encode().ljust(_SIZE), 0)


def _is_memory(descriptor: int) -> bool:
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"/memfd:{NAME}")
    return False
