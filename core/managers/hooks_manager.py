"""HooksManager: callbacks by event, in priority order; gates may refuse, notices are never felt by who triggers them."""

from __future__ import annotations

import difflib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from core import context as request_context
from core import metrics
from core.contracts import Kind, RequestFields
from core.managers.base import Manager
from core.managers.hooks_payload import Checker, payload_checker, payload_name
from core.managers.hooks_queue import NoticeQueue
from core.web.routing import Principal
from tools.logger.custom_logger import custom_log, log_exception
from utils import deadline

_NAME = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)?")
_DRAIN_SECONDS = 3.0
# A full queue says so at most this often.
_DROP_LOG_SECONDS = 30.0


@dataclass(frozen=True)
class Hook:
    """A declared event: what its callbacks get (`payload`: a type, None: anything), and how they are called."""

    name: str
    kind: Kind
    doc: str = ""
    payload: Any = None
    asynchronous: bool = False
    check: Checker = field(default=lambda data: None, repr=False, compare=False)


@dataclass(frozen=True)
class _Registration:
    priority: int
    order: int
    callback: Callable[..., Any]
    context: str | None


BUILT_IN = (
    Hook("before_request", Kind.GATE, "A route is about to run; context: its path.", Principal | None),
    Hook("after_request", Kind.NOTICE, "A request was answered; context: the path of its route.", RequestFields),
    Hook("session_revoked", Kind.NOTICE, "Sessions have ended; their ids.", list[str]),
    Hook("after_module_init", Kind.NOTICE, "A module has started; data and context: its key.", str),
    Hook("before_module_dispose", Kind.NOTICE, "A module is about to stop; data and context: its key.", str),
    Hook("after_boot", Kind.NOTICE, "Everything has started."),
    Hook("before_stop", Kind.NOTICE, "The application is about to stop."),
)


