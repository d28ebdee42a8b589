"""Undoing in reverse: everyone is told, and one that fails does not keep the others open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.logger.custom_logger import log_exception


def dispose_in_reverse(started: Mapping[str, Any], kind: str) -> None:
    """Call `dispose` of each of `started` (in the order of their start) that has one, the last first."""
    for name, instance in reversed(list(started.items())):
        if not hasattr(instance, "dispose"):
            continue
        try:
            instance.dispose()
        except Exception as error:  # noqa: BLE001  whatever goes wrong here, the others still have to stop
            log_exception(f"a {kind} failed to dispose", error, **{kind: name})
