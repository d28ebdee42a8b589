"""gunicorn's gevent worker, with the same end as the eventlet one: goodbye, requests in flight, managers disposed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker as _GeventWorker

from core.web.drain import DrainMixin
from utils import green

_TICK_SECONDS = 0.25


class GeventWorker(DrainMixin, _GeventWorker):
    """Serves every connection in a greenlet of its own."""

    def patch(self) -> None:
        # What `green` keeps of the standard library is from before.
        assert green.current_mode() == "threading"
        super().patch()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # What the boot has made stays: a collection need not look at it each time that a crowd comes or is told something.
        gc.collect()
        gc.freeze()
        self.application = self.wsgi

    def run(self) -> None:
        watcher = gevent.spawn(self._watch)
        super().run()
        watcher.kill()
        self.dispose()

    def _watch(self) -> None:
        """When the stop comes, keep closing what is idle until the base class sees that nothing runs any more."""
        while self.alive:
            gevent.sleep(_TICK_SECONDS)
        while True:
            self.drain()
            gevent.sleep(_TICK_SECONDS)

    def _current(self) -> Any:
        return gevent.getcurrent()

    def _in_hub(self, function: Callable[[Any], None], argument: Any) -> None:
        gevent.get_hub().loop.run_callback(function, argument)
