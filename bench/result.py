"""What one measured run yields: counts, rate and latencies, as a value that travels between processes as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


class BenchBroken(Exception):
    """A run that measured nothing: a part did not start, or answers were errors."""


@dataclass(frozen=True)
class Result:
    """`count` calls completed in `seconds`; latencies in milliseconds; `errors` by status or exception name."""

    count: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: dict[str, int] = field(default_factory=dict)
    extra: dict[str, float | str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Completed calls a second."""
        return self.count / self.seconds

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"rate": self.rate})

    @classmethod
    def from_json(cls, text: str) -> Result:
        fields = json.loads(text)
        fields.pop("rate", None)
        return cls(**fields)

    def require_clean(self, name: str) -> Result:
        """Return self; raise BenchBroken where anything failed, since a bench of error answers is none."""
        if self.errors or not self.count:
            raise BenchBroken(f"{name}: {self.count} answers, errors {self.errors} {self.extra.get('sample', '')}")
        return self


def summarize(latencies: Sequence[float], seconds: float, errors: dict[str, int], extra: dict[str, float | str]) -> Result:
    """Build a Result from the latencies (in seconds) of the calls that completed in a window of `seconds`."""
    ordered = sorted(latencies)
    p50, p95, p99 = (_percentile_ms(ordered, share) for share in (0.50, 0.95, 0.99))
    return Result(len(ordered), seconds, p50, p95, p99, errors, extra)


def _percentile_ms(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile, in milliseconds."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)
