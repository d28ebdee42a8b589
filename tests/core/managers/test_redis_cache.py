"""The cache: one loads and the others wait, what was invalidated never comes back, and without Redis it still loads once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.managers.redis_manager import RedisManager
from tests.core.conftest import Factory
from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.polling import eventually
from tools.error_handling.errors import Conflict, Unavailable
from tools.local_stack.redis_server import RedisServer
from utils import deadline

TIMEOUT = 0.3
CALLERS = 8
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def workers(app_manager_factory: Factory) -> list[RedisManager]:
    """Two workers, each with a manager of its own."""
    return [app_manager_factory("redis").redis_manager for _ in range(2)]


@pytest.fixture(scope="module")
def redis(workers: list[RedisManager]) -> RedisManager:
    return workers[0]


@pytest.fixture
def key() -> str:
    return unique("cached")


class Loader:
    """Counts its calls, and can be held until told to go on."""

    def __init__(self, value: Any = "value", error: BaseException | None = None) -> None:
        self.value, self.error = value, error
        self.calls = 0
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self) -> Any:
        self.calls += 1
        self.began.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return self.value

    def held(self) -> Loader:
        self.go.clear()
        return self


def in_background(work: Callable[[], Any]) -> Future[Any]:
    """`work` on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def entry_of(redis: RedisManager, key: str) -> str:
    return f"cache:{redis.pseudonym(key)}"


def make_due(redis: RedisManager, key: str) -> None:
    """As if the entry had come to the part of its life in which one caller loads it anew."""
    assert redis._client.hset(entry_of(redis, key), "r", 0) == 0


# Values


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, "text", {"a": (1, {2})}])
def test_whatever_was_loaded_is_kept_what_is_false_too(value: Any, redis: RedisManager, key: str) -> None:
    load = Loader(value)
    assert [redis.cached(key, load, 60) for _ in range(3)] == [value] * 3
    assert load.calls == 1


def test_a_cached_value_is_shared_by_all_workers_and_owned_by_each_caller(workers: list[RedisManager], key: str) -> None:
    first, second = workers
    load = Loader(["a"])
    first.cached(key, load, 60).append("changed by its caller")
    second.cached(key, load, 60).append("by another")
    assert first.cached(key, load, 60) == ["a"]
    assert load.calls == 1


def test_an_entry_ends_with_its_time_to_live(redis: RedisManager, key: str) -> None:
    load = Loader()
    redis.cached(key, load, 0.1)
    eventually(lambda: redis.cached(key, load, 0.1) and load.calls > 1, 5)


def test_many_entries_of_one_moment_are_not_due_at_the_same_one(redis: RedisManager, key: str) -> None:
    due = []
    for number in range(20):
        redis.cached(f"{key}-{number}", Loader(), 1000)
        due.append(int(redis._client.hget(entry_of(redis, f"{key}-{number}"), "r")))
    assert len(set(due)) > 15
    assert max(due) - min(due) < 160_000


def test_a_type_that_cannot_be_kept_is_refused_and_the_next_call_loads_again(redis: RedisManager, key: str) -> None:
    with pytest.raises(TypeError, match="object"):
        redis.cached(key, object, 60)
    assert redis.cached(key, Loader("fine"), 60) == "fine"


@pytest.mark.parametrize("damage", [b"gAAAAAnot-ours", b""])
def test_an_entry_that_does_not_open_is_loaded_anew(damage: bytes, redis: RedisManager, key: str) -> None:
    load = Loader()
    redis.cached(key, load, 60)
    redis._client.hset(entry_of(redis, key), "v", damage)
    assert redis.cached(key, load, 60) == "value"
    make_due(redis, key)
    redis._client.hset(entry_of(redis, key), "v", damage)
    assert redis.cached(key, load, 60) == "value"
    assert load.calls == 3


# Single flight


def test_of_many_callers_in_one_worker_one_loads(redis: RedisManager, key: str) -> None:
    load = Loader().held()

    def call(number: int) -> Any:
        if number == 0:
            load.began.wait(10)
            load.go.set()
            return "value"
        return redis.cached(key, load, 60)

    assert at_once(CALLERS, call) == ["value"] * CALLERS
    assert load.calls == 1


