"""The engine bench: transfers inside one process, our posting engine against one transaction each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial

from bench.comparison import Comparison, Effort, Tail, interleave
from bench.result import BenchBroken, Result

TARGETS = {"uniform": 5.0, "hot": 15.0, "zipf": 8.0}
NAMES = {
    "uniform": "engine: transfers, uniform wallets",
    "hot": "engine: one hot wallet in every transfer",
    "zipf": "engine: wallets by Zipf 1.2",
}
TAIL_TARGET = 1 / 3
START_SECONDS = 60.0
TAIL_SECONDS = 120.0  # a call in flight at the end may retry write conflicts for this long


def compare_engines(environ: Mapping[str, str], effort: Effort) -> Iterator[Comparison | Tail]:
    """One comparison, and its tail, for each scenario; every run has a process and wallets of its own."""
    for scenario, target in TARGETS.items():
        found = interleave(
            NAMES[scenario],
            target,
            partial(run_side, "ours", scenario, environ, effort),
            partial(run_side, "naive", scenario, environ, effort),
            effort,
        )
        yield found
        yield Tail(found, TAIL_TARGET)


def run_side(side: str, scenario: str, environ: Mapping[str, str], effort: Effort) -> Result:
    """One run of one side in a new process; BenchBroken carries the process's last words."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.engine_process", side, scenario]
    sizes = ["--callers", str(effort.callers), "--wallets", str(effort.wallets), "--seconds", str(effort.seconds)]
    limit = START_SECONDS + effort.seconds + TAIL_SECONDS
    done = subprocess.run([*command, *sizes], env=environ, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise BenchBroken(f"engine {scenario}, {side}: {done.stderr[-800:]}")
    return Result.from_json(done.stdout.splitlines()[-1])
