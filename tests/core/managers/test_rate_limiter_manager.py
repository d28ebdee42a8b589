"""The rate limiter: limits, violations, bans that grow and survive, shadow and allow list, and what holds while Redis is away."""

from __future__ import annotations

import ipaddress
import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from core import context, metrics
from core.contracts import Admission, Identifier
from core.managers.base import BootError
from core.managers.rate_limiter_manager import RateLimiterManager
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.polling import eventually
from tools.error_handling.errors import Banned, RateLimited, Unavailable
from tools.local_stack.redis_server import RedisServer
from utils.clock import utc_now

# Windows of an hour: that one ends during a test is as good as impossible.
LIMITS = {
    "RATE_LIMIT_IP": "20/3600",
    "RATE_LIMIT_USER": "5/3600",
    "RATE_LIMIT_API_KEY": "7/3600",
    "RATE_LIMIT_AUTH": "3/3600",
    "RATE_LIMIT_MONEY": "3/3600",
}
BANS = {"BAN_THRESHOLD": 2, "BAN_SECONDS": 10, "BAN_MAX_SECONDS": 35, "VIOLATION_SECONDS": 300}
QUOTA, TO_A_BAN = 5, 5 + 2 + 1
PARTS = ("database", "redis", "jwt", "encryption", "rate_limiter")


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Managers:
    return app_manager_factory(*PARTS, **LIMITS, **BANS)


@pytest.fixture(scope="module")
def limiter(managers: Managers) -> RateLimiterManager:
    manager: RateLimiterManager = managers.rate_limiter_manager
    return manager


def another(managers: Managers, **settings: Any) -> RateLimiterManager:
    """One more limiter on the same servers, with other settings."""
    beside = Managers.__new__(Managers)
    beside.__dict__.update({**managers.__dict__, "config": {**managers.config, **settings}, "started": []})
    beside.start(RateLimiterManager)
    limiter: RateLimiterManager = beside.rate_limiter_manager
    return limiter


@pytest.fixture
def who() -> Identifier:
    return Identifier("user", unique("u"))


