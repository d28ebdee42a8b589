"""The application, with crash points armed from outside: `tests.support.crashing_app:create_app()` for gunicorn.

An armed worker dies by SIGKILL as it comes to the step: no handler runs, nothing is flushed, no connection says goodbye.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flask import Flask
from pymongo.client_session import ClientSession

from app import create_app as create_real_app
from core.modules.transactions_module.posting_queue import Batch, PostingQueue
from core.modules.transactions_module.repository import LedgerRepository

FOLDER = "CRASH_FOLDER"
CLAIM, POSTINGS, COMMIT, ANSWER = "the claim lookup", "the postings", "the commit", "the answer"
STEPS = tuple(f"{when} {what}" for what in (CLAIM, POSTINGS, COMMIT, ANSWER) for when in ("before", "after"))
_in_ledger: ContextVar[bool] = ContextVar("in_ledger", default=False)


class CrashPoints:
    """The file that arms a step: `{"step", "verbs"}`; it is gone when the worker has died of it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "armed"

    def arm(self, step: str, verbs: int) -> None:
        """Die at `step` of the commit that carries this many verbs, for which the engine waits."""
        assert step in STEPS
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps({"step": step, "verbs": verbs}))
        draft.rename(self._file)

    @property
    def armed(self) -> dict[str, Any] | None:
        try:
            armed: dict[str, Any] = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        return armed

    def reach(self, step: str) -> None:
        """Die, if this is the armed step."""
        armed = self.armed
        if armed is not None and armed["step"] == step:
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, call: Callable[[], Any]) -> Any:
        """`call`, with a crash point before and after it."""
        self.reach(f"before {what}")
        result = call()
        self.reach(f"after {what}")
        return result


def create_app() -> Flask:
    """The real application, on crash points."""
    points = CrashPoints(Path(os.environ[FOLDER]))
    _patch_ledger(points)
    app = create_real_app()
    app.wsgi_app = _Answers(app.wsgi_app, points)  # type: ignore[method-assign]
    return app


def _patch_ledger(points: CrashPoints) -> None:
    take, commit = PostingQueue.take, LedgerRepository.commit
    load, write = LedgerRepository._load_answers, LedgerRepository._write
    end = ClientSession.commit_transaction

    def gather(self: PostingQueue[Any]) -> Batch[Any]:
        armed = points.armed
        return take(self) if armed is None or len(self) >= armed["verbs"] else Batch()

    def commit_in_ledger(self: LedgerRepository, *args: Any) -> Any:
        token = _in_ledger.set(True)
        try:
            return commit(self, *args)
        finally:
            _in_ledger.reset(token)

    def end_transaction(self: ClientSession) -> None:
        if not _in_ledger.get():
            return end(self)
        points.around(COMMIT, lambda: end(self))
        return None

    PostingQueue.take = gather  # type: ignore[method-assign]
    LedgerRepository.commit = commit_in_ledger  # type: ignore[method-assign]
    LedgerRepository._load_answers = lambda self, *args: points.around(CLAIM, lambda: load(self, *args))  # type: ignore[method-assign]
    LedgerRepository._write = lambda self, *args: points.around(POSTINGS, lambda: write(self, *args))  # type: ignore[method-assign]
    ClientSession.commit_transaction = end_transaction  # type: ignore[method-assign]


class _Answers:
    """Around the answers of money verbs: the server closes what it has sent to the last byte."""

    def __init__(self, application: Callable[..., Iterable[bytes]], points: CrashPoints) -> None:
        self._application = application
        self._points = points

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        answer = self._application(environ, start_response)
        if "HTTP_IDEMPOTENCY_KEY" not in environ:
            return answer
        self._points.reach(f"before {ANSWER}")
        return _Answer(answer, self._points)


class _Answer:
    def __init__(self, answer: Any, points: CrashPoints) -> None:
        self._answer = answer
        self._points = points

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer)

    def close(self) -> None:
        self._points.reach(f"after {ANSWER}")
        if hasattr(self._answer, "close"):
            self._answer.close()
