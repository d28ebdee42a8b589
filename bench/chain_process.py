"""One measurement of the request chain in a process of its own: `python -m bench.chain_process --rounds 200 --requests 40`."""

from __future__ import annotations

import os

from utils import green

# Before any other import: what is imported earlier keeps its blocking sockets.
green.patch(os.environ.get("ASYNC_MODE", "eventlet"))

import argparse  # noqa: E402
import functools  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from datetime import timedelta  # noqa: E402
from typing import Any  # noqa: E402

from flask import Flask, Response  # noqa: E402

from core import metrics  # noqa: E402
from core.managers.app_manager import AppManager  # noqa: E402
from core.managers.redis_connections import connection_pool  # noqa: E402
from core.web import request_chain  # noqa: E402
from core.web.routing import EVERYONE, Answer, Route  # noqa: E402
from utils.clock import utc_now  # noqa: E402

_PATH, _BODY = "/bench/chain", {"status": "ok"}
_USER, _SESSION = "u_bench", "s_bench"
_MICROSECONDS = 1e6


def main() -> None:
    """Print one JSON object: microseconds of CPU a request with the chain and without it, and those of its parts."""
    parser = argparse.ArgumentParser(prog="python -m bench.chain_process")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--requests", type=int, default=40, help="in each round; short ones find the quiet moments of a busy machine")
    options = parser.parse_args()
    manager = AppManager()
    manager.initialize()
    try:
        print(json.dumps(_measure(manager, options.rounds, options.requests)), flush=True)
    finally:
        manager.dispose()


def _measure(manager: AppManager, rounds: int, requests: int) -> dict[str, Any]:
    manager.chain.mount([Route("GET", _PATH, lambda call: Answer(_BODY), EVERYONE, "Answers, and does nothing else", limit="money")])
    assert manager.app is not None
    chain, bare = _caller(manager.app, _token(manager)), _caller(_bare_app(), "")
    for call in (chain, bare):
        _cpu(call, 500)  # caches, connections, scripts
    pairs = [(_cpu(chain, requests), _cpu(bare, requests)) for _ in range(rounds)]
    return {
        "chain": [chain_us for chain_us, _ in pairs],
        "bare": [bare_us for _, bare_us in pairs],
        "round_trips": _round_trips(manager, chain, requests),
        "parts": _parts(manager, chain, rounds, requests),
        "new_token": _new_token(manager, requests),
    }


def _bare_app() -> Flask:
    """The same answer on the same path, with nothing in front."""
    app = Flask("bare", static_folder=None)
    app.add_url_rule(_PATH, view_func=lambda: Response(json.dumps(_BODY), mimetype="application/json"), endpoint="bare")
    return app


def _token(manager: AppManager) -> str:
    row = {"_id": _SESSION, "user_id": _USER, "revoked_at": None, "expires_at": utc_now() + timedelta(hours=1)}
    manager.database_manager.collection("user_sessions").replace_one({"_id": _SESSION}, row, upsert=True)
    return manager.jwt_manager.generate_token(_USER, session_id=_SESSION)


def _caller(app: Flask, token: str) -> Callable[[], None]:
    """A call of the application as the server makes it."""
    base = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": _PATH,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "5000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "127.0.0.1:5000",
        "HTTP_ACCEPT": "application/json",
        "HTTP_USER_AGENT": "bench/1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if token:
        base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    statuses: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return io.BytesIO().write

    def call() -> None:
        answer: Any = app.wsgi_app({**base, "wsgi.input": io.BytesIO()}, start_response)
        b"".join(answer)
        answer.close()
        if statuses.pop() != "200 OK":
            raise RuntimeError("the bench measures answers, not errors")

    return call


def _cpu(call: Callable[[], object], times: int) -> float:
    """Microseconds of this thread's CPU a call: time that it waits for Redis does not count."""
    began = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - began) / times * _MICROSECONDS


def _new_token(manager: AppManager, times: int) -> float:
    """What a token costs that this worker sees for the first time."""
    tokens = [manager.jwt_manager.generate_token(_USER) for _ in range(times)]
    return min(_cpu(functools.partial(manager.jwt_manager.read_token, token, fingerprint=""), 1) for token in tokens)


def _round_trips(manager: AppManager, call: Callable[[], None], times: int) -> float:
    """Commands a request that the connections to Redis carry; MongoDB is not asked at all, or `call` would take longer."""
    sent: list[int] = []
    connection_class = connection_pool(manager.config).connection_class
    send = connection_class.send_packed_command

    def counted(connection: Any, command: Any, **options: Any) -> Any:
        sent.append(len(command))
        return send(connection, command, **options)

    connection_class.send_packed_command = counted
    try:
        for _ in range(times):
            call()
    finally:
        connection_class.send_packed_command = send
    return sum(sent) / times


class _Meter:
    """Adds up the CPU and the time of functions while they run in the real chain; what one calls is not billed to it too."""

    def __init__(self) -> None:
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)
        self._inner = [(0.0, 0.0)]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, billed to `part`."""

        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            self._inner.append((0.0, 0.0))
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
                inner_cpu, inner_wall = self._inner.pop()
                self.cpu[part] += cpu - inner_cpu
                self.wall[part] += wall - inner_wall
                outer_cpu, outer_wall = self._inner[-1]
                self._inner[-1] = outer_cpu + cpu, outer_wall + wall

        return metered


def _parts(manager: AppManager, call: Callable[[], None], rounds: int, requests: int) -> dict[str, dict[str, float]]:
    """Microseconds a request of each part, in its best round: `cpu`, and `wall` (with the waits)."""
    meter = _Meter()
    chain = request_chain.RequestChain
    places = [
        ("ids, context, deadline", chain, "_begin"),
        ("token, known", manager.jwt_manager, "read_token"),
        ("limits, bans, revocation", manager.rate_limiter_manager, "check_rate_limit"),
        ("redis round trip", manager.redis_manager, "run_script"),
        ("headers", chain, "_add_headers"),
        ("metrics", metrics, "observe_request"),
        ("log line", request_chain, "log_request"),
    ]
    found: dict[str, dict[str, float]] = {}
    kept = [(owner, name, getattr(owner, name)) for _, owner, name in places]
    for part, owner, name in places:
        setattr(owner, name, meter.wrap(part, getattr(owner, name)))
    try:
        for _ in range(rounds):
            meter.cpu.clear()
            meter.wall.clear()
            for _ in range(requests):
                call()
            for part in meter.cpu:
                now = {"cpu": meter.cpu[part] / requests * _MICROSECONDS, "wall": meter.wall[part] / requests * _MICROSECONDS}
                found[part] = {kind: min(now[kind], found.get(part, now)[kind]) for kind in now}
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)
    return found


if __name__ == "__main__":
    main()
