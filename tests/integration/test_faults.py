"""Servers and workers that die, stall or lie in the middle of the work: answers stay honest, and nothing is lost or done twice."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from pymongo.database import Database
from socketio.exceptions import ConnectionError as SocketRefused

from tests.support.app_server import AppServer
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tests.support.fail_points import fail_point
from tests.support.history import Record, faults
from tests.support.load import ANSWER_SECONDS, RECOVERY_SECONDS, Load, assert_answers, assert_one_effect_each
from tests.support.polling import assert_gone, eventually
from tests.support.sockets import SocketClient, on_two_workers
from tests.support.verbs import AllVerbs, OverHttp, Recorder
from tools.local_stack import LocalStack

OUTAGE_SECONDS = 3.0
QUICK_SECONDS = 1.0
STOP_SECONDS = 10.0
# Wide limits, but for log-ins: those are how a test gets an address banned.
LIMITS = {
    "RATE_LIMIT_SCALE": 1,
    "RATE_LIMIT_IP": "1000000/60",
    "RATE_LIMIT_USER": "1000000/60",
    "RATE_LIMIT_MONEY": "1000000/60",
    "RATE_LIMIT_AUTH": "300/60",
    "BAN_THRESHOLD": 1,
    "BAN_SECONDS": 600,
    "PROXY_COUNT": 1,
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("faults")
    with LocalStack(folder / "data", folder / "secrets", test_commands=True) as own:
        yield own


@pytest.fixture(scope="module")
def app(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with AppServer(stack.environ, tmp_path_factory.mktemp("app"), **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def root(stack: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    assert stack.mongod is not None
    with stack.mongod.client() as client:
        yield client["admin"]


@pytest.fixture
def books(stack: LocalStack, root: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    return root.client[stack.environ["MONGODB_DATABASE"]]


@pytest.fixture
def load(app: AppServer, stack: LocalStack) -> Load:
    return Load.prepare(app, Client.admin(app.url, Path(stack.environ["SECRETS_DIR"])))


@pytest.fixture
def recorder(app: AppServer, stack: LocalStack) -> Recorder:
    return Recorder(OverHttp(app.url, Client.admin(app.url, Path(stack.environ["SECRETS_DIR"])).token))


@contextmanager
def outage(begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Something is away while the block runs, and for OUTAGE_SECONDS at the least."""
    over = time.monotonic() + OUTAGE_SECONDS
    begin()
    try:
        yield
        eventually(lambda: time.monotonic() >= over, 2 * OUTAGE_SECONDS)
    finally:
        end()


def health(app: AppServer, manager: str) -> tuple[int, str]:
    """The status code of /health, and what it says about `manager`."""
    response = requests.get(f"{app.url}/health", timeout=ANSWER_SECONDS)
    return response.status_code, response.json()["managers"][manager]["status"]


def readiness(app: AppServer) -> int:
    return requests.get(f"{app.url}/health/ready", timeout=ANSWER_SECONDS).status_code


def assert_alive(app: AppServer) -> None:
    began = time.monotonic()
    assert requests.get(f"{app.url}/health/live", timeout=ANSWER_SECONDS).status_code == 200
    assert time.monotonic() - began < QUICK_SECONDS


def assert_same_workers(app: AppServer, before: list[psutil.Process]) -> None:
    assert {worker.pid for worker in app.workers()} == {worker.pid for worker in before}, "the application did not recover by itself"


# MongoDB


def test_a_killed_mongod_costs_503s_and_no_credits(stack: LocalStack, app: AppServer, load: Load, books: Database[dict[str, Any]]) -> None:
    assert stack.mongod is not None
    workers = app.workers()
    with load.running():
        with outage(stack.mongod.kill, stack.mongod.start):
            assert stack.mongod.process.exit_code == -9
            eventually(lambda: load.count(503), 2 * ANSWER_SECONDS)
            eventually(lambda: health(app, "database") == (503, "unhealthy"), ANSWER_SECONDS)
            eventually(lambda: readiness(app) == 503, ANSWER_SECONDS)  # each worker finds out by itself
            assert_alive(app)
        load.wait_for(50)
    assert_same_workers(app, workers)
    assert_answers(load)
    assert_one_effect_each(load, books)
    eventually(lambda: readiness(app) == 200, ANSWER_SECONDS)