_numbers = itertools.count(time.time_ns() // 1000)


def new_address() -> Identifier:
    """An address that no other run of these tests has used: the record of bans outlives them."""
    return Identifier("ip", str(ipaddress.IPv6Address((0x2001_0DB8 << 96) + (next(_numbers) % 2**32 << 64))))


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


def test_a_new_window_starts_from_zero(managers: Managers) -> None:
    limiter = another(managers, RATE_LIMIT_USER="2/1", BAN_THRESHOLD=1_000_000)
    who = Identifier("user", unique("u"))
    refusals: list[str] = []

    def passes() -> bool:
        try:
            limiter.check_rate_limit([who])
        except RateLimited as error:
            refusals.append(error.headers["Retry-After"])
            return False
        return True

    for _ in range(3):
        eventually(lambda: not passes(), 10)
        eventually(passes, 10)
    assert set(refusals) == {"1"}


def test_everyone_has_windows_of_his_own(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, QUOTA)
    refused(limiter, who, RateLimited)
    count(limiter, Identifier("user", unique("u")), QUOTA)
    # The same text as another type is somebody else.
    count(limiter, Identifier("api_key", who.id), QUOTA)


def test_a_routes_policy_counts_on_top_of_the_callers_own(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, 3, "money")
    assert "q=3" in refused(limiter, who, RateLimited, "money").headers["RateLimit-Policy"]
    assert limiter.get_limits(Identifier("user", who.id))["policies"][0]["used"] == 3


def test_a_policy_for_another_type_does_not_apply(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, 5, "auth")


def test_of_several_identifiers_the_tightest_standing_is_told(limiter: RateLimiterManager, who: Identifier) -> None:
    address = new_address()
    standing = limiter.check_rate_limit([address, who], "auth").standing
    assert standing is not None
    assert standing.policy.name == "auth"
    count(limiter, who, 3)
    standing = limiter.check_rate_limit([address, who]).standing
    assert standing is not None
    assert (standing.policy.name, standing.remaining) == ("user", 0)


def test_an_api_key_has_a_limit_of_its_own(limiter: RateLimiterManager, who: Identifier) -> None:
    key = Identifier("api_key", unique("k"))
    for _ in range(7):
        limiter.check_rate_limit([new_address(), key])
    assert "api_key" in refused(limiter, key, RateLimited).headers["RateLimit"]
    # A route's policy for users counts the key where no user is named.
    other = Identifier("api_key", unique("k"))
    count(limiter, other, 3, "money")
    refused(limiter, other, RateLimited, "money")


def test_a_refused_request_uses_nothing_up(limiter: RateLimiterManager, who: Identifier) -> None:
    address = new_address()
    for _ in range(3):
        limiter.check_rate_limit([address, who], "auth")
    with pytest.raises(RateLimited):
        limiter.check_rate_limit([address, who], "auth")
    used = {row["policy"]: row["used"] for target in (address, who) for row in limiter.get_limits(target)["policies"]}
    assert (used["ip"], used["auth"], used["user"]) == (3, 3, 3)
    # And only whose limit it was has misbehaved.
    assert [limiter.get_limits(target)["violations"] for target in (address, who)] == [1, 0]


@pytest.mark.parametrize("limit", ["20/3600", "sliding:20/3600", "bucket:1/3600:20"])
def test_many_at_once_get_exactly_the_quota(limit: str, managers: Managers) -> None:
    limiter = another(managers, RATE_LIMIT_IP=limit, BAN_THRESHOLD=1000)
    address, passed, gate = new_address(), [], threading.Barrier(30)

    def ask() -> None:
        gate.wait()
        for _ in range(2):
            with suppress(RateLimited):
                limiter.check_rate_limit([address])
                passed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 20


def test_the_scale_multiplies_every_limit(managers: Managers) -> None:
    limiter = another(managers, RATE_LIMIT_MONEY="bucket:4/3600:8", RATE_LIMIT_SCALE=0.5)
    quotas = {row["policy"]: row["quota"] for row in limiter.get_limits()["policies"]}
    assert quotas == {"ip": 10, "user": 2, "api_key": 3, "auth": 1, "money": 4}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("RATE_LIMIT_AUTH", text) for text in ("60", "a/b", "0/60", "leaky:60/60", "60/60:5", "999999999/999999999")),
        *(("RATE_LIMIT_ALLOW", (text,)) for text in ("10.0.0.1/8", "example.com", "10.0.0.0/33", "")),
        ("RATE_LIMIT_SHADOW", ("auht",)),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_boot_by_name(setting: str, value: Any, managers: Managers) -> None:
    with pytest.raises(BootError, match=f"^{setting}: "):
        another(managers, **{setting: value})


def test_a_module_or_plugin_declares_policies_of_its_own(managers: Managers, who: Identifier) -> None:
    limiter = another(managers, RATE_LIMIT_SHADOW=("loyalty.peek",))
    limiter.declare_policy("loyalty.redeem", ["user"], "bucket:1/3600:2", fail_closed=True)
    count(limiter, who, 2, "loyalty.redeem")
    error = refused(limiter, who, RateLimited, "loyalty.redeem")
    assert error.headers["RateLimit-Policy"] == '"loyalty.redeem";q=2;w=7200'
    assert 3590 < int(error.headers["Retry-After"]) <= 3600
    assert limiter.declare_policy("loyalty.peek", ["ip"], "1/60").shadow
    for name, types, limit in [
        ("loyalty.redeem", ["user"], "1/60"),
        ("money", ["user"], "1/60"),
        ("redeem", ["user"], "1/60"),
        ("loyalty.other", ["planet"], "1/60"),
        ("loyalty.other", [], "1/60"),
        ("loyalty.other", ["user"], "often"),
    ]:
        with pytest.raises(ValueError, match=name):
            limiter.declare_policy(name, types, limit)


def test_a_route_cannot_name_a_policy_that_is_not_there(limiter: RateLimiterManager) -> None:
    with pytest.raises(BootError, match="monye"):
        limiter.limit_endpoint("/transfers", "monye")


