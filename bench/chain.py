"""The chain bench: our own CPU a request in front of a handler, against the same answer with nothing in front, and its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.comparison import Effort
from bench.result import BenchBroken

TARGET_US = 350.0
TARGET_TRIPS = 1.0
SECONDS = 300.0
REQUESTS, ROUNDS, QUICK_ROUNDS = 10, 1500, 300


@dataclass(frozen=True)
class Cost:
    """One line: microseconds of CPU a request, in the best round, as for any cost that other load only adds to."""

    name: str
    ours: str
    theirs: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    def row(self) -> list[str]:
        """The cells of the printed table."""
        return [self.name, self.ours, self.theirs, self.ratio, self.target, "" if self.met is None else "yes" if self.met else "NO"]

    def as_dict(self) -> dict[str, Any]:
        """Everything measured, for results.json."""
        return {**asdict(self), "unit": "us CPU/request"}


def measure_chain(environ: Mapping[str, str], folder: Path, effort: Effort) -> list[Cost]:
    """The whole chain, its round trips to Redis, and its parts as they run inside of it."""
    folder.mkdir()
    # As under gunicorn, where the counters of all workers lie in files.
    own = {**environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    rounds = QUICK_ROUNDS if effort.quick else ROUNDS
    command = [sys.executable, "-W", "ignore", "-m", "bench.chain_process", "--rounds", str(rounds), "--requests", str(REQUESTS)]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise BenchBroken(f"chain: {done.stderr[-800:]}")
    return _rows(json.loads(done.stdout.splitlines()[-1]))


def _rows(measured: dict[str, Any]) -> list[Cost]:
    whole, bare = min(measured["chain"]), min(measured["bare"])
    own, trips, parts = whole - bare, measured["round_trips"], measured["parts"]
    rest = own - sum(part["cpu"] for part in parts.values())
    return [
        Cost(
            "chain: own CPU a request (with it, without it)",
            _us(whole),
            _us(bare),
            f"+{_us(own)}",
            f"<= {TARGET_US:g} us",
            own <= TARGET_US,
        ),
        Cost("chain: round trips to redis a request", f"{trips:g}", target=f"<= {TARGET_TRIPS:g}", met=trips <= TARGET_TRIPS),
        *(Cost(f"  {name}", _us(part["cpu"]), theirs=_waits(part)) for name, part in parts.items()),
        Cost("  the framework's calls of it, and what else", _us(rest)),
        Cost("  a token seen for the first time: more", _us(measured["new_token"])),
    ]


def _waits(part: dict[str, float]) -> str:
    waited = part["wall"] - part["cpu"]
    return f"waits {_us(waited)}" if waited >= 5 else ""


def _us(microseconds: float) -> str:
    return f"{microseconds:,.0f} us"
