"""Cost against size: the same calls on a large ledger and on a small one, each on a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

from bench.comparison import Comparison, Effort, Run, interleave
from bench.loader import load
from bench.ours import measure
from tools.local_stack import LocalStack

SMALL, LARGE, QUICK_LARGE = 1_000, 1_000_000, 50_000
ENTRIES = 5  # of each wallet
TARGET = 1 / 1.25  # a call may cost a quarter more, so the rate may fall to four fifths
MEASURES = {"transfers": "transfer", "reads": "balance read"}

Environ = Callable[[Path, LocalStack], dict[str, str]]


def compare_sizes(folder: Path, environ_of: Environ, effort: Effort) -> Iterator[Comparison]:
    """Load both ledgers, then compare."""
    wallets = QUICK_LARGE if effort.quick else LARGE
    with _stack(folder / "small") as small, _stack(folder / "large") as large:
        few, many = environ_of(folder / "small", small), environ_of(folder / "large", large)
        _load(few, SMALL)
        _load(many, wallets)
        for what, name in MEASURES.items():
            title = f"size: {name} at {wallets:,} wallets against {SMALL:,}"
            yield interleave(title, TARGET, _runner(what, many, wallets, effort), _runner(what, few, SMALL, effort), effort)


def _stack(folder: Path) -> LocalStack:
    return LocalStack(folder / "data", folder / "secrets")


def _load(environ: Mapping[str, str], wallets: int) -> None:
    begun = perf_counter()
    load(environ["BENCH_MONGODB_URI"], environ["MONGODB_DATABASE"], wallets)
    print(f"  loaded {wallets:,} wallets, {ENTRIES * wallets:,} entries in {perf_counter() - begun:.0f} s", flush=True)


def _runner(what: str, environ: Mapping[str, str], wallets: int, effort: Effort) -> Run:
    return partial(measure, what, environ, seconds=effort.seconds, wallets=wallets, callers=effort.callers)
