"""Commands of the application that MongoDB fails on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database


@contextmanager
def fail_point(root: Database[dict[str, Any]], mode: Any, **data: Any) -> Iterator[Callable[[], int]]:
    """Commands of the application that fail as `data` says; the yielded call ends it and says how often it did."""
    configure = {"configureFailPoint": "failCommand"}

    def stop() -> int:
        count: int = root.command({**configure, "mode": "off"})["count"]
        return count

    before = root.command({**configure, "mode": "off"})["count"]
    root.command({**configure, "mode": mode, "data": {**data, "appName": "credit-system-read_write"}})
    try:
        yield lambda: stop() - before
    finally:
        stop()