# Names in Redis


def test_names_follow_the_patterns_and_show_neither_address_nor_user(managers: Managers, limiter: RateLimiterManager) -> None:
    managers.redis_manager._client.flushdb()
    who, address = Identifier("user", "canary-user"), Identifier("ip", "203.0.113.77")
    limiter.unban(address)
    for _ in range(TO_A_BAN):
        try:
            limiter.check_rate_limit([address, who], "auth")
        except (RateLimited, Banned):
            continue
    limiter.unban(Identifier("user", "canary-user"))
    names = [name.decode() for name in managers.redis_manager._client.scan_iter(count=1000)]
    assert not [name for name in names if "canary" in name or "203.0.113" in name]
    pattern = re.compile(
        r"ratelimit:epoch|ratelimit:(ip|user):[0-9a-f]{24}:(ip|auth|user|money)-(\d+|bucket)|(violations|banned|bans):(ip|user):[0-9a-f]{24}"
    )
    assert not [name for name in names if not pattern.fullmatch(name)]
    assert all(managers.redis_manager._client.ttl(name) > 0 for name in names if name != "ratelimit:epoch")


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
    # As it lies in the database.
    record = managers.database_manager.collection("bans").find_one({"_id": ban_id})
    assert (record["level"], record["policy"]) == (1, "user")
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


def test_what_is_held_against_someone_survives_too_when_the_ban_is_over(
    managers: Managers, limiter: RateLimiterManager, who: Identifier
) -> None:
    ban(limiter, who)
    name = f"user:{managers.redis_manager.pseudonym(f'user:{who.id}')}"
    managers.database_manager.collection("bans").update_one({"_id": name}, {"$set": {"expires_at": utc_now()}})
    managers.redis_manager._client.flushdb()
    limiter.check_rate_limit([who])
    limiter.clear_limits(who)
    assert ban(limiter, who) == 20


def test_redis_is_filled_once_by_all_who_find_it_empty(
    managers: Managers, limiter: RateLimiterManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills: list[int] = []
    restore = limiter._restore_bans
    monkeypatch.setattr(limiter, "_restore_bans", lambda: (fills.append(1), restore()))
    managers.redis_manager._client.flushdb()
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        limiter.check_rate_limit([Identifier("user", unique("u"))])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fills) == 1


def test_running_bans_are_listed_with_whom_they_are_for(managers: Managers, limiter: RateLimiterManager) -> None:
    banned = [Identifier("user", unique("u")), new_address(), Identifier("api_key", unique("k"))]
    for target in banned:
        for _ in range(30):
            with suppress(RateLimited, Banned):
                limiter.check_rate_limit([target])
    lifted = banned.pop()
    limiter.unban(lifted)
    rows, after = [], None
    while page := limiter.get_bans(after, limit=2):
        rows, after = rows + page, page[-1]["name"]
    found = {row["id"]: row for row in rows}
    assert found[banned[0].id]["type"] == "user"
    assert found[f"{banned[1].id}/64"]["policy"] == "ip"
    assert lifted.id not in found
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    shown = limiter.get_limits(banned[0])["ban"]
    assert (shown["policy"], shown["level"]) == ("user", 1)
    assert shown["until"] > shown["since"]


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
    terms = {"policy": "money", "algorithm": "fixed", "quota": 3, "window": 3600, "shadow": False}
    assert {**rows["money"], "reset": 0} == {**terms, "used": 2, "remaining": 1, "reset": 0}
    assert (status["allowed"], status["ban"]) == (False, None)
    assert limiter.get_limits(Identifier("user", who.id))["policies"][0]["used"] == 2, "asking counts nothing"


def test_cleared_limits_are_whole_again(limiter: RateLimiterManager, who: Identifier) -> None:
    count(limiter, who, QUOTA)
    refused(limiter, who, RateLimited)
    assert limiter.get_limits(Identifier("user", who.id))["violations"] == 1
    limiter.clear_limits(Identifier("user", who.id))
    status = limiter.get_limits(Identifier("user", who.id))
    assert (status["violations"], [row["used"] for row in status["policies"]]) == (0, [0, 0])
    count(limiter, who, QUOTA)


