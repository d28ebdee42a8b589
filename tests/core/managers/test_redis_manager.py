"""Redis: what lies there is encrypted, leases end by themselves, and its failures are ours within the time-out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.managers.base import BootError
from core.managers.redis_manager import RedisManager
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.in_process import Managers
from tools.error_handling.errors import Unavailable
from tools.local_stack.redis_server import RedisServer
from utils.config.config import ConfigError

TIMEOUT = 0.3
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Managers:
    return app_manager_factory("redis")


@pytest.fixture(scope="module")
def redis(managers: Managers) -> RedisManager:
    manager: RedisManager = managers.redis_manager
    return manager


@pytest.fixture
def key(redis: RedisManager) -> Iterator[str]:
    name = unique("test")
    yield name
    redis.delete(name)


# Values


@given(value=Json)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_a_value_comes_back_as_it_was(redis: RedisManager, key: str, value: Any) -> None:
    redis.set(key, value)
    assert redis.get(key) == value


def test_what_is_not_there_is_none(redis: RedisManager, key: str) -> None:
    assert redis.get(key) is None
    assert not redis.exists(key)
    assert redis.delete(key) == 0
    assert redis.delete() == 0


def test_a_value_ends_with_its_time_to_live(redis: RedisManager, key: str) -> None:
    redis.set(key, "short", ttl=1)
    assert 0 < redis._client.pttl(key) <= 1000
    redis.set(key, "for ever")
    assert redis._client.ttl(key) == -1


def test_values_and_sessions_are_encrypted_at_rest(redis: RedisManager, key: str) -> None:
    redis.set(key, {"name": "canary-value"}, ttl=60)
    redis.set_session(key, {"name": "canary-session"})
    for name in (key, f"session_data:{key}"):
        stored = redis._client.get(name)
        assert stored.startswith(b"gAAAA")
        assert b"canary" not in stored
    redis.delete_session(key)


def test_the_same_value_is_never_stored_as_the_same_bytes(redis: RedisManager, key: str) -> None:
    stored = set()
    for _ in range(3):
        redis.set(key, "same")
        stored.add(redis._client.get(key))
    assert len(stored) == 3


@pytest.mark.parametrize("foreign", [b"plain text", b"", b"gAAAAABnot-ours"])
def test_a_value_that_our_key_does_not_open_counts_as_absent(foreign: bytes, redis: RedisManager, key: str) -> None:
    redis._client.set(key, foreign)
    assert redis.get(key) is None


def test_a_session_is_kept_read_and_deleted(redis: RedisManager, key: str) -> None:
    redis.set_session(key, {"user_id": "u_1"}, ttl=60)
    assert redis.get_session(key) == {"user_id": "u_1"}
    redis.delete_session(key)
    assert redis.get_session(key) is None


def test_names_are_keyed_hashes(redis: RedisManager) -> None:
    name = redis.pseudonym("ip:203.0.113.7")
    assert name == redis.pseudonym("ip:203.0.113.7") != redis.pseudonym("ip:203.0.113.8")
    assert "203" not in name


# Members with a lease


def test_members_are_there_until_they_leave(redis: RedisManager, key: str) -> None:
    for member in ("one", "two", "two"):
        redis.add_member(key, member, 30)
    assert sorted(redis.members(key)) == ["one", "two"]
    redis.remove_member(key, "one")
    redis.remove_member(key, "never joined")
    assert redis.members(key) == ["two"]


def test_a_lease_that_is_not_renewed_ends(redis: RedisManager, key: str) -> None:
    redis.add_member(key, "short", 1)
    redis.add_member(key, "long", 30)
    ended = time.monotonic() + 3
    while redis.members(key) != ["long"]:
        assert time.monotonic() < ended
        time.sleep(0.05)
    assert redis._client.zcard(key) == 2, "until someone joins, it is only not shown"
    redis.add_member(key, "third", 30)
    assert redis._client.zcard(key) == 2


def test_a_short_lease_does_not_end_the_leases_of_the_others(redis: RedisManager, key: str) -> None:
    redis.add_member(key, "long", 30)
    redis.add_member(key, "short", 1)
    time.sleep(1.2)
    assert redis.members(key) == ["long"]


def test_a_set_without_renewals_disappears(redis: RedisManager, key: str) -> None:
    redis.add_member(key, "one", 30)
    assert 0 < redis._client.ttl(key) <= 30


# Failures


def test_a_redis_that_hangs_is_unavailable_within_the_time_out(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    redis.set("kept", 1)
    own_redis.pause()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        redis.get("kept")
    assert time.monotonic() - began < 2 * TIMEOUT + 0.2
    own_redis.resume()
    assert redis.get("kept") == 1


def test_a_redis_that_is_known_to_be_away_costs_no_time_and_comes_back(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    own_redis.kill()
    for _ in range(3):
        with pytest.raises(Unavailable) as refusal:
            redis.set("x", 1)
        assert refusal.value.headers["Retry-After"] == "1"
    assert redis.is_down
    assert redis.health_check()["status"] == "unhealthy"
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(Unavailable):
            redis.get("x")
    assert time.monotonic() - began < TIMEOUT
    own_redis.start()
    back = time.monotonic() + 5
    while redis.is_down and time.monotonic() < back:
        redis.health_check()
        time.sleep(0.1)
    assert redis.health_check()["status"] == "healthy"
    redis.set("x", 1)


def test_a_command_that_is_cut_off_is_not_sent_again(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    assert redis.run_script("return redis.call('INCR', KEYS[1])", ["counter"], []) == 1
    own_redis.pause()
    with pytest.raises(Unavailable):
        redis.run_script("return redis.call('INCR', KEYS[1])", ["counter"], [])
    own_redis.resume()
    time.sleep(0.1)
    assert redis.run_script("return redis.call('INCR', KEYS[1])", ["counter"], []) <= 3


def test_more_callers_than_connections_wait_for_their_turn(app_manager_factory: Factory) -> None:
    redis = app_manager_factory("redis", REDIS_POOL_SIZE=2, REDIS_TIMEOUT=2).redis_manager
    gate, failures = threading.Barrier(40), []

    def work() -> None:
        gate.wait()
        try:
            for _ in range(5):
                redis.get("nothing")
        except Unavailable as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not redis.is_down


def test_a_script_survives_that_redis_forgets_it(redis: RedisManager) -> None:
    assert redis.run_script("return 7", [], []) == 7
    redis._client.script_flush()
    assert redis.run_script("return 7", [], []) == 7


# Boot


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "redis at 127.0.0.1:1/0: not reachable"),
        ({"REDIS_URL": "http://127.0.0.1/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://127.0.0.1:port/0"}, "REDIS_URL"),
    ],
)
def test_an_address_that_cannot_be_used_stops_the_boot_by_name(change: dict[str, str], reason: str, app_manager_factory: Factory) -> None:
    with pytest.raises((BootError, ConfigError), match=reason):
        app_manager_factory("redis", **change)


def test_a_wrong_password_stops_the_boot_by_name(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("requirepass", "another one")
    with pytest.raises(BootError, match=r"password refused .redis_password."):
        app_manager_factory("redis", REDIS_URL=own_redis.url)


def test_a_redis_that_evicts_stops_the_boot_by_name(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(BootError, match="maxmemory-policy is 'allkeys-lru', it must be noeviction"):
        app_manager_factory("redis", REDIS_URL=own_redis.url)


def test_the_options_hold_no_retries_and_short_time_outs(redis: RedisManager, managers: Managers) -> None:
    options = redis.connection_options()
    assert options["socket_timeout"] == options["socket_connect_timeout"] == managers.config["REDIS_TIMEOUT"]
    assert options["retry"].get_retries() == 0
    assert json.dumps(managers.config["REDIS_URL"]).find("@") == -1
