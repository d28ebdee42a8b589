"""RateLimiterManager: fixed windows by address, user and API key, violations, and bans that grow; one round trip a request."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pymongo.client_session import ClientSession

from core import metrics
from core.audit import audit_entry
from core.contracts import Admission, Identifier, Policy, Standing, rate_limit_headers
from core.managers.base import BootError, Manager
from core.managers.rate_limiter_scripts import ADMIT, CLEAR, READ, RESTORE
from tools.error_handling.errors import Banned, RateLimited, Unavailable
from tools.logger.custom_logger import custom_log, log_function
from utils.clock import utc_now

# Policies whose requests cost much or move money: while Redis is away they fail closed after a small allowance.
_SENSITIVE = ("auth", "money")
_EPOCH_KEY = "ratelimit:epoch"


class RateLimiterManager(Manager):
    """Lets requests in or refuses them with RateLimited, Banned or (Redis away) Unavailable."""

    name = "rate_limiter"

    def initialize(self) -> bool:
        config = self.app_manager.config
        scale = config["RATE_LIMIT_SCALE"]
        self._policies = {
            "ip": _policy("ip", "ip", config["RATE_LIMIT_IP"], scale),
            "user": _policy("user", "user", config["RATE_LIMIT_USER"], scale),
            "auth": _policy("auth", "ip", config["RATE_LIMIT_AUTH"], scale),
            "money": _policy("money", "user", config["RATE_LIMIT_MONEY"], scale),
        }
        self._ban_args = [config[key] for key in ("BAN_THRESHOLD", "VIOLATION_TTL", "BAN_SECONDS", "BAN_MAX_SECONDS")]
        self._local = _LocalWindows(config["RATE_LIMIT_DEGRADED_SHARE"])
        self._redis = self.app_manager.redis_manager
        self.initialized = True
        return True

    # For the request path

    def check_rate_limit(self, identifiers: Sequence[Identifier], policy: str | None = None, session_id: str | None = None) -> Admission:
        """Count this request for all its `identifiers`, under their own policies and the route's.

        Raises Banned, RateLimited, or Unavailable for a sensitive policy while Redis is away. The answer also says
        what Redis knows about `session_id`, so that one round trip settles both.
        """
        checks = self._checks(identifiers, policy)
        try:
            return self._check_in_redis(identifiers, checks, session_id)
        except Unavailable:
            metrics.RATE_LIMIT_DECISIONS.labels("degraded").inc()
            return self._check_locally(identifiers, checks)

    def is_request_allowed(self, user_id: str, endpoint: str = "") -> bool:
        """Whether `user_id` has requests left in the current window; counts nothing."""
        limits = self.get_limits(Identifier("user", user_id))
        return limits["banned_for"] == 0 and all(entry["remaining"] > 0 for entry in limits["policies"] if entry["policy"] == "user")

    def record_request(self, user_id: str, endpoint: str = "") -> None:
        """Count one request of `user_id`; a refusal is not raised but shows in the next `is_request_allowed`."""
        try:
            self.check_rate_limit([Identifier("user", user_id)])
        except (RateLimited, Banned):
            return

    # For operators

    def is_banned(self, identifier: Identifier) -> bool:
        """Whether `identifier` is banned now."""
        return bool(self.get_limits(identifier)["banned_for"] > 0)

    def get_limits(self, identifier: Identifier | None = None) -> dict[str, Any]:
        """How `identifier` stands, in requests and seconds; without one, which limits there are.

        `{type, policies: [{policy, quota, window, count, remaining, reset}], violations, banned_for}`, or
        `{policies: [{policy, type, quota, window}]}`.
        """
        if identifier is None:
            known = self._policies.values()
            return {"policies": [{"policy": p.name, "type": p.type, "quota": p.quota, "window": p.seconds} for p in known]}
        name, policies = self._name(identifier), self._policies_of(identifier)
        keys = [f"banned:{name}", f"violations:{name}", *(_counter_prefix(name, p) for p in policies)]
        banned_for, violations, *counts = self._redis.run_script(READ, keys, [p.seconds for p in policies])
        rows = []
        for policy, (count, reset) in zip(policies, zip(counts[::2], counts[1::2], strict=True), strict=True):
            row = {"policy": policy.name, "quota": policy.quota, "window": policy.seconds, "count": count, "reset": reset}
            rows.append({**row, "remaining": max(0, policy.quota - count)})
        return {"type": identifier.type, "policies": rows, "violations": violations, "banned_for": banned_for}

    def clear_limits(self, identifier: Identifier) -> None:
        """Forget what `identifier` used up in its current windows, and its violations."""
        name, policies = self._name(identifier), self._policies_of(identifier)
        keys = [f"violations:{name}", *(_counter_prefix(name, p) for p in policies)]
        self._redis.run_script(CLEAR, keys, [p.seconds for p in policies])

    def unban(self, identifier: Identifier) -> None:
        """Lift the ban of `identifier`, in the record and in Redis, and forget how many it had."""
        name = self._name(identifier)
        self.app_manager.database_manager.update_one("bans", {"_id": name}, {"$set": {"expires_at": utc_now()}})
        self._redis.delete(f"banned:{name}", f"violations:{name}", f"bans:{name}")

    def check(self) -> tuple[str, dict[str, Any]]:
        return ("degraded" if self._redis.is_down else "healthy"), {"policies": len(self._policies)}

    def dispose(self) -> None:
        self.initialized = False

    # In Redis

    def _checks(self, identifiers: Sequence[Identifier], route_policy: str | None) -> list[tuple[int, Policy]]:
        """Which policies apply: (index of the identifier, policy)."""
        names = [identifier.type for identifier in identifiers]
        checks = [(index, self._policies[name]) for index, name in enumerate(names) if name in self._policies]
        if route_policy is not None and self._policies[route_policy].type in names:
            policy = self._policies[route_policy]
            checks.append((names.index(policy.type), policy))
        return checks

    def _check_in_redis(self, identifiers: Sequence[Identifier], checks: list[tuple[int, Policy]], session_id: str | None) -> Admission:
        names = [self._name(identifier) for identifier in identifiers]
        keys = [_EPOCH_KEY, self.app_manager.jwt_manager.session_key(session_id or "")]
        for name in names:
            keys += [f"banned:{name}", f"violations:{name}", f"bans:{name}"]
        keys += [_counter_prefix(names[index], policy) for index, policy in checks]
        args: list[Any] = [len(identifiers), *self._ban_args]
        for index, policy in checks:
            args += [index, policy.quota, policy.seconds]
        known, flag, banned_for, new_ban, level, *counts = self._redis.run_script(ADMIT, keys, args)
        if not known:
            # Nothing was counted yet: this very request may come from someone who is banned.
            self._restore_bans()
            return self._check_in_redis(identifiers, checks, session_id)
        if new_ban >= 0:
            self._record_ban(names[new_ban], level, banned_for)
        if banned_for > 0:
            metrics.RATE_LIMIT_DECISIONS.labels("banned").inc()
            raise Banned("Too many violations of the rate limits.", retry_after=banned_for)
        standings = [
            (Standing(policy, max(0, policy.quota - count), reset), count)
            for (_, policy), count, reset in zip(checks, counts[::2], counts[1::2], strict=True)
        ]
        tightest = min((s for s, _ in standings), key=lambda s: s.remaining / s.policy.quota, default=None)
        for standing, count in standings:
            if count > standing.policy.quota:
                metrics.RATE_LIMIT_DECISIONS.labels("limited").inc()
                raise _limited(standing)
        metrics.ALLOWED.inc()
        return Admission(tightest, None if flag is None else flag == b"1")

    def _record_ban(self, ban_id: str, level: int, seconds: int) -> None:
        """The ban holds in Redis already; MongoDB is its record, from which a wiped Redis is filled again."""
        expires_at = utc_now() + timedelta(seconds=seconds)

        def work(session: ClientSession) -> None:
            bans = self.app_manager.database_manager.collection("bans")
            update = {"$set": {"expires_at": expires_at, "level": level}}
            bans.update_one({"_id": ban_id}, update, upsert=True, session=session)
            entry = audit_entry("bans.insert", ban_id, level=level)
            self.app_manager.database_manager.collection("audit_logs").insert_one(entry, session=session)

        metrics.BANS.inc()
        custom_log("identifier banned", level="WARNING", ban=ban_id, seconds=seconds)
        try:
            self.app_manager.database_manager.transaction(work)
        except Unavailable:
            custom_log("a ban could not be recorded", level="ERROR", ban=ban_id)

    @log_function
    def _restore_bans(self) -> None:
        """Redis has lost its memory (or is new): put the bans that still run back, then mark it as filled."""
        bans = self.app_manager.database_manager.find_many("bans", {"expires_at": {"$gt": utc_now()}}, limit=10_000)
        keys, args = [_EPOCH_KEY], []
        for ban in bans:
            keys += [f"banned:{ban['_id']}", f"bans:{ban['_id']}"]
            args += [max(1, int((ban["expires_at"] - utc_now()).total_seconds())), ban["level"]]
        self._redis.run_script(RESTORE, keys, args)
        custom_log("rate limiter filled redis from the record", bans=len(bans))

    # While Redis is away

    def _check_locally(self, identifiers: Sequence[Identifier], checks: list[tuple[int, Policy]]) -> Admission:
        names = [self._name(identifier) for identifier in identifiers]
        query = {"_id": {"$in": names}, "expires_at": {"$gt": utc_now()}}
        ban = self.app_manager.database_manager.find_one("bans", query)
        if ban is not None:
            raise Banned("Too many violations of the rate limits.", retry_after=int((ban["expires_at"] - utc_now()).total_seconds()) + 1)
        for index, policy in checks:
            standing = self._local.count(names[index], policy)
            if standing is None:
                continue
            if policy.name in _SENSITIVE:
                raise Unavailable("Our limits cannot be checked just now.", retry_after=standing.reset)
            raise _limited(standing)
        return Admission(None, None)

    def _name(self, identifier: Identifier) -> str:
        """`{type}:{id}` in the names of keys and records; the id is a keyed hash."""
        value = identifier.id if identifier.type != "ip" else network_of(identifier.id)
        return f"{identifier.type}:{self._redis.pseudonym(f'{identifier.type}:{value}')}"

    def _policies_of(self, identifier: Identifier) -> list[Policy]:
        return [policy for policy in self._policies.values() if policy.type == identifier.type]


class _LocalWindows:
    """Fixed windows in this process only, with a share of each quota."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, int], int] = {}

    def count(self, who: str, policy: Policy) -> Standing | None:
        """Count one request; None when it fits, else how the window stands."""
        now = int(time.time())
        key = (who, policy.name, now // policy.seconds)
        with self._lock:
            if len(self._counts) > 50_000:
                self._counts.clear()
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._counts[key] <= policy.quota * self._share:
                return None
        return Standing(policy, 0, policy.seconds - now % policy.seconds)


def network_of(address: str) -> str:
    """What an address is counted as: itself, or its /64 for IPv6, of which one subscriber has as many as he likes."""
    if ":" not in address:
        return address
    try:
        # What a socket for both families says of an IPv4 client; the /64 of all of these is one.
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    except ValueError:
        return address


def _counter_prefix(name: str, policy: Policy) -> str:
    """The script adds the number of the window."""
    return f"ratelimit:{name}:{policy.name}-"


def _limited(standing: Standing) -> RateLimited:
    headers = {**rate_limit_headers(standing), "Retry-After": str(max(1, standing.reset))}
    return RateLimited("Slow down.", headers=headers)


def _policy(name: str, kind: str, text: str, scale: float) -> Policy:
    try:
        quota, seconds = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise BootError(f"RATE_LIMIT_{name.upper()}: expected requests/seconds, such as 60/60") from error
    if quota < 1 or seconds < 1:
        raise BootError(f"RATE_LIMIT_{name.upper()}: requests and seconds must be at least 1")
    return Policy(name, kind, max(1, int(quota * scale)), seconds)