def test_what_operators_do_is_in_the_audit_log(managers: Managers, limiter: RateLimiterManager, who: Identifier) -> None:
    limiter.clear_limits(who)
    limiter.unban(who)
    name = f"user:{managers.redis_manager.pseudonym(f'user:{who.id}')}"
    audit = managers.database_manager.find_many("audit_logs", {"target": name}, limit=5)
    assert [row["action"] for row in audit] == ["rate_limits.clear", "bans.lift"]


def test_the_terms_of_all_policies_are_told(limiter: RateLimiterManager) -> None:
    told = limiter.get_limits()
    assert [row["policy"] for row in told["policies"]] == ["ip", "user", "api_key", "auth", "money"]
    assert told["policies"][4] == {
        **{"policy": "money", "types": ["user", "api_key"], "algorithm": "fixed", "quota": 3, "window": 3600, "shadow": False}
    }


def test_an_endpoint_may_have_a_policy_of_its_own(limiter: RateLimiterManager) -> None:
    limiter.limit_endpoint("/transfers", "money")
    user = unique("u")
    for _ in range(3):
        assert limiter.is_request_allowed(user_id=user, endpoint="/transfers")
        limiter.record_request(user_id=user, endpoint="/transfers")
    assert not limiter.is_request_allowed(user_id=user, endpoint="/transfers")
    assert limiter.is_request_allowed(user_id=user, endpoint="/wallets")


def test_within_a_request_check_rate_limit_knows_whom_to_count(limiter: RateLimiterManager, who: Identifier) -> None:
    with pytest.raises(RuntimeError, match="request"):
        limiter.check_rate_limit()
    token = context.identifiers.set((who,))
    try:
        standing = limiter.check_rate_limit().standing
    finally:
        context.identifiers.reset(token)
    assert standing is not None
    assert (standing.policy.name, standing.remaining) == ("user", QUOTA - 1)


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


def test_with_the_token_of_an_ended_session_only_the_address_is_counted(managers: Managers, who: Identifier) -> None:
    limiter, session_id, address = managers.rate_limiter_manager, unique("s"), new_address()
    managers.redis_manager._client.set(managers.jwt_manager.session_key(session_id), b"0", ex=60)
    for _ in range(2 * QUOTA):
        assert limiter.check_rate_limit([address, who], "money", session_id).session_active is False
    # And so it is when the address is on the allow list, or nobody names one.
    assert limiter.check_rate_limit([who], None, session_id).standing is None
    assert [row["used"] for row in limiter.get_limits(who)["policies"]] == [0, 0]
    assert limiter.get_limits(address)["policies"][0]["used"] == 2 * QUOTA


# Policies that only count, and addresses that are not counted


def decisions(policy: str, decision: str) -> float:
    return metrics.RATE_LIMIT_DECISIONS.labels(policy, decision)._value.get()


def test_a_shadow_policy_counts_and_refuses_nothing(managers: Managers, who: Identifier) -> None:
    limiter = another(managers, RATE_LIMIT_SHADOW=("money",))
    before = decisions("money", "shadow")
    standing = count(limiter, who, QUOTA, "money").standing
    assert standing is not None
    assert (standing.policy.name, standing.remaining) == ("user", 0), "clients hear nothing of it"
    assert decisions("money", "shadow") - before == QUOTA - 3
    assert limiter.get_limits(who)["violations"] == 0
    assert "user" in refused(limiter, who, RateLimited, "money").headers["RateLimit"], "the others hold"


def test_when_all_is_shadow_nobody_is_refused_or_banned(managers: Managers, limiter: RateLimiterManager, who: Identifier) -> None:
    ban(limiter, who)
    shadow = another(managers, RATE_LIMIT_SHADOW=("all",))
    before = decisions("user", "shadow")
    count(shadow, who, TO_A_BAN, "money")
    assert decisions("user", "shadow") > before
    other = Identifier("user", unique("u"))
    count(shadow, other, 3 * TO_A_BAN, "money")
    assert not shadow.is_banned(other)
    refused(limiter, who, Banned)


