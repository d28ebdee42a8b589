"""The HTTP bench: both apps under gunicorn on one machine, 64 connections, and the memory of an idle worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.accounts import Accounts, our_accounts, reference_accounts
from bench.comparison import Comparison, Effort, interleave
from bench.load import BATCH_SIZE, LoadSpec, run_load
from bench.memory import Memory, idle_memory
from bench.result import Result
from bench.servers import OURS, REFERENCE, RunningApp, running

Row = Comparison | Memory
BATCH_TARGET = 8.0
BATCH_CALLERS = 16  # each with a hundred transfers on the way: more would only wait


@dataclass(frozen=True)
class Case:
    """One kind of request, and the least ratio of the rates."""

    name: str
    path: str
    kind: str
    target: float


CASES = [
    Case("HTTP: POST /transfers", "/transfers", "transfer", 1.5),
    Case("HTTP: GET /wallets/me", "/wallets/me", "get", 1.2),
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
    yield _compare_batches(ours, our_side, effort)


def _compare_batches(app: RunningApp, accounts: Accounts, effort: Effort) -> Comparison:
    """Transfers a second in batches, against one by one; both are ours."""
    one_by_one = LoadSpec(app.port, "/transfers", accounts.tokens, "transfer", accounts.destinations, effort.seconds)
    batches = replace(one_by_one, path="/batches", kind="batch", tokens=accounts.tokens[:BATCH_CALLERS])
    name = f"HTTP: transfers in POST /batches of {BATCH_SIZE}, against one by one"
    return interleave(name, BATCH_TARGET, lambda: _each_item(run_load(batches)), lambda: run_load(one_by_one), effort)


def _each_item(result: Result) -> Result:
    """The same with every item of a batch counted; the latencies stay those of the batches."""
    return replace(result, count=result.count * BATCH_SIZE)


def _runner(case: Case, app: RunningApp, accounts: Accounts, effort: Effort) -> Callable[[], Result]:
    spec = LoadSpec(app.port, case.path, accounts.tokens, case.kind, accounts.destinations, effort.seconds)
    return lambda: run_load(spec)
