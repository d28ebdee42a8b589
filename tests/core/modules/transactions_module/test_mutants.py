"""The checker of histories finds what it is there to find: a planted bug in each case, and nothing where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from tests.support import mutants
from tests.support.client import unique
from tests.support.engines import Engines, running_engines
from tests.support.fail_points import fail_point
from tests.support.history import History, faults
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tests.support.verbs import AllVerbs, Recorder
from tools.local_stack import LocalStack

VERBS, TRIES = 60, 5
COMMIT_SECONDS, UNANSWERED_SECONDS = 0.5, 1.0
MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = [
    (mutants.no_idempotency, {"twice", "replay differs"}),
    (mutants.unguarded_debit, {"below the floor"}),
    (mutants.lost_version_guard, {"books"}),
    (mutants.answer_before_commit, {"lost"}),
    (mutants.unknown_told_as_failed, {"error with effect", "unexplained"}),
    (mutants.half_a_batch, {"unexplained"}),
    (mutants.told_beside_the_commit, {"outbox"}),
]


@pytest.fixture
def books(servers: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    """A database of the test's own: what a mutant leaves there is nobody else's."""
    with own_database(servers, unique("mutants")) as database:
        yield database


@contextmanager
def running(servers: LocalStack, books: Database[dict[str, Any]]) -> Iterator[Engines]:
    with running_engines({**servers.environ, "MONGODB_DATABASE": books.name}, commit_seconds=COMMIT_SECONDS) as engines:
        yield engines


def history_of(engines: Engines, books: Database[dict[str, Any]]) -> History:
    """All verbs at random on two engines, with commits that conflict, and a while in which they are not answered."""
    recorder = Recorder(engines.transport)
    load = AllVerbs(recorder, engines.wallets)
    withheld = {"writeConcernError": {"code": 64, "errmsg": "it has happened all the same", "errInfo": {"wtimeout": True}}}
    conflict = {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}
    with load.running():
        load.wait_for(VERBS)
        with fail_point(books.client.admin, {"times": 8}, failCommands=["commitTransaction"], **conflict):
            load.wait_for(VERBS // 4)
        with fail_point(books.client.admin, "alwaysOn", failCommands=["commitTransaction"], **withheld):
            over = time.monotonic() + UNANSWERED_SECONDS
            eventually(lambda: time.monotonic() > over, 2 * UNANSWERED_SECONDS)
        load.wait_for(VERBS)
    recorder.settle()
    return recorder.history


def test_a_history_without_a_bug_is_found_sound(servers: LocalStack, books: Database[dict[str, Any]], tmp_path: Path) -> None:
    with running(servers, books) as engines:
        history = history_of(engines, books)
        assert faults(history, books, engines.wallets) == []
        assert any(record.code == "outcome-unknown" for record in history.records), "there was nothing to find out"
        history.save(tmp_path / "history.ndjson")
        assert faults(History.load(tmp_path / "history.ndjson"), books, engines.wallets) == []


@pytest.mark.parametrize(("plant", "signs"), MUTANTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_bug_is_found(
    servers: LocalStack, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], signs: set[str]
) -> None:
    plant(monkeypatch)
    # Some bugs need two workers to meet: a machine that is busy elsewhere may take more than one try.
    assert any(signs & found_in_a_run(servers) for _ in range(TRIES))


def found_in_a_run(servers: LocalStack) -> set[str]:
    """The kinds of faults in one history, on a ledger of its own."""
    with own_database(servers, unique("mutants")) as books, running(servers, books) as engines:
        return {fault.split(":")[0] for fault in faults(history_of(engines, books), books, engines.wallets)}
