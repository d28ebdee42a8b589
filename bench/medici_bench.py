"""Our engine against Medici, the double-entry ledger of npm, on the same server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from bench.comparison import Comparison, Effort, interleave
from bench.engine import run_side
from bench.result import BenchBroken, Result

FOLDER = Path(__file__).with_name("medici")
INSTALLED = FOLDER / "node_modules" / ".package-lock.json"
DATABASE = "bench_medici"
TARGET = 10.0
INSTALL_SECONDS = 300.0
TAIL_SECONDS = 120.0


def compare_with_medici(environ: Mapping[str, str], effort: Effort) -> Iterator[Comparison]:
    """Transfers between uniform wallets; both refuse what a wallet does not have."""
    _install()
    ours = partial(run_side, "ours", "uniform", environ, effort)
    yield interleave("engine: transfers against Medici", TARGET, ours, partial(_run, environ, effort), effort)


def _install() -> None:
    """Have npm fetch what the lock file pins, once."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        raise BenchBroken(f"Medici needs {' and '.join(missing)} (Debian: apt install nodejs npm), 18 or later; --only leaves it out")
    if INSTALLED.exists() and INSTALLED.stat().st_mtime >= (FOLDER / "package-lock.json").stat().st_mtime:
        return
    print("  npm fetches Medici", flush=True)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        raise BenchBroken(f"npm could not fetch Medici: {done.stderr[-500:]}")


def _run(environ: Mapping[str, str], effort: Effort) -> Result:
    arguments = [environ["BENCH_MONGODB_URI"], DATABASE, *map(str, (effort.callers, effort.wallets, effort.seconds))]
    command = ["node", str(FOLDER / "transfers.mjs"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=effort.seconds + TAIL_SECONDS, check=False)
    if done.returncode:
        raise BenchBroken(f"Medici: {done.stderr[-800:]}")
    return Result.from_json(done.stdout.splitlines()[-1])