def test_a_killed_mongod_keeps_every_verb_that_was_acknowledged(
    stack: LocalStack, app: AppServer, recorder: Recorder, books: Database[dict[str, Any]]
) -> None:
    assert stack.mongod is not None
    wallets = [Client.register(app.url).wallet()["id"] for _ in range(4)]
    verbs = AllVerbs(recorder, wallets)
    with verbs.running():
        verbs.wait_for(50)
        stack.mongod.kill()
        eventually(lambda: recorder.history.count(503), 2 * ANSWER_SECONDS)
        stack.mongod.start()
        verbs.wait_for(50)
    assert_history(recorder, books, wallets)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_mongods_and_workers_that_are_killed_again_and_again_cost_no_credits(
    stack: LocalStack, app: AppServer, recorder: Recorder, books: Database[dict[str, Any]]
) -> None:
    assert stack.mongod is not None
    wallets = [Client.register(app.url).wallet()["id"] for _ in range(6)]
    verbs = AllVerbs(recorder, wallets, callers=16)
    with verbs.running():
        for number in range(20):
            verbs.wait_for(100)
            if number % 4 == 0:
                stack.mongod.kill()
                stack.mongod.start()
            else:
                app.kill_worker()
                eventually(lambda: len(app.workers()) == 2, 20)
    assert_history(recorder, books, wallets, (0, 503))


def assert_history(recorder: Recorder, books: Database[dict[str, Any]], wallets: list[str], errors: Sequence[int] = (503,)) -> None:
    """Each call was answered, or failed honestly; after retries the ledger holds what was told, and nothing else."""
    recorder.settle()
    for record in recorder.history.records:
        assert record.is_final or record.status in errors, record
        assert record.returned - record.invoked < ANSWER_SECONDS, record
    assert faults(recorder.history, books, wallets) == []


def test_a_stalled_mongod_costs_503s_and_no_credits(stack: LocalStack, app: AppServer, load: Load, books: Database[dict[str, Any]]) -> None:
    assert stack.mongod is not None
    workers = app.workers()
    with load.running():
        with outage(stack.mongod.pause, stack.mongod.resume):
            eventually(lambda: psutil.Process(stack.mongod.pid).status() == psutil.STATUS_STOPPED, 1)
            for _ in range(5):
                assert_alive(app)
            eventually(lambda: health(app, "database") == (503, "unhealthy"), ANSWER_SECONDS)
            eventually(lambda: readiness(app) == 503, ANSWER_SECONDS)  # each worker finds out by itself
        load.wait_for(50)
    assert_same_workers(app, workers)
    assert_answers(load)
    assert_one_effect_each(load, books)


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ({"times": 3}, {"closeConnection": True}),
        ({"times": 1}, {"errorCode": 91}),
        ({"times": 40}, {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}),
    ],
    ids=["connection lost at the commit", "shutting down at the commit", "write conflicts"],
)
def test_commits_that_fail_for_a_moment_are_repeated_unnoticed(
    app: AppServer, load: Load, root: Database[dict[str, Any]], books: Database[dict[str, Any]], mode: Any, how: dict[str, Any]
) -> None:
    commands = ["update", "insert"] if how.get("errorCode") == 112 else ["commitTransaction"]
    with load.running(), fail_point(root, mode, failCommands=commands, **how) as end:
        load.wait_for(100)
        fired = end()
    assert fired == mode["times"]
    assert_answers(load)
    assert_one_effect_each(load, books)


@pytest.mark.parametrize(
    "how",
    [
        {"closeConnection": True},
        {"errorCode": 262, "errorLabels": ["UnknownTransactionCommitResult", "RetryableWriteError"]},
        {"writeConcernError": {"code": 64, "errmsg": "the commit has happened all the same", "errInfo": {"wtimeout": True}}},
    ],
    ids=["connection lost", "outcome withheld", "committed and unknown"],
)
def test_a_commit_without_an_answer_is_outcome_unknown_and_its_retry_settles_it(
    app: AppServer, load: Load, root: Database[dict[str, Any]], books: Database[dict[str, Any]], how: dict[str, Any]
) -> None:
    wallet = load.wallets[1]
    with fail_point(root, "alwaysOn", failCommands=["commitTransaction"], **how) as end:
        load.tries.append(load.send(0, unique("never-answered"), wallet))
        assert end() > 0
    assert (load.tries[0].status, load.tries[0].code) == (503, "outcome-unknown")
    assert_answers(load)
    assert_one_effect_each(load, books)


# Too much at a time


def median(records: list[Record]) -> float:
    """Of the seconds until the answer."""
    return statistics.median(record.returned - record.invoked for record in records)