def test_an_address_on_the_allow_list_is_not_counted_and_its_users_are(
    managers: Managers, limiter: RateLimiterManager, who: Identifier
) -> None:
    allowed = another(managers, RATE_LIMIT_ALLOW=("10.0.0.0/8", "2001:db8::/32"))
    friend, mapped = new_address(), Identifier("ip", "::ffff:10.9.8.7")
    for _ in range(30):
        with suppress(RateLimited, Banned):
            limiter.check_rate_limit([friend])
    assert limiter.is_banned(friend)
    for address in (friend, mapped):
        assert count(allowed, address, 50, "auth").standing is None
    assert allowed.get_limits(friend)["allowed"] is True
    for _ in range(QUOTA):
        allowed.check_rate_limit([friend, who])
    with pytest.raises(RateLimited):
        allowed.check_rate_limit([friend, who])
    count(allowed, Identifier("ip", "11.0.0.1"), 1)


# Metrics


def test_decisions_are_counted_by_policy(limiter: RateLimiterManager, who: Identifier) -> None:
    kinds = [("money", "allowed"), ("money", "limited"), ("user", "allowed"), ("user", "limited"), ("user", "banned")]
    before = [decisions(*kind) for kind in kinds]
    bans = metrics.BANS.labels("user")._value.get()
    count(limiter, who, 3, "money")
    refused(limiter, who, RateLimited, "money")
    count(limiter, who, 2)
    refused(limiter, who, RateLimited)
    refused(limiter, who, Banned)
    refused(limiter, who, Banned)
    assert [decisions(*kind) - was for kind, was in zip(kinds, before, strict=True)] == [3, 1, 2, 1, 2]
    assert metrics.BANS.labels("user")._value.get() - bans == 1


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


def test_with_both_stores_away_the_bans_that_this_worker_knows_hold(
    lonely: Callable[..., RateLimiterManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    who, other = Identifier("user", unique("u")), Identifier("user", unique("u"))
    limiter = lonely(lambda before: ban(before, who))

    def away(*_: Any) -> None:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(limiter._record, "first_of", away)
    refused(limiter, who, Banned)
    count(limiter, other, 2)


def test_while_redis_is_away_it_is_told_and_what_passes_is_counted(lonely: Callable[..., RateLimiterManager]) -> None:
    limiter, user = lonely(), unique("u")
    kinds = [("user", "degraded_allowed"), ("user", "degraded_refused"), ("auth", "degraded_refused")]
    before = [decisions(*kind) for kind in kinds]
    assert limiter.is_request_allowed(user_id=user)
    for _ in range(3):
        limiter.record_request(user_id=user)
    assert not limiter.is_request_allowed(user_id=user)
    assert metrics.RATE_LIMIT_DEGRADED._value.get() == 1
    address = new_address()
    count(limiter, address, 1, "auth")
    refused(limiter, address, Unavailable, "auth")
    assert [decisions(*kind) - was for kind, was in zip(kinds, before, strict=True)] == [2, 1, 1]


def test_when_redis_comes_back_empty_its_bans_hold(lonely: Callable[..., RateLimiterManager], own_redis: RedisServer) -> None:
    banned, who = Identifier("user", unique("u")), Identifier("user", unique("u"))
    limiter = lonely(lambda before: ban(before, banned))
    for _ in range(2):
        count(limiter, who, 1)
    refused(limiter, who, RateLimited)
    shutil.rmtree(own_redis.home)
    own_redis.start()
    eventually(lambda: limiter.check()[0] == "healthy" or limiter._redis.check()[0] == "healthy", 5)
    count(limiter, who, QUOTA)
    assert metrics.RATE_LIMIT_DEGRADED._value.get() == 0
    refused(limiter, banned, Banned)
    assert limiter.health_check()["status"] == "healthy"
