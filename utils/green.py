"""The concurrency mode of this process: patching it, and running what blocks on a native thread."""

from __future__ import annotations

import os
import select
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

# Taken before anything is patched: for checks that do not wait, and so need no event loop; and for native threads.
native_poll = select.poll
native_getaddrinfo = socket.getaddrinfo
_END_SECONDS = 1.0


def patch(mode: str) -> None:
    """Make the standard library cooperative for `mode`; must run before anything else is imported."""
    if mode == "eventlet":
        # greendns replaces the resolver and breaks the driver's SRV look-ups.
        os.environ["EVENTLET_NO_GREENDNS"] = "yes"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deprecation notice of a package that we pin on purpose
            import eventlet
            import eventlet.tpool
        eventlet.monkey_patch()
    elif mode == "gevent":
        from gevent import monkey

        monkey.patch_all()


def current_mode() -> str:
    """Which mode this process was patched for; `threading` when it was not patched."""
    eventlet_patcher = sys.modules.get("eventlet.patcher")
    if eventlet_patcher is not None and eventlet_patcher.is_monkey_patched("socket"):
        return "eventlet"
    gevent_monkey = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None and gevent_monkey.is_module_patched("socket"):
        return "gevent"
    return "threading"


class TimeLimitReached(Exception):
    """The block took too long. No OSError, which libraries would take for a broken connection."""


def time_limit(seconds: float) -> AbstractContextManager[Any]:
    """TimeLimitReached inside the block when it waits for longer; without green threads the servers' own limits hold."""
    mode = current_mode()
    if mode in ("eventlet", "gevent"):
        limit: AbstractContextManager[Any] = sys.modules[mode].Timeout(seconds, TimeLimitReached())
        return limit
    return nullcontext()


def run_native(function: Callable[..., Any], *args: Any) -> Any:
    """Run CPU-bound `function` on a native thread, so that the other greenlets of this worker go on meanwhile."""
    mode = current_mode()
    if mode == "eventlet":
        return sys.modules["eventlet"].tpool.execute(function, *args)
    if mode == "gevent":
        return sys.modules["gevent"].get_hub().threadpool.apply(function, args)
    return function(*args)


def end_native() -> None:
    """End the native threads that `run_native` has used; the next call makes new ones."""
    mode = current_mode()
    if mode == "eventlet":
        sys.modules["eventlet"].tpool.killall()
    elif mode == "gevent":
        # Names are looked up on these threads too, which may take for ever.
        with suppress(TimeLimitReached), time_limit(_END_SECONDS):
            sys.modules["gevent"].get_hub().threadpool.kill()
