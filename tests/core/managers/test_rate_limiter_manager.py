"""The rate limiter: fixed windows, violations, bans that grow and survive, and what holds while Redis is away."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from core.contracts import Admission, Identifier
from core.managers.base import BootError
from core.managers.rate_limiter_manager import RateLimiterManager, network_of
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.in_process import Managers
from tools.error_handling.errors import Banned, RateLimited, Unavailable
from tools.local_stack.redis_server import RedisServer

# Windows of an hour: that one ends during a test is as good as impossible.
LIMITS = {"RATE_LIMIT_IP": "20/3600", "RATE_LIMIT_USER": "5/3600", "RATE_LIMIT_AUTH": "3/3600", "RATE_LIMIT_MONEY": "3/3600"}
BANS = {"BAN_THRESHOLD": 2, "BAN_SECONDS": 10, "BAN_MAX_SECONDS": 35, "VIOLATION_TTL": 600}
QUOTA, TO_A_BAN = 5, 5 + 2 + 1
PARTS = ("database", "redis", "jwt", "rate_limiter")


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Managers:
    return app_manager_factory(*PARTS, **LIMITS, **BANS)


@pytest.fixture(scope="module")
def limiter(managers: Managers) -> RateLimiterManager:
    manager: RateLimiterManager = managers.rate_limiter_manager
    return manager


@pytest.fixture
def who() -> Identifier:
    return Identifier("user", unique("u"))


def count(limiter: RateLimiterManager, who: Identifier, times: int, policy: str | None = None) -> Admission:
    for _ in range(times):
        admission = limiter.check_rate_limit([who], policy)
    return admission


def refused(limiter: RateLimiterManager, who: Identifier, kind: type[Exception], policy: str | None = None) -> Any:
    with pytest.raises(kind) as refusal:
        limiter.check_rate_limit([who], policy)
    assert type(refusal.value) is kind
    return refusal.value


def ban(limiter: RateLimiterManager, who: Identifier) -> int:
    """Misbehave until banned; the seconds of the ban."""
    for _ in range(TO_A_BAN):
        try:
            limiter.check_rate_limit([who])
        except RateLimited:
            continue
        except Banned as error:
            return int(error.headers["Retry-After"])
    raise AssertionError("not banned")


def let_the_ban_end(managers: Managers, who: Identifier) -> None:
    pseudonym = managers.redis_manager.pseudonym(f"{who.type}:{who.id}")
    assert managers.redis_manager.delete(f"banned:{who.type}:{pseudonym}") == 1


# Windows


def test_requests_pass_up_to_the_quota_and_each_says_what_is_left(limiter: RateLimiterManager, who: Identifier) -> None:
    for left in (4, 3, 2, 1, 0):
        standing = limiter.check_rate_limit([who]).standing
        assert standing is not None
        assert (standing.policy.name, standing.policy.quota, standing.remaining) == ("user", 5, left)
        assert 0 < standing.reset <= 3600
    error = refused(limiter, who, RateLimited)
    assert 0 < int(error.headers["Retry-After"]) <= 3600
    assert error.headers["RateLimit-Policy"] == '"user";q=5;w=3600'
    assert error.headers["RateLimit"].startswith('"user";r=0;t=')


def test_a_new_window_starts_from_zero(app_manager_factory: Factory) -> None:
    limiter = app_manager_factory(*PARTS, **{**LIMITS, "RATE_LIMIT_USER": "2/1"}, BAN_THRESHOLD=1000).rate_limiter_manager
    who = Identifier("user", unique("u"))
    refusals, passed, ended = [], 0, time.monotonic() + 2.2
    while time.monotonic() < ended:
        try:
            limiter.check_rate_limit([who])
            passed += 1
        except RateLimited as error:
            refusals.append(error.headers["Retry-After"])
            time.sleep(0.1)
    assert 4 <= passed <= 8, "two in each of the two to four windows"
    assert set(refusals) == {"1"}


def test_everyone_has_windows_of_his_own(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, QUOTA)
    refused(limiter, who, RateLimited)
    count(limiter, Identifier("user", unique("u")), QUOTA)
    # The same text as another type is somebody else.
    count(limiter, Identifier("ip", who.id), QUOTA)


def test_a_routes_policy_counts_on_top_of_the_callers_own(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, 3, "money")
    assert "q=3" in refused(limiter, who, RateLimited, "money").headers["RateLimit-Policy"]
    assert limiter.get_limits(Identifier("user", who.id))["policies"][0]["count"] == 4


def test_a_policy_for_another_type_does_not_apply(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, 5, "auth")


def test_of_several_identifiers_the_tightest_standing_is_told(limiter: RateLimiterManager, who: Identifier) -> None:
    address = Identifier("ip", unique("ip"))
    standing = limiter.check_rate_limit([address, who], "auth").standing
    assert standing is not None
    assert standing.policy.name == "auth"
    count(limiter, who, 3)
    standing = limiter.check_rate_limit([address, who]).standing
    assert standing is not None
    assert (standing.policy.name, standing.remaining) == ("user", 0)


def test_an_identifier_without_a_policy_passes(limiter: RateLimiterManager) -> None:
    assert limiter.check_rate_limit([Identifier("api_key", unique("k"))]).standing is None


def test_many_at_once_get_exactly_the_quota(limiter: RateLimiterManager) -> None:
    address, passed, gate = Identifier("ip", unique("ip")), [], threading.Barrier(30)

    def ask() -> None:
        gate.wait()
        try:
            limiter.check_rate_limit([address])
            passed.append(1)
        except (RateLimited, Banned):
            return

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 20


def test_the_scale_multiplies_every_limit(app_manager_factory: Factory) -> None:
    limiter = app_manager_factory(*PARTS, **LIMITS, RATE_LIMIT_SCALE=0.5).rate_limiter_manager
    assert {name: policy.quota for name, policy in limiter._policies.items()} == {"ip": 10, "user": 2, "auth": 1, "money": 1}


@pytest.mark.parametrize("text", ["60", "60/", "a/b", "60/60/60", "0/60", "60/0", "-1/60", "1.5/60"])
def test_a_limit_that_cannot_be_read_stops_the_boot_by_name(text: str, managers: Managers) -> None:
    broken = Managers.__new__(Managers)
    broken.__dict__.update({**managers.__dict__, "config": {**managers.config, "RATE_LIMIT_AUTH": text}, "started": []})
    with pytest.raises(BootError, match=r"^RATE_LIMIT_AUTH: "):
        broken.start(RateLimiterManager)


# Names in Redis


def test_names_follow_the_patterns_and_show_neither_address_nor_user(managers: Managers, limiter: RateLimiterManager) -> None:
    managers.redis_manager._client.flushdb()
    who, address = Identifier("user", "canary-user"), Identifier("ip", "203.0.113.77")
    for _ in range(TO_A_BAN):
        try:
            limiter.check_rate_limit([address, who], "auth")
        except (RateLimited, Banned):
            continue
    limiter.unban(Identifier("user", "canary-user"))
    names = [name.decode() for name in managers.redis_manager._client.scan_iter(count=1000)]
    assert not [name for name in names if "canary" in name or "203.0.113" in name]
    pattern = re.compile(
        r"ratelimit:epoch|ratelimit:(ip|user):[0-9a-f]{24}:(ip|auth|user)-\d+|(violations|banned|bans):(ip|user):[0-9a-f]{24}"
    )
    assert not [name for name in names if not pattern.fullmatch(name)]
    assert all(managers.redis_manager._client.ttl(name) > 0 for name in names if name != "ratelimit:epoch")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("unknown", "unknown"),
        ("not:an:address", "not:an:address"),
        ("", ""),
    ],
)
def test_an_ipv6_subscriber_is_one_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_all_addresses_of_one_ipv6_network_share_a_window(limiter: RateLimiterManager) -> None:
    # A network that no other run of this test has used: the record of bans outlives it.
    prefix = f"2001:db8:{time.time_ns() % 65536:x}:{time.time_ns() // 65536 % 65536:x}"
    for host in range(20):
        limiter.check_rate_limit([Identifier("ip", f"{prefix}::{host:x}")])
    refused(limiter, Identifier("ip", f"{prefix}:ffff::1"), RateLimited)


# Bans


def test_repeated_violations_lead_to_a_ban(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, QUOTA)
    for _ in range(BANS["BAN_THRESHOLD"]):
        refused(limiter, who, RateLimited)
    assert not limiter.is_banned(Identifier("user", who.id))
    error = refused(limiter, who, Banned)
    assert (error.status, error.code, error.headers["Retry-After"]) == (403, "banned", "10")
    assert limiter.is_banned(Identifier("user", who.id))
    assert 0 < int(refused(limiter, who, Banned).headers["Retry-After"]) <= 10


def test_each_ban_is_twice_as_long_up_to_the_longest(managers: Managers, limiter: RateLimiterManager, who: Identifier) -> None:
    lengths = []
    for _ in range(4):
        limiter.clear_limits(Identifier("user", who.id))
        lengths.append(ban(limiter, who))
        let_the_ban_end(managers, who)
    assert lengths == [10, 20, 35, 35]


def test_a_ban_is_recorded_with_an_audit_row_and_no_name(managers: Managers, limiter: RateLimiterManager, who: Identifier) -> None:
    ban(limiter, who)
    ban_id = f"user:{managers.redis_manager.pseudonym(f'user:{who.id}')}"
    record = managers.database_manager.find_one("bans", {"_id": ban_id})
    assert record["level"] == 1
    audit = managers.database_manager.find_many("audit_logs", {"target": ban_id}, limit=5)
    assert [row["action"] for row in audit] == ["bans.insert"]
    assert who.id not in str(record) + str(audit)


def test_bans_survive_that_redis_loses_its_memory(managers: Managers, limiter: RateLimiterManager, who: Identifier) -> None:
    ban(limiter, who)
    managers.redis_manager._client.flushdb()
    assert 0 < int(refused(limiter, who, Banned).headers["Retry-After"]) <= 10
    count(limiter, Identifier("user", unique("u")), QUOTA)
    let_the_ban_end(managers, who)
    limiter.clear_limits(Identifier("user", who.id))
    assert ban(limiter, who) == 20, "how many there were survives too"


def test_an_unbanned_one_starts_anew_and_stays_so(managers: Managers, limiter: RateLimiterManager, who: Identifier) -> None:
    ban(limiter, who)
    limiter.unban(Identifier("user", who.id))
    assert not limiter.is_banned(Identifier("user", who.id))
    limiter.clear_limits(Identifier("user", who.id))
    count(limiter, who, QUOTA)
    managers.redis_manager._client.flushdb()
    count(limiter, who, QUOTA)
    assert ban(limiter, who) == 10, "and how many there were is forgotten"
    limiter.unban(Identifier("user", unique("never-seen")))


# For operators


def test_limits_are_told(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, 2, "money")
    status = limiter.get_limits(Identifier("user", who.id))
    assert (status["type"], status["violations"], status["banned_for"]) == ("user", 0, 0)
    rows = {row["policy"]: row for row in status["policies"]}
    assert set(rows) == {"user", "money"}
    assert {**rows["money"], "reset": 0} == {"policy": "money", "quota": 3, "window": 3600, "count": 2, "reset": 0, "remaining": 1}
    assert limiter.get_limits(Identifier("user", who.id))["policies"][0]["count"] == 2, "asking counts nothing"


def test_cleared_limits_are_whole_again(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, QUOTA)
    refused(limiter, who, RateLimited)
    assert limiter.get_limits(Identifier("user", who.id))["violations"] == 1
    limiter.clear_limits(Identifier("user", who.id))
    status = limiter.get_limits(Identifier("user", who.id))
    assert (status["violations"], [row["count"] for row in status["policies"]]) == (0, [0, 0])
    count(limiter, who, QUOTA)


def test_the_usage_of_the_managers_overview_works(limiter: RateLimiterManager) -> None:
    user = unique("u")
    for _ in range(QUOTA):
        assert limiter.is_request_allowed(user_id=user, endpoint="/api/transfer") is True
        limiter.record_request(user_id=user, endpoint="/api/transfer")
    assert limiter.is_request_allowed(user_id=user, endpoint="/api/transfer") is False
    for _ in range(5):
        limiter.record_request(user_id=user, endpoint="/api/transfer")
    assert limiter.is_banned(Identifier("user", user))
    assert limiter.is_request_allowed(user_id=user) is False


# Sessions, in the same round trip


@pytest.mark.parametrize(("flag", "active"), [(b"1", True), (b"0", False), (None, None)])
def test_what_redis_knows_of_the_session_comes_along(flag: bytes | None, active: bool | None, managers: Managers, who: Identifier) -> None:
    session_id = unique("s")
    if flag is not None:
        managers.redis_manager._client.set(managers.jwt_manager.session_key(session_id), flag, ex=60)
    assert managers.rate_limiter_manager.check_rate_limit([who], None, session_id).session_active is active


# While Redis is away


@pytest.fixture
def lonely(app_manager_factory: Factory, own_redis: RedisServer) -> Callable[..., RateLimiterManager]:
    """A limiter whose Redis is away; `before` is done while it was there."""

    def make(before: Callable[[RateLimiterManager], Any] = lambda limiter: None) -> RateLimiterManager:
        settings = {**LIMITS, **BANS, "RATE_LIMIT_DEGRADED_SHARE": 0.4, "REDIS_URL": own_redis.url}
        limiter: RateLimiterManager = app_manager_factory(*PARTS, **settings).rate_limiter_manager
        before(limiter)
        own_redis.kill()
        return limiter

    return make


def test_while_redis_is_away_a_share_passes_and_what_is_costly_fails_closed(lonely: Callable[..., RateLimiterManager]) -> None:
    limiter = lonely()
    reader, payer = Identifier("user", unique("u")), Identifier("user", unique("u"))
    count(limiter, reader, 2)
    refused(limiter, reader, RateLimited)
    count(limiter, payer, 1, "money")
    error = refused(limiter, payer, Unavailable, "money")
    assert error.status == 503
    assert int(error.headers["Retry-After"]) > 0
    assert limiter.health_check()["status"] == "degraded"
    # And an IPv6 subscriber is one network here too.
    for host in range(8):
        limiter.check_rate_limit([Identifier("ip", f"2001:db8::{host:x}")])
    refused(limiter, Identifier("ip", "2001:db8::ffff"), RateLimited)


def test_while_redis_is_away_bans_hold(lonely: Callable[..., RateLimiterManager]) -> None:
    who = Identifier("user", unique("u"))
    limiter = lonely(lambda before: ban(before, who))
    assert 0 < int(refused(limiter, who, Banned).headers["Retry-After"]) <= 11
