"""HooksManager: callbacks by event, in priority order; gates may refuse, notices are never felt by who triggers them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.contracts import Kind
from core.managers.base import Manager
from tools.logger.custom_logger import log_exception


@dataclass(frozen=True)
class _Registration:
    priority: int
    order: int
    callback: Callable[..., Any]
    context: str | None


BUILT_IN = {
    "before_request": Kind.GATE,
    "after_request": Kind.NOTICE,
    "session_revoked": Kind.NOTICE,
    "after_module_init": Kind.NOTICE,
    "before_module_dispose": Kind.NOTICE,
}


class HooksManager(Manager):
    """Registers and triggers hooks; an event must be declared before anyone may listen to it."""

    name = "hooks"

    def initialize(self) -> bool:
        self._lock = threading.Lock()
        self._kinds: dict[str, Kind] = dict(BUILT_IN)
        self._registered: dict[str, list[_Registration]] = {}
        self._order = 0
        self.initialized = True
        return True

    def declare_hook(self, name: str, kind: Kind = Kind.NOTICE) -> None:
        """Make `name` an event that callbacks can be registered for; raises ValueError when it exists as another kind."""
        with self._lock:
            if self._kinds.setdefault(name, kind) is not kind:
                raise ValueError(f"hook {name!r} is declared already, as a {self._kinds[name].value}")

    def register_hook(self, name: str, callback: Callable[..., Any], priority: int = 100, context: str | None = None) -> None:
        """Call `callback(data)` when `name` is triggered, lower `priority` first; with `context`, only for that context."""
        with self._lock:
            if name not in self._kinds:
                raise ValueError(f"hook {name!r} is not declared; declared are {', '.join(sorted(self._kinds))}")
            self._order += 1
            entries = [*self._registered.get(name, ()), _Registration(priority, self._order, callback, context)]
            self._registered[name] = sorted(entries, key=lambda entry: (entry.priority, entry.order))

    def unregister_hook(self, name: str, callback: Callable[..., Any]) -> None:
        """Take back all that `callback` is registered for under `name`."""
        with self._lock:
            self._registered[name] = [entry for entry in self._registered.get(name, ()) if entry.callback != callback]

    def withdraw_hook(self, name: str) -> None:
        """Take back a `declare_hook`, with all that listens to it."""
        with self._lock:
            self._kinds.pop(name, None)
            self._registered.pop(name, None)

    def trigger(self, name: str, data: Any = None, context: str | None = None) -> list[Any]:
        """Run the callbacks of `name` in order; what they returned. A gate's exception reaches the caller."""
        if name not in self._kinds:
            raise ValueError(f"hook {name!r} is not declared")
        matching = [e for e in self._registered.get(name, ()) if e.context is None or e.context == context]
        if self._kinds[name] is Kind.GATE:
            return [entry.callback(data) for entry in matching]
        return [self._notify(name, entry.callback, data) for entry in matching]

    def has_callbacks(self, name: str) -> bool:
        """Whether anyone listens to `name`; lets a hot path skip building the payload."""
        return bool(self._registered.get(name))

    def check(self) -> tuple[str, dict[str, Any]]:
        return "healthy", {"declared": len(self._kinds), "registered": sum(map(len, self._registered.values()))}

    def dispose(self) -> None:
        self._registered = {}
        self.initialized = False

    def _notify(self, name: str, callback: Callable[..., Any], data: Any) -> Any:
        try:
            return callback(data)
        except Exception as error:  # noqa: BLE001  whatever a listener does wrong, the event has happened
            log_exception("a hook's callback failed", error, hook=name)
            return None
