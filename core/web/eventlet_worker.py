"""The eventlet worker of gunicorn, which dropped its own in version 26: a green accept loop on its AsyncWorker base."""

from __future__ import annotations

import errno
import gc
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers.base_async import AsyncWorker

from core.web.drain import DrainMixin
from utils import green

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the deprecation notice of a package that we pin on purpose
    import eventlet
    from eventlet import hubs, wsgi
    from eventlet.greenio import GreenSocket
    from eventlet.greenio.base import socket_accept
    from eventlet.greenpool import GreenPool

_TICK_SECONDS = 0.25


class _TimeoutBase(AsyncWorker):
    """AsyncWorker with eventlet's time-out."""

    def timeout_ctx(self) -> Any:
        return eventlet.Timeout(self.cfg.keepalive, False)


class EventletWorker(DrainMixin, _TimeoutBase):
    """Patches the process, then serves every connection in a greenlet of its own."""

    def init_process(self) -> None:
        # A fork must not share its parent's hub.
        hubs.use_hub()
        green.patch("eventlet")
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # What the boot has made stays: a collection need not look at it each time that a crowd comes or is told something.
        gc.collect()
        gc.freeze()
        self.application: Any = self.wsgi  # type: ignore[has-type]
        self.wsgi = partial(_with_socket, self.application)

    def run(self) -> None:
        pool = GreenPool(self.worker_connections)
        listeners = [_green(listener) for listener in self.sockets]
        acceptors = [eventlet.spawn(self._accept, listener, pool) for listener in listeners]
        while self.alive:
            self.notify()
            eventlet.sleep(_TICK_SECONDS)
        for acceptor in acceptors:
            acceptor.kill()
        for listener in listeners:
            self._accept_waiting(listener, pool)
        # Those that came just now ask their listener for its name first.
        eventlet.sleep(0)
        for listener in listeners:
            listener.close()
        self._finish(pool)

    def notify(self) -> None:
        super().notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            sys.exit(0)

    def is_already_handled(self, respiter: Any) -> bool:
        # A WebSocket has spoken on the connection itself: nothing is to be written, and it ends here.
        if getattr(wsgi.WSGI_LOCAL, "already_handled", False):
            raise StopIteration
        return bool(super().is_already_handled(respiter))

    def handle_quit(self, sig: int, frame: Any) -> None:
        # What follows may block, which a signal handler must not.
        eventlet.spawn(super().handle_quit, sig, frame)

    def handle_usr1(self, sig: int, frame: Any) -> None:
        eventlet.spawn(super().handle_usr1, sig, frame)

    def _accept(self, listener: GreenSocket, pool: GreenPool) -> None:
        while True:
            try:
                client, address = listener.accept()
            except OSError as error:
                # Out of file descriptors, or a client that left again: a worker must not stop listening for that.
                self.log.warning("cannot accept a connection: %s", type(error).__name__)
                eventlet.sleep(_TICK_SECONDS)
                continue
            pool.spawn(self.handle, listener, client, address)
            # accept() does not yield while connections wait: leave some of a burst to the other workers.
            eventlet.sleep(0)

    def _accept_waiting(self, listener: GreenSocket, pool: GreenPool) -> None:
        """At a stop: whoever is in the kernel's queue already would be cut off by the close that follows."""
        with suppress(OSError):
            while (accepted := socket_accept(listener.fd)) is not None:
                client, address = accepted
                pool.spawn(self.handle, listener, GreenSocket(client), address)

    def _finish(self, pool: GreenPool) -> None:
        """Let what runs finish, for the graceful time-out at the most."""
        with eventlet.Timeout(self.cfg.graceful_timeout, False):
            while pool.running():
                self.drain()
                self.notify()
                eventlet.sleep(_TICK_SECONDS)
        self.dispose()

    def _current(self) -> Any:
        return eventlet.getcurrent()

    def _in_hub(self, function: Callable[[Any], None], argument: Any) -> None:
        hubs.get_hub().schedule_call_global(0, function, argument)


class _WebSocketConnection(GreenSocket):
    """Its close wakes up whoever still reads from it, and may come twice: Socket.IO writes, reads and closes in different greenlets."""

    def __init__(self, connection: GreenSocket) -> None:
        super().__init__(connection.fd)
        # The base class keeps its methods in attributes of the instance.
        self.close = self._close
        self.shutdown = self._shutdown

    def _close(self) -> None:
        if self.fileno() >= 0:
            # What eventlet says of a number that is used anew: those who wait for what it was before wait in vain.
            hubs.notify_opened(self.fileno())
        self.fd.close()

    def _shutdown(self, how: int) -> None:
        if self.fileno() < 0:
            raise OSError(errno.ENOTCONN, "the connection is closed already")
        self.fd.shutdown(how)


def _with_socket(application: Any, environ: dict[str, Any], start_response: Any) -> Any:
    if "HTTP_UPGRADE" in environ:
        # Where Socket.IO looks for it under gunicorn.
        environ["gunicorn.socket"] = _WebSocketConnection(environ["gunicorn.socket"])
    return application(environ, start_response)


def _green(listener: Any) -> GreenSocket:
    """gunicorn's listener (made before the patch) as a green socket."""
    listener.sock.setblocking(False)
    return GreenSocket(listener.sock)
