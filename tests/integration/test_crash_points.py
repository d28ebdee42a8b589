"""A worker that is killed at any step of any money verb: what was acknowledged is there, and a retry finds or makes the one effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from tests.support.app_server import AppServer
from tests.support.at_once import at_once
from tests.support.client import Client
from tests.support.crashing_app import ANSWER, COMMIT, FOLDER, POSTINGS, STEPS, CrashPoints
from tests.support.history import Record, faults
from tests.support.polling import assert_gone
from tests.support.verbs import EACH_VERB, WALLETS_OF_EACH, Args, OverHttp, Recorder, each_verb
from tools.local_stack import LocalStack

COMMITTED = (f"after {COMMIT}", f"before {ANSWER}", f"after {ANSWER}")
RESTART_SECONDS = 30


class Bank:
    """An application of one worker that can be crashed, and a wallet for each verb."""

    def __init__(self, app: AppServer, admin: Client, points: CrashPoints, database: Database[dict[str, Any]]) -> None:
        self.app = app
        self.points = points
        self.database = database
        self.recorder = Recorder(OverHttp(app.url, admin.token))
        self.wallets = [str(Client.register(app.url).wallet()["id"]) for _ in range(WALLETS_OF_EACH)]

    def wishes(self) -> list[tuple[str, Args]]:
        return each_verb(self.recorder, self.wallets)

    def crash(self, step: str, wishes: list[tuple[str, Args]]) -> list[Record]:
        """All `wishes` at once in one commit, in which the worker dies; what the clients have seen of it."""
        (worker,) = self.app.workers()
        self.points.arm(step, len(wishes))
        records = at_once(len(wishes), lambda number: self.recorder.call(*wishes[number], client=number))
        assert_gone([worker], RESTART_SECONDS)
        assert self.points.armed is None, "nobody came to that step"
        return records

    def claims(self) -> int:
        return self.database["idempotency"].count_documents({})


@pytest.fixture(scope="module")
def hasty(servers: LocalStack) -> Iterator[None]:
    """What a killed worker leaves open blocks its wallets until MongoDB gives it up: here after a second."""
    assert servers.mongod is not None
    with servers.mongod.client() as client:
        before = client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=1)["was"]
        yield
        client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=before)


@pytest.fixture(scope="module", params=["eventlet", pytest.param("gevent", marks=pytest.mark.soak)])
def bank(
    request: pytest.FixtureRequest,
    servers: LocalStack,
    secrets_dir: Path,
    hasty: None,
    tmp_path_factory: pytest.TempPathFactory,
    database: Database[dict[str, Any]],
) -> Iterator[Bank]:
    folder = tmp_path_factory.mktemp("crashing")
    settings = {"WORKERS": 1, "ASYNC_MODE": request.param, "LEDGER_SWEEP_SECONDS": 3600, FOLDER: folder}
    with AppServer(servers.environ, folder, wsgi="tests.support.crashing_app:create_app()", **settings) as app:
        yield Bank(app, Client.admin(app.url, secrets_dir), CrashPoints(folder), database)


# Between two of the ledger's steps nothing happens that anybody could see: of those, one is enough for every day.
BETWEEN = (f"before {POSTINGS}", f"before {COMMIT}")


@pytest.mark.parametrize("step", [pytest.param(step, marks=[pytest.mark.soak] if step in BETWEEN else []) for step in STEPS])
def test_every_verb_has_one_effect_whose_worker_was_killed(bank: Bank, step: str) -> None:
    assert_one_effect_each(bank, step, bank.wishes())


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(EACH_VERB)), ids=EACH_VERB)
@pytest.mark.parametrize("step", STEPS)
def test_a_verb_that_was_alone_has_one_effect_when_its_worker_was_killed(bank: Bank, step: str, number: int) -> None:
    assert_one_effect_each(bank, step, [bank.wishes()[number]])


def assert_one_effect_each(bank: Bank, step: str, wishes: list[tuple[str, Args]]) -> None:
    claims = bank.claims()
    seen = bank.crash(step, wishes)
    acknowledged = [record for record in seen if record.is_done]
    assert all(record.is_done or record.is_open for record in seen), seen
    assert (len(acknowledged) > 0) == (step == f"after {ANSWER}")
    committed = step in COMMITTED
    assert bank.claims() - claims == (len(wishes) if committed else 0), "the worker did not die where it should"
    for record in seen:
        settled = bank.recorder.insist(record, RESTART_SECONDS)
        assert settled.is_done, settled
        assert settled.replayed == committed
        again = bank.recorder.again(record)
        assert (again.status, again.body, again.replayed) == (settled.status, settled.body, True)
    assert faults(bank.recorder.history, bank.database, bank.wallets) == []
