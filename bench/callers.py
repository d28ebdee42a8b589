"""The closed loop of an in-process bench: callers that each do one call after the other until time is up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.result import Result, summarize

Call = Callable[[], object]


@dataclass
class _Tally:
    """One caller's notes; only that caller writes them, so no lock is needed."""

    latencies: list[float] = field(default_factory=list)
    error: str | None = None
    sample: str = ""


def drive(calls: Sequence[Call], seconds: float, warmup: float = 1.0) -> Result:
    """Run one caller (a thread, or a greenlet where threading is patched) for each of `calls`, all in parallel.

    Calls that end within `seconds` after `warmup` count; what is in flight at the end is waited for, not counted.
    """
    begin = time.perf_counter() + warmup
    end = begin + seconds
    tallies = [_Tally() for _ in calls]
    threads = [
        threading.Thread(target=_loop, args=(call, tally, begin, end), daemon=True) for call, tally in zip(calls, tallies, strict=True)
    ]
    for thread in threads:
        thread.start()
    cpu = _cpu_within(begin, end)
    for thread in threads:
        thread.join()
    return _summary(tallies, seconds, cpu)


def _loop(call: Call, tally: _Tally, begin: float, end: float) -> None:
    """Call until `end`; stop at the first error, since a run with errors is void."""
    now = time.perf_counter
    started = now()
    while started < end:
        try:
            call()
        except Exception as error:  # whatever it is, it makes the run void and is reported by name
            tally.error, tally.sample = type(error).__name__, str(error)[:300]
            return
        finished = now()
        if begin <= finished <= end:
            tally.latencies.append(finished - started)
        started = finished


def _cpu_within(begin: float, end: float) -> float:
    """Sleep through the window; return the CPU seconds this process used in it."""
    time.sleep(max(0.0, begin - time.perf_counter()))
    cpu_before = time.process_time()
    time.sleep(max(0.0, end - time.perf_counter()))
    return time.process_time() - cpu_before


def _summary(tallies: Sequence[_Tally], seconds: float, cpu: float) -> Result:
    latencies = [latency for tally in tallies for latency in tally.latencies]
    errors = Counter(tally.error for tally in tallies if tally.error)
    extra: dict[str, float | str] = {"cpu_us": round(cpu / max(1, len(latencies)) * 1e6, 1)}
    if errors:
        extra["sample"] = next(tally.sample for tally in tallies if tally.error)
    return summarize(latencies, seconds, dict(errors), extra)
