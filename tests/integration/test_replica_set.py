"""A real set of three members that loses its primary again and again: answers stay honest, and nothing that was acknowledged is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pymongo.database import Database

from tests.support import mutants
from tests.support.app_server import AppServer
from tests.support.client import Client
from tests.support.engines import running_engines
from tests.support.history import Record, faults
from tests.support.in_process import Managers
from tests.support.polling import eventually
from tests.support.verbs import AllVerbs, OverHttp, Recorder
from tools.local_stack import LocalStack
from tools.local_stack.mongod import Mongod

# One request has 4 s; the rest is for the way through a machine that others use too.
ANSWER_SECONDS = 8.0
PAUSE_SECONDS = 1.5
VERBS = 30


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("set")
    with LocalStack(folder / "data", folder / "secrets", members=3, test_commands=True) as own:
        yield own


@pytest.fixture(scope="module")
def books(stack: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    with stack.replica_set.client() as client:
        yield client[stack.environ["MONGODB_DATABASE"]]


@pytest.fixture
def app(stack: LocalStack, tmp_path: Path) -> Iterator[AppServer]:
    with AppServer(stack.environ, tmp_path) as running:
        yield running


def let_pass(seconds: float) -> None:
    over = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > over, 2 * seconds)


def lose_primaries(stack: LocalStack, load: AllVerbs, rounds: int) -> None:
    """It steps down, it is killed, and so on; each time the verbs go on with the next one."""
    for number in range(rounds):
        if number % 3 == 1:
            lost = stack.replica_set.primary()
            lost.kill()
            load.wait_for(VERBS)
            lost.start()
        else:
            stack.replica_set.step_down()
            let_pass(PAUSE_SECONDS)
        load.wait_for(VERBS)


def assert_safe(app: AppServer, stack: LocalStack, books: Database[dict[str, Any]], rounds: int) -> None:
    recorder = Recorder(OverHttp(app.url, Client.admin(app.url, Path(stack.environ["SECRETS_DIR"])).token))
    wallets = [str(Client.register(app.url).wallet()["id"]) for _ in range(4)]
    load = AllVerbs(recorder, wallets)
    workers = {worker.pid for worker in app.workers()}
    with load.running():
        load.wait_for(VERBS)
        lose_primaries(stack, load, rounds)
    recorder.settle()
    for record in recorder.history.records:
        assert_honest(record)
    assert faults(recorder.history, books, wallets) == []
    assert {worker.pid for worker in app.workers()} == workers, "the application did not recover by itself"


def assert_honest(record: Record) -> None:
    """An answer, or a 503; and either of them in time."""
    assert record.is_final or record.status == 503, record
    assert record.returned - record.invoked < ANSWER_SECONDS, record


def test_a_primary_that_steps_down_and_dies_costs_no_credits(app: AppServer, stack: LocalStack, books: Database[dict[str, Any]]) -> None:
    assert_safe(app, stack, books, rounds=2)


def test_a_secondary_that_applies_nothing_is_seen_to_be_behind(stack: LocalStack, books: Database[dict[str, Any]]) -> None:
    primary = stack.replica_set.primary()
    secondary = next(member for member in stack.mongods if member is not primary)
    managers = Managers({**stack.environ, "AUDIT_SEAL_SECONDS": "0.2"}, "database")
    try:
        eventually(lambda: gauge("members", state="secondary") == 2, 20)
        eventually(lambda: gauge("replication_lag_seconds") is not None, 20)
        with secondary.client() as client:
            client.admin.command("configureFailPoint", "rsSyncApplyStop", mode="alwaysOn")
            try:
                eventually(lambda: books["scratch"].insert_one({}) and (gauge("replication_lag_seconds") or 0) > 2, 30)
            finally:
                client.admin.command("configureFailPoint", "rsSyncApplyStop", mode="off")
        eventually(lambda: (gauge("replication_lag_seconds") or 0) < 1, 30)
    finally:
        managers.dispose()
        books.drop_collection("scratch")


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"credit_mongodb_{name}", labels)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_primaries_that_are_lost_every_few_seconds_cost_no_credits(
    stack: LocalStack, books: Database[dict[str, Any]], tmp_path: Path, mode: str
) -> None:
    with AppServer(stack.environ, tmp_path, ASYNC_MODE=mode) as app:
        assert_safe(app, stack, books, rounds=24)


# What the primary alone has, another one does not know


@contextmanager
def cut_off(stack: LocalStack) -> Iterator[Mongod]:
    """The primary, from which the others take nothing any more, though they hear that it is alive; at the end it dies."""
    primary = stack.replica_set.primary()
    others = [member for member in stack.replica_set.members if member is not primary]
    for member in others:
        replicate(member, "alwaysOn")
    try:
        yield primary
    finally:
        primary.kill()
        for member in others:
            replicate(member, "off")
        stack.replica_set.primary()
        primary.start()


def replicate(member: Mongod, stopped: str) -> None:
    with member.client() as client:
        client.admin.command({"configureFailPoint": "stopReplProducer", "mode": stopped})


def history_of_a_rollback(stack: LocalStack, books: Database[dict[str, Any]]) -> list[str]:
    with running_engines(stack.environ, count=1, commit_seconds=1.0) as engines:
        recorder = Recorder(engines.transport)
        load = AllVerbs(recorder, engines.wallets)
        with load.running():
            load.wait_for(VERBS)
            with cut_off(stack):
                let_pass(PAUSE_SECONDS)
            load.wait_for(VERBS)
        recorder.settle()
        return faults(recorder.history, books, engines.wallets)


@pytest.mark.soak
def test_what_only_a_lost_primary_had_was_never_acknowledged(stack: LocalStack, books: Database[dict[str, Any]]) -> None:
    assert history_of_a_rollback(stack, books) == []


def test_acknowledgement_by_the_primary_alone_would_be_found(
    stack: LocalStack, books: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.acknowledged_by_one(monkeypatch)
    assert "lost" in {fault.split(":")[0] for fault in history_of_a_rollback(stack, books)}
