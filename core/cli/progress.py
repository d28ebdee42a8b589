"""A progress bar on the terminal, for commands whose output proper goes to a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

import click


class Bar:
    """`with Bar("verifying") as bar: bar.reach(done, total)`; it is drawn on stderr, from the first call on."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
            self._bar = None

    def reach(self, done: int, total: int) -> None:
        """`done` of `total` are done by now."""
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr)
            self._bar.__enter__()
        self._bar.length = total
        self._bar.update(done - self._bar.pos)

    def advance(self, by: int, total: int) -> None:
        """`by` more of `total` are done."""
        self.reach((self._bar.pos if self._bar is not None else 0) + by, total)
