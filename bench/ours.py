"""Measurements of our engine, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from bench.result import BenchBroken, Result

START_SECONDS = 60.0
TAIL_SECONDS = 60.0


def measure(what: str, environ: Mapping[str, str], *, seconds: float, **options: float | str) -> Result:
    """One measurement in a new process; BenchBroken carries the process's last words."""
    given = [f"--{name}={value}" for name, value in {"seconds": seconds, **options}.items()]
    command = [sys.executable, "-W", "ignore", "-m", "bench.ours_process", what, *given]
    limit = START_SECONDS + seconds + TAIL_SECONDS
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise BenchBroken(f"ours, {what}: {done.stderr[-800:]}")
    return Result.from_json(done.stdout.splitlines()[-1])
