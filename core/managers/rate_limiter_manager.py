"""RateLimiterManager: limits by address, user and API key, violations, and bans that grow; one round trip a request."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from core import context, metrics
from core.contracts import IP, USER, Admission, Identifier, Policy, Standing, rate_limit_headers
from core.managers.base import BootError, Manager
from core.managers.rate_limiter_bans import Ban, BanRecord
from core.managers.rate_limiter_local import KnownBans, LocalWindows, ShadowLog
from core.managers.rate_limiter_policies import Plan, PolicyTable
from core.managers.rate_limiter_scripts import ADMIT, CLEAR, READ, RESTORE
from tools.error_handling.errors import Banned, RateLimited, Unavailable
from tools.logger.custom_logger import custom_log, log_function
from utils.addresses import counted_as, is_in, parse_networks
from utils.clock import utc_now

_EPOCH_KEY = "ratelimit:epoch"
# The policy of a ban that an operator has made.
_BY_HAND = "by-hand"
# Names that are kept: a keyed hash costs more than a look into a table, and its key stays the same while we run.
_NAMES = 16_384


class RateLimiterManager(Manager):
    """Lets requests in or refuses them with RateLimited, Banned or (Redis away) Unavailable."""

    name = "rate_limiter"

    def initialize(self) -> bool:
        config = self.app_manager.config
        try:
            self._policies = PolicyTable(config)
            self._allowed = parse_networks(config["RATE_LIMIT_ALLOW"])
        except ValueError as error:
            text = str(error)
            raise BootError(text if text.startswith("RATE_LIMIT") else f"RATE_LIMIT_ALLOW: {text}") from error
        self._violation_ms = config["VIOLATION_SECONDS"] * 1000
        self._endpoints: dict[str, str] = {}
        self._record = BanRecord(self.app_manager)
        self._local, self._known_bans = LocalWindows(config["RATE_LIMIT_DEGRADED_SHARE"]), KnownBans()
        self._shadow_log = ShadowLog()
        self._degraded = False
        self._refilling = threading.Lock()
        self._redis = self.app_manager.redis_manager
        self._name_of = lru_cache(_NAMES)(self._counted_name)
        self.initialized = True
        return True

    # Policies

    def declare_policy(self, name: str, types: Sequence[str], limit: str, *, fail_closed: bool = False) -> Policy:
        """Add a policy of a module or plugin, for the `limit` of its routes.

        `name` is `owner.policy`, `limit` as in the settings (`bucket:10/1:20`); `fail_closed` is for what costs much or
        moves money. Raises ValueError.
        """
        return self._policies.declare(name, types, limit, fail_closed)

    def limit_endpoint(self, path: str, limit: str) -> None:
        """Have requests to `path` counted under the policy `limit` too; raises BootError when there is no such policy."""
        if limit not in self._policies:
            raise BootError(f"{path}: there is no rate limit policy named {limit!r}")
        self._endpoints[path] = limit

    # For the request path

    def check_rate_limit(
        self, identifiers: Sequence[Identifier] | None = None, limit: str | None = None, session_id: str | None = None
    ) -> Admission:
        """Count this request for all its `identifiers`, under their own policies and the one named `limit`.

        Without identifiers: for those of the request that is being handled. Raises Banned, RateLimited, or Unavailable
        for a policy that fails closed while Redis is away. A refused request uses nothing up. The answer also says what
        Redis knows about `session_id`, so that one round trip settles both.
        """
        if identifiers is None and not context.identifiers.get():
            raise RuntimeError("outside of a request it has to be said whom to count")
        who = self._counted(context.identifiers.get() if identifiers is None else identifiers)
        plan = self._policies.plan(tuple([identifier.type for _, identifier in who]), limit)
        try:
            return self._check_in_redis(who, plan, session_id)
        except Unavailable:
            return self._check_locally(who, plan)

    def is_request_allowed(self, user_id: str, endpoint: str = "") -> bool:
        """Whether `user_id` has a request to `endpoint` (a route's path) left now; counts nothing."""
        identifier = Identifier(USER, user_id)
        plan = self._policies.plan((USER,), self._endpoints.get(endpoint))
        wanted = {policy.name for _, policy in plan.checks if not policy.shadow}
        try:
            banned_for, _, rows = self._read(identifier)
        except Unavailable:
            name = self._full_name(identifier)
            return all(self._local.fits(name, policy) for _, policy in plan.checks if policy.name in wanted)
        return banned_for == 0 and all(row["remaining"] > 0 for row in rows if row["policy"] in wanted)

    def record_request(self, user_id: str, endpoint: str = "") -> None:
        """Count one request of `user_id`; a refusal is not raised but shows in the next `is_request_allowed`."""
        try:
            self.check_rate_limit([Identifier(USER, user_id)], self._endpoints.get(endpoint))
        except (RateLimited, Banned, Unavailable):
            return

    # For operators

    def is_banned(self, identifier: Identifier) -> bool:
        """Whether `identifier` is banned now."""
        return self._read(identifier)[0] > 0

    def get_limits(self, identifier: Identifier | None = None) -> dict[str, Any]:
        """How `identifier` stands, in requests and seconds; without one, which limits there are.

        `{type, allowed, policies: [{policy, algorithm, quota, window, shadow, used, remaining, reset}], violations,
        banned_for, ban: {policy, level, since, until} | None}`, or `{policies: [...], shadow}`.
        """
        if identifier is None:
            policies = [{**_terms(policy), "types": list(policy.types)} for policy in self._policies.all()]
            return {"policies": policies, "shadow": self._policies.everything_is_shadow}
        banned_for, violations, rows = self._read(identifier)
        return {
            "type": identifier.type,
            "allowed": self._is_allowed(identifier),
            "policies": rows,
            "violations": violations,
            "banned_for": banned_for,
            "ban": self._record.running(self._full_name(identifier)) if banned_for else None,
        }

    def get_bans(self, after: str | None = None, limit: int = 25) -> list[dict[str, Any]]:
        """The bans that run, as `{name, type, id, policy, level, since, until}`, ordered by name and after the one named `after`."""
        return self._record.page(after, limit)

    def clear_limits(self, identifier: Identifier) -> None:
        """Forget what `identifier` used up, and its violations."""
        name, policies = self._full_name(identifier), self._policies.of_type(identifier.type)
        self._record.note_clear(name)
        self._redis.run_script(CLEAR, [], [name, *(part for p in policies for part in (p.name, p.seconds * 1000))])

    def ban(self, identifier: Identifier, seconds: int) -> None:
        """Ban `identifier` from now on, in the record and in Redis; ValueError for an address that is never banned."""
        if self._is_allowed(identifier):
            raise ValueError(f"{identifier.id} is in RATE_LIMIT_ALLOW")
        name = self._full_name(identifier)
        subject = counted_as(identifier.id) if identifier.type == IP else identifier.id
        self._record.add(Ban(name, subject, _BY_HAND, 1, seconds, seconds))
        self._redis.delete(f"banned:{name}")
        self._redis.run_script(RESTORE, [], [name, 1, seconds * 1000, seconds * 1000])

    def unban(self, identifier: Identifier) -> None:
        """Lift the ban of `identifier`, in the record and in Redis, and forget how many it had."""
        name = self._full_name(identifier)
        self._record.lift(name)
        self._known_bans.forget(name)
        self._redis.delete(f"banned:{name}", f"violations:{name}", f"bans:{name}")

    def check(self) -> tuple[str, dict[str, Any]]:
        if not self._redis.is_down:
            self._set_degraded(False)
        return ("degraded" if self._redis.is_down else "healthy"), {"policies": len(self._policies.all())}

    def dispose(self) -> None:
        self.initialized = False

    # In Redis

    def _check_in_redis(self, who: Sequence[tuple[str, Identifier]], plan: Plan, session_id: str | None) -> Admission:
        keys = [_EPOCH_KEY, self.app_manager.jwt_manager.session_key(session_id or "")]
        answer = self._redis.run_script(ADMIT, keys, [plan.script, *[name for name, _ in who]])
        if self._degraded:
            self._set_degraded(False)
        if not answer[0]:
            # Nothing was counted yet: this very request may come from someone who is banned.
            self._refill()
            return self._check_in_redis(who, plan, session_id)
        _, flag, banned_for, banned, level, memory, refusing, *standings = answer
        if banned_for > 0:
            if level > 0:
                self._record_ban(who[banned], plan.checks[refusing][1].name, level, banned_for, memory / 1000)
            self._meet_ban(who[banned], banned_for)
        if refusing >= 0:
            raise self._limited(Standing(plan.checks[refusing][1], 0, standings[2 * refusing + 1]))
        metrics.count_decision(plan.last, "allowed")
        return Admission(self._tightest(plan, standings), None if flag is None else flag == b"1")

    def _tightest(self, plan: Plan, standings: Sequence[int | None]) -> Standing | None:
        """The standing of the policy with the least part left. None stands for a check that was not made."""
        tightest, least = None, 2.0
        for number, (_, policy) in enumerate(plan.checks):
            left = standings[2 * number]
            if left is None:
                continue
            if policy.shadow:
                if left < 0:
                    self._note_shadow(policy.name)
            elif left / policy.most < least:
                least, tightest = left / policy.most, number
        if tightest is None:
            return None
        return Standing(plan.checks[tightest][1], standings[2 * tightest] or 0, standings[2 * tightest + 1] or 0)

    def _meet_ban(self, who: tuple[str, Identifier], seconds: int) -> None:
        name, identifier = who
        if self._policies.everything_is_shadow:
            self._note_shadow(identifier.type)
            return
        self._known_bans.add(name, seconds)
        metrics.count_decision(identifier.type, "banned")
        standing = Standing(self._policies[identifier.type], 0, seconds)
        raise Banned("Too many violations of the rate limits.", headers=_refusal_headers(standing))

    def _record_ban(self, who: tuple[str, Identifier], policy: str, level: int, seconds: int, memory: float) -> None:
        """The ban holds in Redis already; MongoDB is its record, from which a wiped Redis is filled again."""
        name, identifier = who
        metrics.BANS.labels(identifier.type).inc()
        custom_log("identifier banned", level="WARNING", ban=name, policy=policy, seconds=seconds)
        subject = counted_as(identifier.id) if identifier.type == IP else identifier.id
        try:
            self._record.add(Ban(name, subject, policy, level, seconds, memory))
        except Unavailable:
            custom_log("a ban could not be recorded", level="ERROR", ban=name)

    def _refill(self) -> None:
        """One request of this worker fills Redis again, the others wait for it."""
        with self._refilling:
            if not self._redis.exists(_EPOCH_KEY):
                self._restore_bans()

    @log_function
    def _restore_bans(self) -> None:
        """Redis has lost its memory (or is new): put the bans that still run back, then mark it as filled."""
        count = 0
        for page in self._record.remembered():
            self._redis.run_script(RESTORE, [], [value for row in page for value in row])
            count += len(page)
        self._redis.set(_EPOCH_KEY, 1)
        custom_log("rate limiter filled redis from the record", bans=count)

    def _read(self, identifier: Identifier) -> tuple[int, int, list[dict[str, Any]]]:
        """Seconds of a ban, violations, and a row for each policy of `identifier`; changes nothing."""
        policies = self._policies.of_type(identifier.type)
        terms = [part for p in policies for part in (p.name, p.algorithm, p.quota, p.seconds * 1000, p.burst)]
        answer = self._redis.run_script(READ, [], [self._full_name(identifier), self._violation_ms, *terms])
        rows = []
        for policy, left, reset in zip(policies, answer[2::2], answer[3::2], strict=True):
            rows.append({**_terms(policy), "used": policy.most - left, "remaining": left, "reset": reset})
        return answer[0], answer[1], rows

    # While Redis is away

    def _check_locally(self, who: Sequence[tuple[str, Identifier]], plan: Plan) -> Admission:
        self._set_degraded(self._redis.is_down)
        self._refuse_banned_locally(who)
        for index, policy in plan.checks:
            wait = self._local.count(who[index][0], policy)
            if wait == 0:
                continue
            if policy.shadow:
                self._note_shadow(policy.name)
                continue
            if plan.fail_closed:
                metrics.count_decision(policy.name, "degraded_refused")
                raise Unavailable("Our limits cannot be checked just now.", retry_after=wait)
            raise self._limited(Standing(policy, 0, wait), "degraded_refused")
        metrics.count_decision(plan.last, "degraded_allowed")
        return Admission(None, None)

    def _refuse_banned_locally(self, who: Sequence[tuple[str, Identifier]]) -> None:
        """By the record, or (that is away too) by what this worker has seen."""
        names = dict(who)
        try:
            found = self._record.first_of(list(names))
            left = {} if found is None else {found[0]: (found[1] - utc_now()).total_seconds()}
        except Unavailable:
            left = {name: self._known_bans.left(name) for name in names}
        for name, seconds in left.items():
            if seconds > 0:
                self._meet_ban((name, names[name]), math.ceil(seconds))

    def _set_degraded(self, degraded: bool) -> None:
        if degraded is self._degraded:
            return
        self._degraded = degraded
        metrics.RATE_LIMIT_DEGRADED.set(degraded)
        custom_log("rate limits are counted " + ("in each worker" if degraded else "in redis again"), level="WARNING")
        if not degraded:
            self._local.clear()

    # Names and answers

    def _counted(self, identifiers: Sequence[Identifier]) -> list[tuple[str, Identifier]]:
        """Those that are counted, each with its name."""
        named = [(self._name_of(identifier.type, identifier.id), identifier) for identifier in identifiers]
        return [pair for pair in named if pair[0]]

    def _counted_name(self, kind: str, value: str) -> str:
        """As `_full_name`; empty for an address that is on the allow list."""
        identifier = Identifier(kind, value)
        return "" if self._is_allowed(identifier) else self._full_name(identifier)

    def _full_name(self, identifier: Identifier) -> str:
        """`{type}:{id}` in the names of keys and records; the id is a keyed hash."""
        value = counted_as(identifier.id) if identifier.type == IP else identifier.id
        return f"{identifier.type}:{self._redis.pseudonym(f'{identifier.type}:{value}')}"

    def _is_allowed(self, identifier: Identifier) -> bool:
        return identifier.type == IP and is_in(identifier.id, self._allowed)

    def _note_shadow(self, policy: str) -> None:
        metrics.count_decision(policy, "shadow")
        self._shadow_log.add(policy)

    def _limited(self, standing: Standing, decision: str = "limited") -> RateLimited:
        metrics.count_decision(standing.policy.name, decision)
        return RateLimited("Slow down.", headers=_refusal_headers(standing))


def _terms(policy: Policy) -> dict[str, Any]:
    """What a policy allows: up to `quota` requests at once, all of them again after `window` seconds."""
    terms = {"policy": policy.name, "algorithm": policy.algorithm, "quota": policy.most, "window": policy.window}
    return {**terms, "shadow": policy.shadow}


def _refusal_headers(standing: Standing) -> dict[str, str]:
    return {**rate_limit_headers(standing), "Retry-After": str(max(1, standing.reset))}
