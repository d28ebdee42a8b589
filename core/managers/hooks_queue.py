"""The queue of the asynchronous notices: bounded, in order, on one thread (a green one where the process is patched)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class NoticeQueue:
    """Runs jobs one after the other, beside those who put them. A job must not raise."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._busy = False
        self._ended = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job, limit: int) -> bool:
        """Have `job` run soon; False when `limit` others wait already, or when the queue has ended. Never waits."""
        with self._changed:
            if self._ended or len(self._jobs) >= limit:
                return False
            self._jobs.append(job)
            if self._thread is None:
                # Only now: most processes never need it.
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def drain(self, seconds: float) -> bool:
        """Wait until all jobs have run, at most `seconds`; whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, seconds)

    def stop(self, seconds: float) -> int:
        """Drain, and end the thread; how many jobs are lost because there was no time for them. Safe to call twice."""
        self.drain(seconds)
        with self._changed:
            self._ended = True
            lost = len(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        return lost

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._ended)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
                self._busy = True
            try:
                job()
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
