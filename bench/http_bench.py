"""The HTTP bench: both apps under gunicorn on one machine, 64 connections, and the memory of an idle worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.accounts import Accounts, our_accounts, reference_accounts
from bench.comparison import Comparison, Effort, interleave
from bench.load import LoadSpec, run_load
from bench.memory import Memory, idle_memory
from bench.result import Result
from bench.servers import OURS, REFERENCE, RunningApp, running

Row = Comparison | Memory


@dataclass(frozen=True)
class Case:
    """One kind of request, and the least ratio of the rates."""

    name: str
    path: str
    kind: str
    target: float


CASES = [
    Case("HTTP: POST /transfers", "/transfers", "transfer", 1.3),
    Case("HTTP: GET /wallets/me", "/wallets/me", "get", 1.0),
]


def compare_apps(environ: Mapping[str, str], data_dir: Path, effort: Effort, with_load: bool, with_memory: bool) -> Iterator[Row]:
    """Start both apps; measure their idle workers first, then the requests."""
    with ExitStack() as stack:
        ours = stack.enter_context(running(OURS, data_dir, environ))
        reference = stack.enter_context(running(REFERENCE, data_dir, environ))
        if with_memory:
            yield idle_memory(ours, reference)
        if with_load:
            yield from _compare_requests(ours, reference, environ, effort)


def _compare_requests(ours: RunningApp, reference: RunningApp, environ: Mapping[str, str], effort: Effort) -> Iterator[Comparison]:
    print(f"  opening {effort.callers + effort.wallets:,} accounts in each app", flush=True)
    sizes = effort.callers, effort.wallets
    our_side = our_accounts(ours.url, Path(environ["SECRETS_DIR"]), *sizes)
    their_side = reference_accounts(reference.url, environ["BENCH_MONGODB_URI"], *sizes)
    for case in CASES:
        mine, other = _runner(case, ours, our_side, effort), _runner(case, reference, their_side, effort)
        yield interleave(case.name, case.target, mine, other, effort)


def _runner(case: Case, app: RunningApp, accounts: Accounts, effort: Effort) -> Callable[[], Result]:
    spec = LoadSpec(app.port, case.path, accounts.tokens, case.kind, accounts.destinations, effort.seconds)
    return lambda: run_load(spec)