class HooksManager(Manager):
    """Registers and triggers hooks; an event must be declared before anyone may listen to it."""

    name = "hooks"

    def initialize(self) -> bool:
        self._lock = threading.Lock()
        self._hooks: dict[str, Hook] = {}
        self._registered: dict[str, list[_Registration]] = {}
        self._order = 0
        self._failed = self._dropped = 0
        self._drop_logged_at = float("-inf")
        self._notices = NoticeQueue("hook-notices")
        for hook in BUILT_IN:
            self.declare_hook(hook.name, hook.kind, hook.payload, doc=hook.doc)
        self.initialized = True
        return True

    def declare_hook(self, name: str, kind: Kind = Kind.NOTICE, payload: Any = None, *, asynchronous: bool = False, doc: str = "") -> None:
        """Make `name` an event that callbacks can be registered for; a plugin's own are called `{plugin}.{event}`.

        `payload`: the type of its data, checked at each trigger (None: anything). `asynchronous`: the callbacks of a notice run
        later, on a thread of their own, in the order of the triggers. Whoever listens may declare the event too, with or
        without the payload; raises ValueError when it exists in another form, TypeError for a payload that cannot be checked.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"hook {name!r}: use lower case, such as `order_paid` or `my_plugin.order_paid`")
        if asynchronous and kind is Kind.GATE:
            raise ValueError(f"hook {name!r}: a gate cannot be asynchronous, since it must be able to refuse")
        hook = Hook(name, kind, doc, payload, asynchronous, payload_checker(name, payload))
        with self._lock:
            self._hooks[name] = _merged(self._hooks[name], hook) if name in self._hooks else hook

    def register_hook(self, name: str, callback: Callable[..., Any], priority: int = 100, context: str | None = None) -> None:
        """Call `callback(data)` when `name` is triggered, lower `priority` first; with `context`, only for that context."""
        with self._lock:
            self._hook(name)
            self._order += 1
            entries = [*self._registered.get(name, ()), _Registration(priority, self._order, callback, context)]
            self._registered[name] = sorted(entries, key=lambda entry: (entry.priority, entry.order))

    def unregister_hook(self, name: str, callback: Callable[..., Any]) -> None:
        """Never call `callback` for `name` again, in whatever context it was registered; queued notices pass it by too."""
        with self._lock:
            self._registered[name] = [entry for entry in self._registered.get(name, ()) if entry.callback != callback]

    def withdraw_hook(self, name: str) -> None:
        """Take back a `declare_hook`, with all that listens to it."""
        with self._lock:
            self._hooks.pop(name, None)
            self._registered.pop(name, None)

    def trigger(self, name: str, data: Any = None, context: str | None = None) -> list[Any]:
        """Run the callbacks of `name` in order; what they returned (of an asynchronous notice: nothing).

        A gate's exception reaches the caller and ends it, a notice's is logged and counted. Data of the wrong type is a
        TypeError here. Data of an asynchronous notice must not be changed afterwards.
        """
        hook = self._hook(name)
        hook.check(data)
        if hook.asynchronous:
            self._enqueue(hook, data, context)
            return []
        if hook.kind is Kind.GATE:
            return [entry.callback(data) for entry in self._matching(name, context)]
        return self._notify_all(name, data, context)

    def has_callbacks(self, name: str) -> bool:
        """Whether anyone listens to `name`; lets a hot path skip building the payload."""
        return bool(self._registered.get(name))

    def hooks(self) -> list[tuple[Hook, int]]:
        """Every declared hook, by name, and how many callbacks it has."""
        return [(hook, len(self._registered.get(name, ()))) for name, hook in sorted(self._hooks.items())]

    def announce_stop(self) -> None:
        """Tell those who want to know that everything is about to stop, and give queued notices a while to be heard."""
        self.trigger("before_stop")
        self._notices.drain(_DRAIN_SECONDS)

    def check(self) -> tuple[str, dict[str, Any]]:
        figures = {"queued": len(self._notices), "dropped": self._dropped, "failed": self._failed}
        return "healthy", {"declared": len(self._hooks), "registered": sum(map(len, self._registered.values())), **figures}

    def dispose(self) -> None:
        if self.initialized:
            lost = self._notices.stop(_DRAIN_SECONDS)
            if lost:
                custom_log("notices were lost at the stop", level="ERROR", notices=lost)
            self._registered = {}
        self.initialized = False

    def _hook(self, name: str) -> Hook:
        hook = self._hooks.get(name)
        if hook is None:
            close = difflib.get_close_matches(name, self._hooks, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"hook {name!r} is not declared{hint}; declared are {', '.join(sorted(self._hooks))}")
        return hook

    def _matching(self, name: str, context: str | None) -> list[_Registration]:
        return [entry for entry in self._registered.get(name, ()) if entry.context is None or entry.context == context]

    # Notices

    def _notify_all(self, name: str, data: Any, context: str | None) -> list[Any]:
        return [self._notify(name, entry.callback, data) for entry in self._matching(name, context)]

    def _notify(self, name: str, callback: Callable[..., Any], data: Any) -> Any:
        try:
            return callback(data)
        except Exception as error:  # noqa: BLE001  whatever a listener does wrong, the event has happened
            with self._lock:
                self._failed += 1
            metrics.HOOK_FAILURES.labels(name).inc()
            log_exception("a hook's callback failed", error, hook=name)
            return None

    def _enqueue(self, hook: Hook, data: Any, context: str | None) -> None:
        if not self._matching(hook.name, context):
            return
        config = self.app_manager.config
        request_id, actor_id = request_context.request_id.get(), request_context.actor_id.get()

        def job() -> None:
            # Of the request only who asked is carried over: its deadline and what Flask knows of it end with it.
            request_context.request_id.set(request_id)
            request_context.actor_id.set(actor_id)
            deadline.start(config["REQUEST_TIMEOUT"])
            self._notify_all(hook.name, data, context)

        if not self._notices.put(job, config["HOOK_QUEUE_MAX"]):
            self._count_drop(hook.name)

    def _count_drop(self, name: str) -> None:
        with self._lock:
            self._dropped += 1
        metrics.HOOK_DROPS.labels(name).inc()
        if time.monotonic() - self._drop_logged_at >= _DROP_LOG_SECONDS:
            self._drop_logged_at = time.monotonic()
            custom_log("the queue of notices is full", level="ERROR", hook=name, dropped=self._dropped)


def _merged(known: Hook, again: Hook) -> Hook:
    """Two declarations of one hook as one; ValueError when they contradict each other."""
    if (known.kind, known.asynchronous) != (again.kind, again.asynchronous):
        manner = "an asynchronous notice" if known.asynchronous else f"a {known.kind.value}"
        raise ValueError(f"hook {known.name!r} is declared already, as {manner}")
    if known.payload is None:
        return replace(again, doc=known.doc or again.doc)
    if again.payload not in (None, known.payload):
        raise ValueError(f"hook {known.name!r} is declared already, with {payload_name(known.payload)} as its data")
    return replace(known, doc=known.doc or again.doc)