def test_an_overloaded_ledger_refuses_at_once_goes_on_and_loses_nothing(
    stack: LocalStack, tmp_path: Path, root: Database[dict[str, Any]], books: Database[dict[str, Any]]
) -> None:
    slow = {"failCommands": ["commitTransaction"], "blockConnection": True, "blockTimeMS": 300}
    with AppServer(stack.environ, tmp_path, WORKERS=1, LEDGER_QUEUE_MAX=4, LEDGER_BATCH_MAX=4) as small:
        admin = Client.admin(small.url, Path(stack.environ["SECRETS_DIR"]))
        recorder = Recorder(OverHttp(small.url, admin.token))
        wallets = [Client.register(small.url).wallet()["id"] for _ in range(3)]
        verbs = AllVerbs(recorder, wallets, callers=24)
        with fail_point(root, "alwaysOn", **slow), verbs.running():
            eventually(lambda: recorder.history.count(503) > 40, RECOVERY_SECONDS)
            verbs.wait_for(20)
            assert_alive(small)
            assert admin.call("GET", f"/wallets/{wallets[0]}").status_code == 200
        refused = [record for record in recorder.history.records if record.code == "backpressure"]
        assert len(refused) > 40
        assert {record.retry_after for record in refused} == {"1"}
        done = [record for record in recorder.history.records if record.is_done]
        assert median(refused) < median(done) / 2, "nobody waits for a refusal as one does for a commit"
        assert_history(recorder, books, wallets)


# Redis


def test_a_redis_that_dies_and_forgets_costs_no_credits_and_frees_nobody(
    stack: LocalStack, app: AppServer, load: Load, books: Database[dict[str, Any]]
) -> None:
    assert stack.redis is not None
    redis = stack.redis
    workers = app.workers()
    gone = Client.register(app.url)
    assert gone.call("POST", "/auth/logout").status_code == 204
    get_banned(app, "203.0.113.7")

    def forget_and_start() -> None:
        shutil.rmtree(redis.home)
        redis.start()

    with load.running():
        with outage(redis.kill, forget_and_start):
            assert redis.process.exit_code == -9
            eventually(lambda: health(app, "redis")[1] == "unhealthy", ANSWER_SECONDS)
            assert_reads_and_log_ins_without_redis(app, load.client)
            assert_problem(gone.call("GET", "/auth/me"), 401, "session-revoked")
            assert is_banned(app, "203.0.113.7")
        load.wait_for(50)
        with redis.client() as client:
            eventually(client.dbsize, ANSWER_SECONDS)
    for _ in range(6):
        assert_problem(gone.call("GET", "/auth/me"), 401, "session-revoked")
        assert is_banned(app, "203.0.113.7")
    assert_same_workers(app, workers)
    assert_answers(load)
    assert_one_effect_each(load, books)
    eventually(lambda: health(app, "redis") == (200, "healthy"), ANSWER_SECONDS)


def test_a_stalled_redis_costs_no_credits(stack: LocalStack, app: AppServer, load: Load, books: Database[dict[str, Any]]) -> None:
    assert stack.redis is not None
    workers = app.workers()
    with load.running():
        with outage(stack.redis.pause, stack.redis.resume):
            eventually(lambda: psutil.Process(stack.redis.pid).status() == psutil.STATUS_STOPPED, 1)
            assert_alive(app)
            eventually(lambda: health(app, "redis")[1] == "unhealthy", ANSWER_SECONDS)
            assert_reads_and_log_ins_without_redis(app, load.client)
        load.wait_for(50)
    assert_same_workers(app, workers)
    assert_answers(load)
    assert_one_effect_each(load, books)


def test_a_log_out_during_an_outage_of_redis_holds_when_redis_remembers_the_session(stack: LocalStack, app: AppServer) -> None:
    assert stack.redis is not None
    user = Client.register(app.url)
    assert user.call("GET", "/auth/me").status_code == 200
    with stack.redis.client() as client:
        assert eventually(lambda: client.keys("session:*"), 5), "redis was to remember that the session lives"
        client.bgrewriteaof()
        eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 10)
    with outage(stack.redis.kill, stack.redis.start):
        out = user.call("POST", "/auth/logout")
        # 503: it holds, and Redis will be told; a retry may come too early for that, or find nothing left to end.
        assert out.status_code in (204, 503)
        assert_problem(user.call("GET", "/auth/me"), 401, "session-revoked")
    eventually(lambda: user.call("GET", "/auth/me").status_code == 401, 5)
    for _ in range(6):
        assert_problem(user.call("GET", "/auth/me"), 401, "session-revoked")


