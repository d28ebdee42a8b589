"""Twice the load that the engine can bear: what it does then, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.comparison import Effort
from bench.loader import GROUP, load
from bench.ours import measure
from bench.result import BenchBroken, Result

PEAK_CALLERS = (64, 256, 512)  # the peak is the best of these
FACTOR = 2.0
TARGET = 0.9
QUEUE_MAX = 512
HANDS = 2048  # more than can wait


@dataclass(frozen=True)
class Overload:
    """Rounds of (peak, at twice its rate)."""

    rounds: list[tuple[Result, Result]]

    @property
    def ratio(self) -> float:
        """Median of each round's goodput against its peak."""
        return median(loaded.rate / peak.rate for peak, loaded in self.rounds)

    @property
    def met(self) -> bool:
        return self.ratio >= TARGET

    def row(self) -> list[str]:
        """The cells of the printed table."""
        peak, loaded = (median(result.rate for result in results) for results in zip(*self.rounds, strict=True))
        cells = [f"engine: goodput at {FACTOR:g}x the peak against the peak", f"{loaded:,.0f}/s", f"{peak:,.0f}/s", f"{self.ratio:.2f}x"]
        return [*cells, f">= {TARGET:g}x", "yes" if self.met else "NO"]

    def as_dict(self) -> dict[str, Any]:
        """Everything measured, for results.json."""
        rounds = [{"peak": asdict(peak), "loaded": asdict(loaded)} for peak, loaded in self.rounds]
        return {"name": "goodput under overload", "unit": "1/s", "ratio": self.ratio, "target": TARGET, "met": self.met, "rounds": rounds}


def measure_overload(environ: Mapping[str, str], effort: Effort) -> Iterator[Overload]:
    """Find the peak, offer twice as much, and look at what came of it."""
    load(environ["BENCH_MONGODB_URI"], environ["MONGODB_DATABASE"], GROUP)
    own = {**environ, "LEDGER_QUEUE_MAX": str(QUEUE_MAX)}
    yield Overload([_round(own, effort, number) for number in range(1, effort.rounds + 1)])


def _round(environ: Mapping[str, str], effort: Effort, number: int) -> tuple[Result, Result]:
    tried = [measure("transfers", environ, seconds=effort.seconds, callers=callers, wallets=GROUP) for callers in PEAK_CALLERS]
    peak = max((result.require_clean("peak") for result in tried), key=lambda result: result.rate)
    loaded = measure("overload", environ, seconds=effort.seconds, callers=HANDS, wallets=GROUP, rate=FACTOR * peak.rate)
    print(f"  overload, round {number}: peak {peak.rate:,.0f}/s, then {loaded.rate:,.0f}/s done, {_told(loaded)}", flush=True)
    return peak, _require_refusals(loaded.require_clean("overload"))


def _told(loaded: Result) -> str:
    refused = float(loaded.extra["refused"]) / loaded.seconds
    return f"{refused:,.0f}/s refused in {loaded.extra['refused_p99_ms']} ms (p99), late by {loaded.extra['late_ms']} ms"


def _require_refusals(loaded: Result) -> Result:
    """What could not be done must have been refused, each time with a hint when to come back."""
    if not loaded.extra["refused"] or loaded.extra["without_retry_after"]:
        raise BenchBroken(f"overload: {loaded.extra}")
    return loaded
