"""Several workers on one hot wallet against one worker with as many callers: they must not hinder each other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from bench.comparison import Comparison, Effort, interleave
from bench.loader import GROUP, load
from bench.ours import OursProcess
from bench.result import Result

COUNTS = (2, 4)
TARGET = 1.0
BOOT_SECONDS = 5.0  # in which every worker is there


def compare_workers(environ: Mapping[str, str], effort: Effort) -> Iterator[Comparison]:
    """One comparison for each number of workers; `theirs` is one worker."""
    load(environ["BENCH_MONGODB_URI"], environ["MONGODB_DATABASE"], GROUP)
    for count in COUNTS:
        name = f"engine: {count} workers on one hot wallet against 1"
        yield interleave(name, TARGET, partial(_run, count, environ, effort), partial(_run, 1, environ, effort), effort)


def _run(workers: int, environ: Mapping[str, str], effort: Effort) -> Result:
    """`effort.callers` callers, spread over `workers` processes that start together."""
    each, start = effort.callers // workers, time.time() + BOOT_SECONDS
    processes = [
        OursProcess("transfers", environ, seconds=effort.seconds, scenario="hot", callers=each, first_caller=number * each, start=start)
        for number in range(workers)
    ]
    return _together([process.result() for process in processes])


def _together(results: Sequence[Result]) -> Result:
    """All that was done; of the percentiles, those of the worst worker."""
    errors: Counter[str] = Counter()
    for result in results:
        errors.update(result.errors)
    p50, p95, p99 = (max(getattr(result, name) for result in results) for name in ("p50_ms", "p95_ms", "p99_ms"))
    samples = [result.extra["sample"] for result in results if "sample" in result.extra]
    each: dict[str, float | str] = {f"worker_{number}": result.count for number, result in enumerate(results, 1)}
    extra = {**each, **({"sample": samples[0]} if samples else {})}
    return Result(sum(result.count for result in results), results[0].seconds, p50, p95, p99, dict(errors), extra)