def test_sockets_on_different_workers_hear_each_other_again_after_a_restart_of_redis(stack: LocalStack, app: AppServer) -> None:
    assert stack.redis is not None
    user = Client.register(app.url)
    near, far = on_two_workers(app, lambda: eventually(lambda: connect_if_possible(app, user), RECOVERY_SECONDS))
    room = unique("room")
    near.join(room)
    far.join(room)
    stack.redis.kill()
    stack.redis.start()

    def heard() -> bool:
        near.call("send_message", {"room": room, "data": "after"})
        return bool(far.received("message"))

    eventually(heard, RECOVERY_SECONDS)
    near.close()
    far.close()


def connect_if_possible(app: AppServer, user: Client) -> SocketClient | None:
    """None while a worker has not noticed yet that the Redis of the test before is back."""
    with suppress(SocketRefused):
        return SocketClient.connected(app.url, user.token)
    return None


def assert_reads_and_log_ins_without_redis(app: AppServer, user: Client) -> None:
    for _ in range(6):
        began = time.monotonic()
        assert user.wallet()["owner_id"] == user.user["id"]
        assert time.monotonic() - began < ANSWER_SECONDS
    for password, correct in ((PASSWORD, 200), ("not this passphrase", 401)):
        body = {"login": user.user["username"], "password": password}
        login = requests.post(f"{app.url}/auth/login", json=body, timeout=2 * ANSWER_SECONDS)
        assert login.status_code == correct or (login.status_code == 503 and "Retry-After" in login.headers), login.text


def from_address(app: AppServer, address: str) -> requests.Response:
    body = {"refresh_token": "not a token"}
    return requests.post(f"{app.url}/auth/refresh", json=body, headers={"X-Forwarded-For": address}, timeout=10)


def get_banned(app: AppServer, address: str) -> None:
    answers = [from_address(app, address).status_code for _ in range(310)]
    assert answers[-1] == 403
    assert 429 in answers


def is_banned(app: AppServer, address: str) -> bool:
    return assert_problem(from_address(app, address), 403, "banned")["status"] == 403


# Our own processes


def test_a_killed_worker_costs_connections_and_no_credits(app: AppServer, load: Load, books: Database[dict[str, Any]]) -> None:
    with load.running():
        victim = app.workers()[0]
        app.kill_worker()
        eventually(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE, 5)
        load.wait_for(50)
    eventually(lambda: len(app.workers()) == 2, 20)
    assert victim.pid not in {worker.pid for worker in app.workers()}
    assert_answers(load, (0, 201, 503))
    assert_one_effect_each(load, books)


def test_a_killed_master_takes_its_workers_along_and_a_restart_settles_everything(
    app: AppServer, load: Load, books: Database[dict[str, Any]]
) -> None:
    assert app.process is not None
    orphans = app.workers()
    with load.running():
        app.process.kill()
        app.process.wait()
        eventually(lambda: load.count(0), 10)
        assert_gone(orphans, STOP_SECONDS)
        app.start()
        load.wait_for(50)
    assert_answers(load, (0, 201, 503))
    assert_one_effect_each(load, books)


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_a_sigterm_under_load_lets_what_runs_finish_and_leaves_nothing_behind(
    stack: LocalStack, tmp_path: Path, books: Database[dict[str, Any]], mode: str
) -> None:
    assert stack.mongod is not None
    with AppServer(stack.environ, tmp_path, ASYNC_MODE=mode) as server:
        assert server.process is not None
        family = psutil.Process(server.process.pid).children(recursive=True)
        load = Load.prepare(server, Client.admin(server.url, Path(stack.environ["SECRETS_DIR"])))
        with load.running():
            # All callers are in the middle of a request when the signal comes.
            stack.mongod.pause()
            try:
                eventually(all_waiting(load), 5)
                asked = time.monotonic()
                server.process.terminate()
                eventually(lambda: time.monotonic() > asked + 0.5, 1)
            finally:
                stack.mongod.resume()
            code = server.process.wait(STOP_SECONDS)
    in_flight = [one for one in load.tries if one.began < asked < one.began + one.seconds]
    assert code == 0
    assert_gone(family)
    assert len(in_flight) >= 10
    assert {one.status for one in in_flight} == {201}
    assert_answers(load, (0, 201, 503))
    assert server.log_text().count('"worker stopped"') >= 2, "a worker was killed before it had come to its end"
    assert "Traceback" not in server.log_text()


def all_waiting(load: Load) -> Callable[[], bool]:
    """Whether no answer has come for half a second."""
    last = [(len(load.tries), time.monotonic())]

    def question() -> bool:
        if len(load.tries) != last[0][0]:
            last[0] = (len(load.tries), time.monotonic())
        return time.monotonic() - last[0][1] > 0.5

    return question
