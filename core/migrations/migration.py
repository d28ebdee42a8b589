"""What a migration is: a change to stored documents, in batches, that may be interrupted and run again."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Migration:
    """One file each, named like its `id`, in the order of the ids; changed no more once it was released.

    `pending` counts the documents that it would change. `up` changes them in batches and calls its `progress` with the
    size of each: whatever that raises ends it between two batches. The application goes on working meanwhile.
    """

    id: str
    doc: str
    pending: Callable[[DatabaseManager], int]
    up: Callable[[DatabaseManager, Progress], None]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the file that it lies in: what was applied is not what it is now, when this differs."""
        return hashlib.sha256(Path(inspect.getfile(self.up)).read_bytes()).hexdigest()