def test_of_many_callers_in_two_workers_one_loads(workers: list[RedisManager], key: str) -> None:
    load = Loader().held()

    def call(number: int) -> Any:
        if number == 0:
            load.began.wait(10)
            load.go.set()
            return "value"
        return workers[number % 2].cached(key, load, 60)

    assert at_once(CALLERS, call) == ["value"] * CALLERS
    assert load.calls == 1


def test_what_the_loader_raises_reaches_all_who_wait_and_is_not_kept(redis: RedisManager, key: str) -> None:
    load = Loader(error=Conflict("no", code="of-the-loader")).held()
    waiting = [in_background(lambda: redis.cached(key, load, 60)) for _ in range(3)]
    assert load.began.wait(10)
    eventually(lambda: redis._cache._flights, 5)
    load.go.set()
    assert {future.exception(10).code for future in waiting} == {"of-the-loader"}  # type: ignore[union-attr]
    assert redis.cached(key, Loader("after"), 60) == "after"


def test_a_failed_load_frees_the_other_workers_at_once(workers: list[RedisManager], key: str) -> None:
    with pytest.raises(Conflict):
        workers[0].cached(key, Loader(error=Conflict("no")), 60)
    assert workers[0]._client.exists(f"load:{workers[0].pseudonym(key)}") == 0
    assert workers[1].cached(key, Loader("second"), 60) == "second"


def test_a_loader_that_dies_holds_nobody_up_for_long(workers: list[RedisManager], key: str) -> None:
    dead, alive = workers
    # What a killed worker leaves behind: its lock, which nobody releases.
    name = dead.pseudonym(key)
    dead._client.set(f"load:{name}", f"{'0' * 32} ", px=300)
    assert alive.cached(key, Loader("alive"), 60) == "alive"


def test_a_loader_whose_greenlet_is_killed_answers_those_who_wait(redis: RedisManager, key: str) -> None:
    load = Loader(error=SystemExit()).held()
    first = in_background(lambda: redis.cached(key, load, 60))
    assert load.began.wait(10)
    second = in_background(lambda: redis.cached(key, load, 60))
    flight = eventually(lambda: list(redis._cache._flights.values()), 5)[0]
    eventually(lambda: len(flight._condition._waiters) == 1, 5)  # type: ignore[attr-defined]
    load.go.set()
    assert isinstance(first.exception(10), SystemExit)
    assert isinstance(second.exception(10), Unavailable)


@pytest.mark.parametrize("other_worker", [False, True])
def test_who_waits_waits_no_longer_than_its_deadline(other_worker: bool, workers: list[RedisManager], key: str) -> None:
    load = Loader().held()
    loading = in_background(lambda: workers[0].cached(key, load, 60))
    assert load.began.wait(10)

    def wait() -> Any:
        deadline.start(0.2)
        return workers[1 if other_worker else 0].cached(key, load, 60)

    assert isinstance(in_background(wait).exception(10), Unavailable)
    load.go.set()
    assert loading.result(10) == "value"
    assert load.calls == 1


def test_a_load_that_outlives_its_lock_is_not_begun_twice_in_its_worker(redis: RedisManager, key: str) -> None:
    load = Loader().held()
    first = in_background(lambda: redis.cached(key, load, 60))
    assert load.began.wait(10)
    assert redis._client.delete(f"load:{redis.pseudonym(key)}") == 1
    second = in_background(lambda: redis.cached(key, load, 60))
    eventually(lambda: redis._client.exists(f"load:{redis.pseudonym(key)}"), 5)
    load.go.set()
    assert (first.result(10), second.result(10), load.calls) == ("value", "value", 1)


