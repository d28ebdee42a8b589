"""Pairs of runs, interleaved in time: what the machine does meanwhile hits both sides alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.result import Result

Run = Callable[[], Result]


@dataclass(frozen=True)
class Effort:
    """How long and how wide a bench measures; `quick` says that the numbers are a smoke test."""

    rounds: int = 5
    seconds: float = 3.0
    pause: float = 1.0  # between two runs: leftovers of one side are not billed to the other
    callers: int = 64
    wallets: int = 1000
    quick: bool = False


QUICK = Effort(rounds=2, seconds=1.5, pause=0.5, wallets=200, quick=True)


@dataclass(frozen=True)
class Comparison:
    """Rounds of (ours, theirs) of one scenario; the target is the least ratio of their rates."""

    name: str
    target: float
    rounds: list[tuple[Result, Result]]

    @property
    def ours(self) -> float:
        """Median rate of our side, calls a second."""
        return median(ours.rate for ours, _ in self.rounds)

    @property
    def theirs(self) -> float:
        """Median rate of the other side, calls a second."""
        return median(theirs.rate for _, theirs in self.rounds)

    @property
    def ratio(self) -> float:
        """Median of each round's own ratio: slow rounds are slow for both."""
        return median(ours.rate / theirs.rate for ours, theirs in self.rounds)

    @property
    def met(self) -> bool:
        return self.ratio >= self.target

    def row(self) -> list[str]:
        """The cells of the printed table."""
        rates = [f"{self.ours:,.0f}/s", f"{self.theirs:,.0f}/s", f"{self.ratio:.2f}x"]
        return [self.name, *rates, f">= {self.target:g}x", "yes" if self.met else "NO"]

    def as_dict(self) -> dict[str, Any]:
        """Everything measured, for results.json."""
        rounds = [{"ours": _with_rate(ours), "theirs": _with_rate(theirs)} for ours, theirs in self.rounds]
        summary = {"ours": self.ours, "theirs": self.theirs, "ratio": self.ratio, "target": self.target}
        return {"name": self.name, "unit": "1/s", **summary, "met": self.met, "rounds": rounds}


@dataclass(frozen=True)
class Tail:
    """The slowest calls of the same rounds: the target is the largest share of the other side's p99 that ours may take."""

    comparison: Comparison
    target: float

    @property
    def ours(self) -> float:
        """Median p99 of our side, milliseconds."""
        return median(ours.p99_ms for ours, _ in self.comparison.rounds)

    @property
    def theirs(self) -> float:
        """Median p99 of the other side, milliseconds."""
        return median(theirs.p99_ms for _, theirs in self.comparison.rounds)

    @property
    def ratio(self) -> float:
        """Median of each round's own ratio."""
        return median(ours.p99_ms / theirs.p99_ms for ours, theirs in self.comparison.rounds)

    @property
    def met(self) -> bool:
        return self.ratio <= self.target

    def row(self) -> list[str]:
        """The cells of the printed table."""
        cells = ["  its p99", f"{self.ours:,.0f} ms", f"{self.theirs:,.0f} ms", f"{self.ratio:.2f}x"]
        return [*cells, f"<= {self.target:.2f}x", "yes" if self.met else "NO"]

    def as_dict(self) -> dict[str, Any]:
        """The summary for results.json; the rounds are those of the comparison."""
        summary = {"ours": self.ours, "theirs": self.theirs, "ratio": self.ratio, "target": self.target}
        return {"name": f"{self.comparison.name}: p99", "unit": "ms", **summary, "met": self.met}


def interleave(name: str, target: float, ours: Run, theirs: Run, effort: Effort) -> Comparison:
    """Run ours, theirs, ours, theirs ...; raises BenchBroken at the first run with errors."""
    rounds = []
    for number in range(1, effort.rounds + 1):
        mine = _run(ours, f"{name}, ours", effort)
        other = _run(theirs, f"{name}, theirs", effort)
        print(f"  {name}, round {number}: {mine.rate:,.0f}/s against {other.rate:,.0f}/s", flush=True)
        rounds.append((mine, other))
    return Comparison(name, target, rounds)


def _run(run: Run, name: str, effort: Effort) -> Result:
    time.sleep(effort.pause)
    return run().require_clean(name)


def _with_rate(result: Result) -> dict[str, Any]:
    return asdict(result) | {"rate": round(result.rate, 1)}
