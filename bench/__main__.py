"""`python -m bench [--quick] [--only PART]`: starts real servers, measures both sides, prints a table."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from subprocess import TimeoutExpired

from bench import report
from bench.chain import measure_chain
from bench.comparison import QUICK, Effort
from bench.engine import compare_engines
from bench.http_bench import compare_apps
from bench.medici_bench import compare_with_medici
from bench.overload import measure_overload
from bench.result import BenchBroken
from bench.size import compare_sizes
from bench.sockets import compare_sockets
from bench.workers import compare_workers
from tools.local_stack import LocalStack, ServerFailed
from tools.local_stack.replica_set import ROOT_USER

PARTS = ("memory", "http", "sockets", "chain", "engine", "medici", "workers", "overload", "size")
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """0 whatever the numbers are, 1 when something broke."""
    options = _options()
    effort = QUICK if options.quick else Effort()
    parts = {options.only} if options.only else set(PARTS)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            _bench(Path(folder), parts, effort)
    except (BenchBroken, ServerFailed, TimeoutExpired) as error:
        print(f"bench broken: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds: does it run, not how fast is it")
    parser.add_argument("--only", choices=PARTS)
    return parser.parse_args()


def _bench(folder: Path, parts: set[str], effort: Effort) -> None:
    with LocalStack(folder / "data", folder / "secrets") as stack:
        environ = _environ(folder, stack)
        settings = asdict(effort) | {"async_mode": environ["ASYNC_MODE"], "workers": 2}
        facts = report.facts(environ["BENCH_MONGODB_URI"], environ["BENCH_REDIS_URI"], settings)
        rows = list(_rows(folder, parts, effort, environ))
    print(report.table(rows))
    report.write(RESULTS, rows, facts)


def _rows(folder: Path, parts: set[str], effort: Effort, environ: Mapping[str, str]) -> Iterator[report.Row]:
    """The apps are stopped before the engines run: an idle server still takes a little of two cores."""
    if parts & {"memory", "http"}:
        yield from compare_apps(environ, folder / "apps", effort, "http" in parts, "memory" in parts)
    if "sockets" in parts:
        yield from compare_sockets(environ, folder / "sockets", effort)
    if "chain" in parts:
        yield from measure_chain(environ, folder / "chain", effort)
    if "engine" in parts:
        yield from compare_engines(environ, effort)
    if "medici" in parts:
        yield from compare_with_medici(environ, effort)
    if "workers" in parts:
        yield from compare_workers(environ, folder / "workers", effort)
    if "overload" in parts:
        yield from measure_overload(environ, effort)
    if "size" in parts:
        yield from compare_sizes(folder / "size", _environ, effort)


def _environ(folder: Path, stack: LocalStack) -> dict[str, str]:
    """One environment for every process of the bench: where the servers are, and the settings that both sides share."""
    mongodb_password, redis_password = stack.secrets["mongodb_root_password"], stack.secrets["redis_password"]
    return {
        **os.environ,
        **stack.environ,
        "LOG_DIR": str(folder / "logs"),
        "HOST": "127.0.0.1",
        "ASYNC_MODE": os.environ.get("ASYNC_MODE", "eventlet"),
        "EVENTLET_NO_GREENDNS": "yes",
        "RATE_LIMIT_SCALE": "1000000",
        # The other side uses databases of its own, which the application's users may not touch.
        "BENCH_MONGODB_URI": _with_login(stack.environ["MONGODB_URI"], ROOT_USER, mongodb_password),
        "BENCH_REDIS_URI": _with_login(stack.environ["REDIS_URL"], "", redis_password),
        "BENCH_JWT_SECRET": secrets.token_hex(32),
    }


def _with_login(address: str, user: str, password: str) -> str:
    """The address with a user and a password in it; they are URL-safe by construction."""
    return address.replace("://", f"://{user}:{password}@", 1)


if __name__ == "__main__":
    sys.exit(main())
