"""What an idle worker weighs, as the kernel counts it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import psutil

from bench.servers import RunningApp

LIMIT_MB = 130.0
MB = 1e6


@dataclass(frozen=True)
class Weight:
    """The heaviest worker, in MB: resident (RSS), with shared pages split (PSS), and its own pages only (USS)."""

    rss: float
    pss: float
    uss: float


@dataclass(frozen=True)
class Memory:
    """Idle workers of both apps; judged by RSS, the largest of the three numbers."""

    ours: Weight
    theirs: Weight

    @property
    def met(self) -> bool:
        return self.ours.rss < LIMIT_MB

    def row(self) -> list[str]:
        """The cells of the printed table."""
        ratio = self.ours.rss / self.theirs.rss
        cells = ["idle worker: memory (RSS)", f"{self.ours.rss:.0f} MB", f"{self.theirs.rss:.0f} MB", f"{ratio:.2f}x"]
        return [*cells, f"< {LIMIT_MB:g} MB", "yes" if self.met else "NO"]

    def as_dict(self) -> dict[str, Any]:
        """Everything measured, for results.json."""
        weights = {"ours": asdict(self.ours), "theirs": asdict(self.theirs)}
        return {"name": "idle worker memory", "unit": "MB", **weights, "target": LIMIT_MB, "met": self.met}


def idle_memory(ours: RunningApp, reference: RunningApp) -> Memory:
    """Weigh the workers of both."""
    return Memory(_heaviest(ours.workers()), _heaviest(reference.workers()))


def _heaviest(workers: list[psutil.Process]) -> Weight:
    infos = [worker.memory_full_info() for worker in workers]
    rss, pss, uss = (max(getattr(info, kind) for info in infos) for kind in ("rss", "pss", "uss"))
    return Weight(round(rss / MB, 1), round(pss / MB, 1), round(uss / MB, 1))
