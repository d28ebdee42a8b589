"""Starts measurements of our engine in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from bench.result import BenchBroken, Result

START_SECONDS = 60.0
TAIL_SECONDS = 60.0


class OursProcess:
    """`bench.ours_process`, running; `result` waits for it."""

    def __init__(self, what: str, environ: Mapping[str, str], *, seconds: float, **options: float | str) -> None:
        self._what = what
        self._limit = START_SECONDS + seconds + TAIL_SECONDS
        given = [f"--{name.replace('_', '-')}={value}" for name, value in {"seconds": seconds, **options}.items()]
        command = [sys.executable, "-W", "ignore", "-m", "bench.ours_process", what, *given]
        self._process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self) -> Result:
        """What it measured; BenchBroken carries its last words."""
        try:
            out, errors = self._process.communicate(timeout=self._limit)
        finally:
            self._process.kill()
        if self._process.returncode:
            raise BenchBroken(f"ours, {self._what}: {errors[-800:]}")
        return Result.from_json(out.splitlines()[-1])


def measure(what: str, environ: Mapping[str, str], *, seconds: float, **options: float | str) -> Result:
    """One measurement, from start to end."""
    return OursProcess(what, environ, seconds=seconds, **options).result()
