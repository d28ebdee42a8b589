"""The rate limiter's policies: the table of the built-in ones, how a limit is written, and which of them a request meets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.contracts import API_KEY, BUCKET, FIXED, IDENTIFIER_TYPES, IP, USER, Policy

_LIMIT = re.compile(r"(?:(fixed|sliding|bucket):)?([1-9][0-9]{0,8})/([1-9][0-9]{0,8})(?::([1-9][0-9]{0,8}))?")
_OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,31}")
_HOW = "expected [fixed:|sliding:|bucket:]requests/seconds[:burst], such as 60/60, sliding:30/60 or bucket:10/1:20"
# Redis' Lua calculates in doubles, in milliseconds: beyond this their integers have gaps.
_LARGEST = 2**53 // 2000
# RATE_LIMIT_SHADOW: every policy, and the bans too.
EVERYTHING = "all"


@dataclass(frozen=True)
class _BuiltIn:
    name: str
    types: tuple[str, ...]
    setting: str
    fail_closed: bool = False


# The policy that is named as a type holds for every request of such an identifier, the others where a route names them.
BUILT_IN = (
    _BuiltIn("ip", (IP,), "RATE_LIMIT_IP"),
    _BuiltIn("user", (USER,), "RATE_LIMIT_USER"),
    _BuiltIn("api_key", (API_KEY,), "RATE_LIMIT_API_KEY"),
    _BuiltIn("auth", (IP,), "RATE_LIMIT_AUTH", fail_closed=True),
    _BuiltIn("money", (USER, API_KEY), "RATE_LIMIT_MONEY", fail_closed=True),
)


@dataclass(frozen=True)
class Limit:
    """What the text of a limit says; `burst` is the quota where it says nothing else."""

    algorithm: str
    quota: int
    seconds: int
    burst: int


def parse_limit(text: str) -> Limit:
    """`[fixed:|sliding:|bucket:]quota/seconds[:burst]` (a burst for buckets only); raises ValueError."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise ValueError(_HOW)
    algorithm, quota, seconds, burst = match.groups()
    if burst is not None and algorithm != BUCKET:
        raise ValueError("only a bucket has a burst, as in bucket:10/1:20")
    return Limit(algorithm or FIXED, int(quota), int(seconds), int(burst or quota))


@dataclass(frozen=True)
class Plan:
    """What a request meets: (index of the identifier, policy) each, and the same as the script wants it."""

    checks: tuple[tuple[int, Policy], ...]
    script: str
    fail_closed: bool

    @property
    def last(self) -> str:
        """The name of the most particular policy; under it what passes is counted."""
        return self.checks[-1][1].name if self.checks else "none"


class PolicyTable:
    """The policies by name, those of modules and plugins included."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError that names the setting which cannot be used."""
        self._scale = config["RATE_LIMIT_SCALE"]
        self._shadow = frozenset(config["RATE_LIMIT_SHADOW"])
        self._policies: dict[str, Policy] = {}
        self._bans = {
            "shadow": self.everything_is_shadow,
            "threshold": config["BAN_THRESHOLD"],
            "forgive": config["VIOLATION_SECONDS"] * 1000,
            "ban": config["BAN_SECONDS"] * 1000,
            "longest": config["BAN_MAX_SECONDS"] * 1000,
        }
        self._plans: dict[tuple[tuple[str, ...], str | None], Plan] = {}
        for built_in in BUILT_IN:
            try:
                self._add(built_in.name, built_in.types, config[built_in.setting], built_in.fail_closed)
            except ValueError as error:
                raise ValueError(f"{built_in.setting}: {error}") from error
        unknown = [name for name in self._shadow if name not in (*self._policies, EVERYTHING) and not _OWN_NAME.fullmatch(name)]
        if unknown:
            raise ValueError(
                f"RATE_LIMIT_SHADOW: no policy {', '.join(sorted(unknown))}; known are {', '.join(self._policies)}, {EVERYTHING}"
            )

    @property
    def everything_is_shadow(self) -> bool:
        return EVERYTHING in self._shadow

    def declare(self, name: str, types: Sequence[str], limit: str, fail_closed: bool = False) -> Policy:
        """Add a policy of a module or a plugin, named `owner.policy`; raises ValueError for a name that is taken or has no owner."""
        if _OWN_NAME.fullmatch(name) is None:
            raise ValueError(f"policy {name!r}: expected a name such as loyalty.redeem")
        if name in self._policies:
            raise ValueError(f"policy {name!r} is declared already")
        if not types or not set(types) <= set(IDENTIFIER_TYPES):
            raise ValueError(f"policy {name!r}: types are of {', '.join(IDENTIFIER_TYPES)}")
        try:
            return self._add(name, tuple(types), limit, fail_closed)
        except ValueError as error:
            raise ValueError(f"policy {name!r}: {error}") from error

    def _add(self, name: str, types: tuple[str, ...], text: str, fail_closed: bool) -> Policy:
        limit = parse_limit(text)
        quota, burst = (max(1, int(number * self._scale)) for number in (limit.quota, limit.burst))
        if max(quota, burst) * limit.seconds > _LARGEST:
            raise ValueError("so many requests in so long a time cannot be counted exactly")
        shadow = self.everything_is_shadow or name in self._shadow
        policy = Policy(name, types, limit.algorithm, quota, limit.seconds, burst, fail_closed, shadow)
        self._policies[name] = policy
        return policy

    def __contains__(self, name: str) -> bool:
        return name in self._policies

    def __getitem__(self, name: str) -> Policy:
        return self._policies[name]

    def all(self) -> list[Policy]:
        """Every policy, in the order of their declaration."""
        return list(self._policies.values())

    def of_type(self, kind: str) -> list[Policy]:
        """The policies that may count an identifier of this type."""
        return [policy for policy in self._policies.values() if kind in policy.types]

    def plan(self, kinds: tuple[str, ...], limit: str | None) -> Plan:
        """What a request with identifiers of these types meets: their own policies, then the one that its route names."""
        found = self._plans.get((kinds, limit))
        if found is None:
            found = self._plans[kinds, limit] = self._make_plan(kinds, limit)
        return found

    def _make_plan(self, kinds: tuple[str, ...], limit: str | None) -> Plan:
        checks = [(index, self._policies[kind]) for index, kind in enumerate(kinds)]
        named = self._policies[limit] if limit is not None else None
        if named is not None and named.name not in kinds:
            present = [kind for kind in named.types if kind in kinds]
            checks += [(kinds.index(kind), named) for kind in present[:1]]
        rows = [[index, p.name, p.algorithm, p.quota, p.seconds * 1000, p.burst, p.shadow] for index, p in checks]
        return Plan(tuple(checks), json.dumps({**self._bans, "checks": rows}), named is not None and named.fail_closed)
