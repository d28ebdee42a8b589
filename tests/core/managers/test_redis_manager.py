"""Redis: what lies there is encrypted, leases end by themselves, and its failures are ours within the time-out."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis import Redis

from core.managers.base import BootError
from core.managers.redis_manager import RedisManager
from tests.core.conftest import Factory
from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.logs import logging_to
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from tools.local_stack.redis_server import RedisServer
from utils.clock import utc_now
from utils.config.config import ConfigError

TIMEOUT = 0.3
NEW_KEY, OLD_KEY, FIRST_KEY = "n" * 40, "o" * 40, "f" * 40


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


def test_the_usage_of_the_managers_overview_works(redis: RedisManager) -> None:
    user_data, session_id, session_data = {"name": "alice"}, unique("s"), {"user_id": "u_1"}
    redis.set("user:123", user_data, ttl=3600)
    cached_user = redis.get("user:123")
    assert cached_user == user_data
    assert 3590 < redis._client.ttl("user:123") <= 3600

    redis.set_session(session_id, session_data)
    session = redis.get_session(session_id)
    assert session == session_data
    assert redis.delete("user:123") == 1


@pytest.mark.parametrize("value", [None, False, 0, "x", [1.5], {"a": {"b": ()}}, {1, 2}, b"\x00", utc_now(), Decimal("0.10")])
def test_a_value_comes_back_as_it_was(value: Any, redis: RedisManager, key: str) -> None:
    redis.set(key, value)
    back = redis.get(key)
    assert (back, type(back)) == (value, type(value))


def test_what_cannot_be_stored_is_refused_and_changes_nothing(redis: RedisManager, key: str) -> None:
    redis.set(key, "before")
    with pytest.raises(TypeError, match="object"):
        redis.set(key, {"a": object()})
    with pytest.raises(ValueError, match="ttl"):
        redis.set(key, "now", ttl=0)
    assert redis.get(key) == "before"


def test_a_value_that_was_moved_to_another_name_counts_as_absent(redis: RedisManager, key: str) -> None:
    redis.set(key, "of this name")
    redis._client.rename(key, f"{key}-other")
    assert redis.get(f"{key}-other") is None
    assert redis.delete(f"{key}-other") == 1


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
    for name in (key, f"session_data:{redis.pseudonym(key)}"):
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


# Tokens


def test_a_token_is_known_as_valid_until_it_is_revoked_and_never_again(redis: RedisManager, key: str) -> None:
    assert redis.get_token(key) is None
    redis.set_token(key, 60)
    assert redis.get_token(key) is True
    redis.revoke_tokens([key, f"{key}-other"], 60)
    assert redis.get_token(key) is redis.get_token(f"{key}-other") is False
    redis.set_token(key, 60)
    assert redis.get_token(key) is False
    assert 0 < redis._client.ttl(key) <= 60
    redis.delete(f"{key}-other")


# Namespaces


def test_namespaces_keep_what_is_theirs_apart(redis: RedisManager, key: str) -> None:
    one, two = redis.namespace(f"plugin:{key}"), redis.namespace(f"plugin:{key}:deeper")
    one.set("deeper/x", 1, ttl=60)
    two.set("x", 2)
    redis.set(key, "of nobody")
    assert (one.get("deeper/x"), two.get("x"), two.get("deeper/x"), one.get("x")) == (1, 2, None, None)
    assert one.get(key) is None
    assert (one.exists("deeper/x"), two.exists("deeper/x")) == (True, False)
    assert one.cached("k", lambda: "one", 60, ["t"]) == "one"
    assert two.cached("k", lambda: "two", 60, ["t"]) == "two"
    one.invalidate_tags("t")
    assert (one.cached("k", lambda: "new", 60, ["t"]), two.cached("k", lambda: "new", 60, ["t"])) == ("new", "two")
    assert one.delete("x", "deeper/x") == 1
    two.clear()


def test_a_namespace_is_cleared_of_all_it_holds_and_nothing_else(redis: RedisManager, key: str) -> None:
    one, two = redis.namespace(f"plugin:{key}"), redis.namespace(f"plugin:{key}2")
    for number in range(1200):
        one._redis._client.set(f"{one._prefix}{number}", b"")
    one.set("x", 1)
    two.set("x", 2)
    one.cached("k", lambda: "old", 60)
    two.cached("k", lambda: "old", 60)
    one.clear()
    assert list(redis._client.scan_iter(match=f"{one._prefix}*", count=5000)) == []
    assert two.get("x") == 2
    assert (one.cached("k", lambda: "new", 60), two.cached("k", lambda: "new", 60)) == ("new", "old")
    two.clear()


@pytest.mark.parametrize("name", ["", "*", "a/b", "a?", "A", "[a]", "a\\", "x" * 65, "a b", "a\n"])
def test_a_name_with_which_a_namespace_could_be_left_is_refused(name: str, redis: RedisManager) -> None:
    with pytest.raises(ValueError, match="namespace"):
        redis.namespace(name)


# Encryption


def test_a_dump_of_redis_shows_no_value_and_nobody(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url).redis_manager
    secret = {"name": "canary", b"canary": ("canary", {"canary"}), "at": utc_now()}
    redis.set("user:123", secret, ttl=60)
    redis.set_session("canary-session", secret)
    redis.cached("find canary", lambda: secret, 60, ["canary tag"])
    plugin = redis.namespace("plugin:hello")
    plugin.set("x", secret)
    plugin.cached("canary", lambda: secret, 60, ["canary"])
    redis.set_token(f"session:{redis.pseudonym('canary')}", 60)
    with own_redis.client() as client:
        dump = b"\n".join(part for name in client.scan_iter() for part in (name, *everything(client, name)))
    assert dump.count(b"gAAAA") == 5
    assert b"canary" not in dump


def everything(client: Redis, name: bytes) -> list[bytes]:
    """What lies under `name`, as Redis keeps it."""
    kind = client.type(name)
    if kind == b"hash":
        return [part for pair in client.hgetall(name).items() for part in pair]
    if kind == b"zset":
        return list(client.zrange(name, 0, -1))
    return [client.get(name)]


def test_a_new_first_key_seals_and_the_old_ones_still_open_and_name(app_manager_factory: Factory, copied_secrets: Path) -> None:
    file = copied_secrets / "redis_encryption_key"
    file.write_text(f"{OLD_KEY}\n{FIRST_KEY}\n")
    managers = app_manager_factory("redis", SECRETS_DIR=copied_secrets)
    redis, name = managers.redis_manager, unique("rotated")
    assert redis.live_settings == {"REDIS_ENCRYPTION_KEY"}
    redis.set(name, "sealed before")
    pseudonym = redis.pseudonym("ip:203.0.113.7")

    file.write_text(f"{NEW_KEY}\n{OLD_KEY}\n{FIRST_KEY}\n")
    managers.reload("redis")
    assert redis.get(name) == "sealed before"
    assert redis.pseudonym("ip:203.0.113.7") == pseudonym, "or bans would be lost"
    assert redis.health_check()["keys"] == 3
    redis.set(f"{name}-2", "sealed after")

    file.write_text(f"{NEW_KEY}\n{FIRST_KEY}\n")
    managers.reload("redis")
    assert (redis.get(name), redis.get(f"{name}-2")) == (None, "sealed after")
    assert redis.pseudonym("ip:203.0.113.7") == pseudonym
    redis.delete(name, f"{name}-2")


@pytest.mark.parametrize("ring", [[OLD_KEY], [NEW_KEY, OLD_KEY], [FIRST_KEY, OLD_KEY]], ids=["removed", "replaced", "moved"])
def test_a_last_key_that_changes_is_refused_while_it_runs_since_it_names_the_bans(
    app_manager_factory: Factory, copied_secrets: Path, ring: list[str]
) -> None:
    file = copied_secrets / "redis_encryption_key"
    file.write_text(f"{OLD_KEY}\n{FIRST_KEY}\n")
    managers = app_manager_factory("redis", SECRETS_DIR=copied_secrets)
    redis, name = managers.redis_manager, unique("named")
    redis.set(name, "kept")
    pseudonym = redis.pseudonym("ip:203.0.113.7")
    file.write_text("\n".join(ring))
    with pytest.raises(ValueError, match="REDIS_ENCRYPTION_KEY: the last line") as refusal:
        managers.reload("redis")
    assert not any(key in str(refusal.value) for key in (OLD_KEY, FIRST_KEY))
    assert (redis.pseudonym("ip:203.0.113.7"), redis.get(name)) == (pseudonym, "kept")
    redis.delete(name)


def test_a_ring_without_a_key_is_refused(app_manager_factory: Factory, copied_secrets: Path) -> None:
    (copied_secrets / "redis_encryption_key").write_text(f"\n{OLD_KEY}\n\n")
    managers = app_manager_factory("redis", SECRETS_DIR=copied_secrets)
    managers.config = {**managers.config, "REDIS_ENCRYPTION_KEY": " \n\n"}
    with pytest.raises(ValueError, match="without a key"):
        managers.redis_manager.reload()


# Failures


def test_a_redis_that_hangs_is_unavailable_within_the_time_out(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    redis.set("kept", 1)
    own_redis.pause()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        redis.get("kept")
    # The driver's own way, with its retries, would be a minute.
    assert time.monotonic() - began < 10
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
    # Each of them by itself would wait for the time-out.
    assert time.monotonic() - began < 100 * TIMEOUT / 2
    own_redis.start()
    eventually(lambda: redis.health_check()["status"] == "healthy", 5)
    assert not redis.is_down
    redis.set("x", 1)


def test_the_breaker_is_a_metric_and_a_line_in_the_log(app_manager_factory: Factory, own_redis: RedisServer, tmp_path: Path) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    assert (breaker_metric(), redis.health_check()["breaker_open"]) == (0, False)
    with logging_to(tmp_path / "logs") as logs:
        own_redis.kill()
        for _ in range(5):
            with pytest.raises(Unavailable):
                redis.get("x")
        assert (breaker_metric(), redis.health_check()["breaker_open"]) == (1, True)
        own_redis.start()
        eventually(lambda: redis.health_check()["status"] == "healthy", 5)
        assert breaker_metric() == 0
        assert [line["message"] for line in logs.lines()] == ["redis is away", "redis is back"]


def breaker_metric() -> float | None:
    return REGISTRY.get_sample_value("credit_dependency_breaker_open", {"dependency": "redis"})


def test_a_wrong_command_does_not_make_redis_seem_away(redis: RedisManager, key: str) -> None:
    redis._client.rpush(key, "no value of ours")
    for _ in range(5):
        with pytest.raises(Unavailable):
            redis.get(key)
        with pytest.raises(Unavailable):
            redis.run_script("no Lua", [], [])
    assert not redis.is_down


def test_a_redis_that_comes_back_empty_works_at_once_with_every_pooled_connection(
    app_manager_factory: Factory, own_redis: RedisServer
) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_TIMEOUT=TIMEOUT).redis_manager
    at_once(8, lambda number: redis.set_token(f"token:{number}", 30))
    own_redis.kill()
    shutil.rmtree(own_redis.home)
    own_redis.start()
    at_once(8, lambda number: redis.set_token(f"token:{number}", 30))
    assert [redis.get_token(f"token:{number}") for number in range(8)] == [True] * 8


def test_health_tells_how_many_connections_are_in_use(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    redis = app_manager_factory("redis", REDIS_URL=own_redis.url, REDIS_POOL_SIZE=5).redis_manager
    assert redis.health_check()["pool"] == {"in_use": 0, "max": 5}
    held = [redis._client.connection_pool.get_connection() for _ in range(3)]
    assert redis.health_check()["pool"] == {"in_use": 3, "max": 5}
    for connection in held:
        redis._client.connection_pool.release(connection)
    assert redis.health_check()["pool"]["in_use"] == 0


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
