"""More transfers than the engine can do: they arrive by the clock, whether or not those before them are answered (an open loop)."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence

from bench.our_engine import transfer_call
from bench.result import Result, summarize
from bench.scenarios import pairs
from core.modules.transactions_module.engine import PostingEngine
from tools.error_handling.errors import Unavailable

WARMUP = 2.0  # until the queue is full
REFUSED = "backpressure"


def overload(engine: PostingEngine, names: Sequence[str], rate: float, hands: int, seconds: float) -> Result:
    """Offer `rate` transfers a second; the Result counts those that were carried out, `extra` those that were refused.

    `hands`: threads that submit; more than the engine lets wait, or the loop would close. `extra["late"]` says whether they were enough.
    """
    offer = _Offer(rate, seconds)
    threads = [threading.Thread(target=offer.work, args=(engine, names, hand), daemon=True) for hand in range(hands)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return offer.result()


class _Offer:
    """The arrivals, one number after the other, and what became of each."""

    def __init__(self, rate: float, seconds: float) -> None:
        self._rate, self._seconds = rate, seconds
        self._started = time.perf_counter()
        self._begin = self._started + WARMUP
        self._end = self._begin + seconds
        self._arrivals = itertools.count()
        self._latencies: list[float] = []
        self._refused: list[float] = []
        self._without_hint = 0
        self._late = 0.0
        self._errors: Counter[str] = Counter()

    def work(self, engine: PostingEngine, names: Sequence[str], hand: int) -> None:
        """Take the next arrival, wait for its time, submit it; until time is up."""
        call = transfer_call(engine, pairs("uniform", names, hand))
        while (due := self._started + next(self._arrivals) / self._rate) < self._end:
            time.sleep(max(0.0, due - time.perf_counter()))
            self._late = max(self._late, time.perf_counter() - due)
            try:
                call()
            except Unavailable as refusal:
                self._note_refusal(refusal, due)
            except Exception as error:  # whatever it is, it makes the run void and is reported by name
                self._errors[type(error).__name__] += 1
            else:
                self._note(self._latencies, due)

    def _note_refusal(self, refusal: Unavailable, due: float) -> None:
        if refusal.code != REFUSED:
            self._errors[refusal.code] += 1
            return
        self._without_hint += "Retry-After" not in refusal.headers
        self._note(self._refused, due)

    def _note(self, latencies: list[float], due: float) -> None:
        """A latency counts from when the transfer was due."""
        now = time.perf_counter()
        if self._begin <= now <= self._end:
            latencies.append(now - due)

    def result(self) -> Result:
        extra: dict[str, float | str] = {
            "refused": len(self._refused),
            "refused_p99_ms": summarize(self._refused, self._seconds, {}, {}).p99_ms,
            "without_retry_after": self._without_hint,
            "late_ms": round(self._late * 1000, 1),
        }
        return summarize(self._latencies, self._seconds, dict(self._errors), extra)
