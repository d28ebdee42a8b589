"""Several gunicorn workers on one hot wallet against one worker with as many connections: they must not hinder each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.accounts import our_accounts
from bench.comparison import Comparison, Effort, interleave
from bench.load import LoadSpec, run_load
from bench.servers import OURS, RunningApp, running

COUNTS = (2, 4)
TARGET = 1.0


def compare_workers(environ: Mapping[str, str], folder: Path, effort: Effort) -> Iterator[Comparison]:
    """One comparison for each number of workers; every transfer goes to the same wallet, and `theirs` is one worker."""
    with ExitStack() as stack:
        one, *others = (stack.enter_context(_app(count, environ, folder)) for count in (1, *COUNTS))
        accounts = our_accounts(one.url, Path(environ["SECRETS_DIR"]), effort.callers, 1)
        base = LoadSpec(one.port, "/transfers", accounts.tokens, "transfer", accounts.destinations, effort.seconds)
        for count, app in zip(COUNTS, others, strict=True):
            name = f"HTTP: {count} workers on one hot wallet against 1"
            yield interleave(name, TARGET, partial(run_load, replace(base, port=app.port)), partial(run_load, base), effort)


def _app(count: int, environ: Mapping[str, str], folder: Path) -> AbstractContextManager[RunningApp]:
    name = f"workers-{count}"
    return running(replace(OURS, name=name), folder, {**environ, "DATA_DIR": str(folder / name)}, count)