GREEN = """
import json, sys
from utils import green
green.patch(sys.argv[1])
import threading, time
from core.managers.redis_manager import RedisManager
from tests.support.in_process import Managers
assert green.current_mode() == sys.argv[1]
managers = Managers(json.loads(sys.stdin.read()), "redis")
redis, calls, found = managers.redis_manager, [], []
def load():
    calls.append(1)
    time.sleep(0.1)
    return {"a": 1}
for key in ("redis", "away"):
    if key == "away":
        redis._breaker.failed(), redis._breaker.failed(), redis._breaker.failed()
    threads = [threading.Thread(target=lambda: found.append(redis.cached(key, load, 60, ["tag"]))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert found == [{"a": 1}] * 40, found
assert len(calls) == 2, len(calls)
managers.dispose()
print("ok")
"""


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_of_many_green_threads_one_loads(mode: str, environ: dict[str, str], own_redis: RedisServer) -> None:
    settings = json.dumps({**environ, "REDIS_URL": own_redis.url})
    command = [sys.executable, "-W", "ignore", "-c", GREEN, mode]
    done = subprocess.run(command, cwd=ROOT, input=settings, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


# Early refresh


def test_shortly_before_the_end_one_loads_anew_and_the_others_are_served(workers: list[RedisManager], key: str) -> None:
    first, second = workers
    first.cached(key, Loader("old"), 60)
    make_due(first, key)
    load = Loader("new").held()
    refreshing = in_background(lambda: first.cached(key, load, 60))
    assert load.began.wait(10)
    assert [worker.cached(key, load, 60) for worker in (first, second)] == ["old", "old"]
    load.go.set()
    assert refreshing.result(10) == "new"
    assert second.cached(key, load, 60) == "new"
    assert load.calls == 1


def test_a_refresh_that_fails_serves_what_is_there_and_is_not_tried_again_at_once(redis: RedisManager, key: str) -> None:
    redis.cached(key, Loader("old"), 60)
    make_due(redis, key)
    load = Loader(error=Unavailable("the database is away"))
    assert [redis.cached(key, load, 60) for _ in range(3)] == ["old"] * 3
    assert load.calls == 1


# Tags


def test_an_invalidation_ends_all_under_its_tag_in_all_workers_and_nothing_else(workers: list[RedisManager], key: str) -> None:
    first, second = workers
    tags = {"a": [f"{key}-x"], "b": [f"{key}-x", f"{key}-y"], "c": [f"{key}-y"], "d": []}
    for name, under in tags.items():
        first.cached(key + name, Loader("old"), 60, under)
    second.invalidate_tags(f"{key}-x")
    found = {name: first.cached(key + name, Loader("new"), 60, under) for name, under in tags.items()}
    assert found == {"a": "new", "b": "new", "c": "old", "d": "old"}


def test_an_invalidation_is_one_round_trip_however_much_it_ends(redis: RedisManager, key: str) -> None:
    for number in range(20):
        redis.cached(f"{key}-{number}", Loader(), 60, [f"{key}-x", f"{key}-y"])
    before = redis._client.info("stats")["total_commands_processed"]
    redis.invalidate_tags(f"{key}-x", f"{key}-y")
    assert redis._client.info("stats")["total_commands_processed"] - before == 2, "the invalidation, and the question before it"


def test_a_hit_is_one_round_trip(redis: RedisManager, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    redis.cached(key, Loader(), 60, [f"{key}-x", f"{key}-y"])
    trips = []
    guard = redis.guard
    monkeypatch.setattr(redis, "guard", lambda command: trips.append(1) or guard(command))
    redis.cached(key, Loader(), 60, [f"{key}-x", f"{key}-y"])
    assert len(trips) == 1


@pytest.mark.parametrize("other_worker", [False, True])
def test_a_load_that_began_before_an_invalidation_is_never_served_after_it(
    other_worker: bool, workers: list[RedisManager], key: str
) -> None:
    loader, other = workers[0], workers[1 if other_worker else 0]
    load = Loader("read before the write").held()
    early = in_background(lambda: loader.cached(key, load, 60, [key]))
    assert load.began.wait(10)
    other.invalidate_tags(key)
    # Nobody waits for it any more, in its own worker neither ...
    assert other.cached(key, Loader("read after the write"), 60, [key]) == "read after the write"
    load.go.set()
    assert early.result(10) == "read before the write"
    # ... and it did not overwrite what is true.
    for worker in workers:
        assert worker.cached(key, Loader("loaded again"), 60, [key]) == "read after the write"


def test_a_load_that_began_before_an_invalidation_is_not_kept_when_it_ends_after(redis: RedisManager, key: str) -> None:
    load = Loader("before").held()
    early = in_background(lambda: redis.cached(key, load, 60, [key]))
    assert load.began.wait(10)
    redis.invalidate_tags(key)
    load.go.set()
    early.result(10)
    assert redis.cached(key, Loader("after"), 60, [key]) == "after"


def test_a_redis_that_lost_a_tag_does_not_bring_back_what_was_under_it(redis: RedisManager, key: str) -> None:
    redis.cached(key, Loader("first"), 60, [key])
    redis._client.delete(f"tag:{redis.pseudonym(key)}")
    assert redis.cached(key, Loader("second"), 60, [key]) == "second"


def test_a_tag_lives_as_long_as_the_longest_of_what_is_under_it(redis: RedisManager, key: str) -> None:
    redis.cached(key + "long", Loader("long"), 1000, [key])
    redis.cached(key + "short", Loader("short"), 1, [key])
    assert redis._client.ttl(f"tag:{redis.pseudonym(key)}") > 900


# While Redis is away


@pytest.mark.parametrize("outage", ["kill", "pause"])
def test_while_redis_is_away_one_loads_for_all_who_wait_and_nothing_is_kept(
    outage: str, app_manager_factory: Factory, own_redis: RedisServer
) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    assert redis.cached("key", Loader("from redis"), 60) == "from redis"
    getattr(own_redis, outage)()
    load = Loader("loaded").held()
    waiting = [in_background(lambda: redis.cached("key", load, 60)) for _ in range(CALLERS)]
    assert load.began.wait(10)
    flight = eventually(lambda: list(redis._cache._flights.values()), 5)[0]
    eventually(lambda: len(flight._condition._waiters) == CALLERS - 1, 10)
    load.go.set()
    assert [future.result(10) for future in waiting] == ["loaded"] * CALLERS
    assert load.calls == 1
    assert redis.cached("key", load, 60) == "loaded"
    assert load.calls == 2
    own_redis.resume() if outage == "pause" else own_redis.start()
    eventually(lambda: keeps_what_it_loads(redis), 5)


def is_healthy(redis: RedisManager) -> bool:
    return redis.health_check()["status"] == "healthy"


def keeps_what_it_loads(redis: RedisManager) -> bool:
    """Whether it does so in Redis: away, it would load each time."""
    load = Loader()
    return redis.cached("else", load, 600) == redis.cached("else", load, 600) and load.calls < 2


@pytest.mark.parametrize("comes_back", [is_healthy, keeps_what_it_loads])
def test_an_invalidation_while_redis_is_away_holds_when_it_comes_back(
    comes_back: Callable[[RedisManager], bool], app_manager_factory: Factory, own_redis: RedisServer
) -> None:
    first, second = (app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager for _ in range(2))
    first.cached("key", Loader("old"), 600, ["tag"])
    first.cached("untouched", Loader("old"), 600, ["other tag"])
    own_redis.pause()
    first.invalidate_tags("tag")
    assert first.cached("key", Loader("new"), 600, ["tag"]) == "new"
    own_redis.resume()
    eventually(lambda: comes_back(first), 5)
    assert second.cached("key", Loader("newest"), 600, ["tag"]) == "newest"
    assert first.cached("untouched", Loader("new"), 600, ["other tag"]) == "old"
    assert not first._cache._owed


def test_an_invalidation_that_comes_while_an_older_one_is_carried_out_is_not_taken_for_it(
    redis: RedisManager, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> int:
        raise Unavailable("redis went away again")

    def delete_while_another_comes(*names: str) -> int:
        with monkeypatch.context() as inner:
            inner.setattr(redis, "delete", fail)
            redis.invalidate_tags(key)
        return len(names)

    with monkeypatch.context() as outer:
        outer.setattr(redis, "delete", delete_while_another_comes)
        redis.invalidate_tags(key)
    assert len(redis._cache._owed) == 1
    redis.invalidate_tags()
    assert not redis._cache._owed


def test_a_redis_that_goes_away_during_a_load_costs_only_the_keeping(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager

    def load() -> str:
        own_redis.kill()
        return "loaded"

    began = time.monotonic()
    assert redis.cached("key", load, 60) == "loaded"
    assert time.monotonic() - began < 5
    assert not redis._cache._flights


def test_a_wiped_redis_and_forgotten_scripts_are_no_matter(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url).redis_manager
    redis.cached("key", Loader("old"), 60, ["tag"])
    with own_redis.client() as client:
        client.flushall()
        client.script_flush()
    load = Loader("new")
    assert [redis.cached("key", load, 60, ["tag"]) for _ in range(2)] == ["new"] * 2
    assert load.calls == 1
