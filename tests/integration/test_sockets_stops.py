"""What becomes of sockets when a worker is killed, when Redis is away, and when the server stops; in both modes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.app_server import AppServer
from tests.support.client import Client, unique
from tests.support.polling import assert_gone, eventually
from tests.support.sockets import BareSocket, SocketClient, on_two_workers, worker_memory, worker_of
from tools.local_stack import LocalStack
from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.redis_server import RedisServer

SOCKETS = 500
PRESENCE_SECONDS = 15
# What requests in flight get, and a little for an end that waits for nobody.
STOP_SECONDS = 5 + 3
RECOVERY_SECONDS = 15
# Of a worker, in bytes.
GROWTH = 25_000_000


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, secrets_dir: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), SecretFiles(secrets_dir))
    server.start()
    yield server
    server.resume()
    server.stop()


@pytest.fixture(scope="module", params=["eventlet", "gevent"])
def app(
    request: pytest.FixtureRequest, servers: LocalStack, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AppServer]:
    """Two workers of one mode; the last test of a mode stops them."""
    environ = {**servers.environ, "REDIS_URL": redis.url}
    with AppServer(environ, tmp_path_factory.mktemp(f"stops-{request.param}"), ASYNC_MODE=request.param) as running:
        yield running


@pytest.fixture
def user(app: AppServer) -> Client:
    return Client.register(app.url)


def left_in(redis: RedisServer) -> list[str]:
    """What sockets have left in Redis, other than the workers' own leases."""
    with redis.client() as client:
        names = [name.decode() for pattern in ("sockets:*", "room:*") for name in client.keys(pattern)]
    return [name for name in names if name != "sockets:workers"]


def eventually_nothing_left_in(redis: RedisServer) -> None:
    try:
        eventually(lambda: not left_in(redis), 10)
    except AssertionError as error:
        raise AssertionError(left_in(redis)) from error


def test_who_was_at_a_killed_worker_is_gone_for_the_others_soon_and_nothing_stays(app: AppServer, redis: RedisServer, user: Client) -> None:
    lost, witness = on_two_workers(app, lambda: SocketClient.connected(app.url, user.token))
    room = unique("room")
    lost.join(room)
    witness.join(room)
    witness.expect("presence", lambda data: data["size"] == 2)
    witness.events.clear()
    os.kill(worker_of(app, lost), signal.SIGKILL)
    witness.expect("presence", lambda data: data["size"] == 1, PRESENCE_SECONDS)
    assert witness.call("presence", {"room": room})["size"] == 1
    witness.close()
    eventually_nothing_left_in(redis)
    eventually(lambda: len(app.workers()) == 2 and app.is_ready(), 20)


@pytest.mark.parametrize("forgets", [False, True], ids=["stalled", "emptied"])
def test_sockets_outlive_an_outage_of_redis_and_everything_is_there_again(
    app: AppServer, redis: RedisServer, user: Client, forgets: bool
) -> None:
    near, far = on_two_workers(app, lambda: SocketClient.connected(app.url, user.token))
    room = unique("room")
    near.join(room)
    far.join(room)
    redis.kill() if forgets else redis.pause()
    try:
        problem = eventually(lambda: near.call("send_message", {"room": room, "data": "lost"}).get("error"), 10)
        assert (problem["status"], problem["code"]) == (503, "unavailable")
        for event, data in (("join_room", {"room": unique("other")}), ("presence", {"room": room}), ("leave_room", {"room": room})):
            assert far.call(event, data)["error"]["code"] == "unavailable"
        eventually(lambda: requests.get(f"{app.url}/health/ready", timeout=5).status_code == 503, 10)
        eventually(lambda: metric(app, "credit_socket_queue_up") == 0, 15)
    finally:
        if forgets:
            shutil.rmtree(redis.home)
            redis.start()
        else:
            redis.resume()
    assert near.io.connected
    assert far.io.connected
    # A worker whose link outlived the stall has missed nothing.
    eventually(lambda: near.received("resync") or far.received("resync"), RECOVERY_SECONDS)
    eventually(app.is_ready, RECOVERY_SECONDS)
    eventually(lambda: metric(app, "credit_socket_queue_up") == 1, RECOVERY_SECONDS)
    eventually(lambda: near.call("send_message", {"room": room, "data": "heard"})["ok"], 5)
    far.expect("message", lambda data: data["data"] == "heard")
    eventually(lambda: far.call("presence", {"room": room}).get("size") == 2, RECOVERY_SECONDS)
    near.close()
    far.expect("presence", lambda data: data["size"] == 1)
    far.close()
    eventually_nothing_left_in(redis)


def metric(app: AppServer, name: str) -> float:
    lines = requests.get(f"{app.url}/metrics", timeout=5).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_sockets_that_come_and_go_leave_nothing(app: AppServer, redis: RedisServer, user: Client, count: int) -> None:
    def come_and_go(number: int) -> None:
        client = BareSocket(app.url)
        client.sign_in(user.token)
        client.send(b'42["join_room",{"room":"leak-%d"}]' % (number % 50))
        if number % 2:
            client.send(b"1")
        client.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(100)))
        eventually_nothing_left_in(redis)
        before = worker_memory(app)
        list(pool.map(come_and_go, range(count)))
    eventually_nothing_left_in(redis)
    eventually(lambda: metric(app, "credit_socket_connections") == 0, 5)
    assert worker_memory(app) - before < GROWTH


def test_a_stop_tells_hundreds_of_sockets_why_and_leaves_nothing(app: AppServer, redis: RedisServer, user: Client) -> None:
    """Last of its mode."""
    stock = SocketClient.connected(app.url, user.token)
    stock.join(unique("room"))
    deaf = BareSocket(app.url)

    def enter(number: int) -> BareSocket:
        client = BareSocket(app.url)
        client.sign_in(user.token)
        client.send(b'42["join_room",{"room":"stop-%d"}]' % (number % 7))
        return client

    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(enter, range(SOCKETS)))
    assert app.process is not None
    family = psutil.Process(app.process.pid).children(recursive=True)
    app.process.terminate()
    assert app.process.wait(STOP_SECONDS) == 0
    stock.expect_end()
    assert stock.received("server_draining") == [{"reason": "shutdown", "retry_after": 1}]
    for client in clients:
        heard = b""
        while piece := client.link.recv(65536):
            heard += piece
        assert b'42["server_draining",{"reason":"shutdown","retry_after":1}]' in heard
        client.close()
    deaf.close()
    assert_gone(family)
    assert not left_in(redis)
    log = app.log_text()
    assert '"worker stopped"' in log
    assert "Traceback" not in log
