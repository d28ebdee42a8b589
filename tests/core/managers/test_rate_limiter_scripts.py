"""The rate limiter's Lua on a real Redis, with a clock that the test sets, against exact models."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.managers.rate_limiter_scripts import ADMIT, CLOCK
from tests.core.conftest import Factory
from tests.support.client import unique

START = 1_795_000_000_000
STEP = settings(max_examples=60, deadline=None)
_numbers = itertools.count()


@dataclass(frozen=True)
class Limit:
    """As a plan has it; `window` in milliseconds."""

    algorithm: str
    quota: int
    window: int
    burst: int


@dataclass(frozen=True)
class Verdict:
    passed: bool
    left: int
    wait: int
    banned_for: int
    level: int


class Clocked:
    """The script of a request, by the test's clock."""

    def __init__(self, client: redis.Redis) -> None:
        assert ADMIT.count(CLOCK) == 1
        self.client = client
        self._clock = unique("clock")
        client.set("ratelimit:epoch", "1")
        self._script = client.register_script(ADMIT.replace(CLOCK, f"local now = tonumber(redis.call('GET', '{self._clock}'))"))

    def run(self, limit: Limit, times: Sequence[int], name: str, **bans: int) -> list[Verdict]:
        """A request of `name` at each of `times`, in one round trip."""
        plan = {"shadow": False, "threshold": 10**6, "forgive": 1, "ban": 1000, "longest": 4000, **bans}
        check = [0, "p", limit.algorithm, limit.quota, limit.window, limit.burst, False]
        pipe = self.client.pipeline(transaction=False)
        for moment in times:
            pipe.set(self._clock, moment)
            self._script(keys=["ratelimit:epoch", "none"], args=[json.dumps({**plan, "checks": [check]}), name], client=pipe)
            # A ban ends by the server's clock and not by ours.
            pipe.delete(f"banned:{name}")
        answers = pipe.execute()[1::3]
        return [Verdict(a[6] < 0, a[7], a[8], a[2], a[4]) for a in answers]


@pytest.fixture(scope="module")
def clocked(app_manager_factory: Factory) -> Clocked:
    client: redis.Redis = app_manager_factory("redis").redis_manager._client
    return Clocked(client)


def new_name() -> str:
    return f"user:{unique('n')}{next(_numbers)}"


limits = st.builds(Limit, st.just(""), st.integers(1, 8), st.sampled_from([1000, 60_000, 3_600_000]), st.integers(1, 12))


@st.composite
def arrivals(draw: Any) -> tuple[Limit, list[int]]:
    """A limit and times of requests, dense and sparse ones, in milliseconds."""
    limit = draw(limits)
    gap = st.one_of(st.just(0), st.integers(0, limit.window // 8), st.integers(0, 3 * limit.window))
    gaps = draw(st.lists(gap, min_size=1, max_size=40))
    return limit, [START + passed for passed in itertools.accumulate(gaps)]


def of(algorithm: str, limit: Limit) -> Limit:
    return Limit(algorithm, limit.quota, limit.window, limit.burst)


def seconds(wait: Fraction | int) -> int:
    return math.ceil(Fraction(math.ceil(wait), 1000))


@STEP
@given(arrivals())
def test_a_fixed_window_counts_exactly(clocked: Clocked, case: tuple[Limit, list[int]]) -> None:
    limit, times = of("fixed", case[0]), case[1]
    counts: dict[int, int] = {}
    for moment, verdict in zip(times, clocked.run(limit, times, new_name()), strict=True):
        number = moment // limit.window
        passes = counts.get(number, 0) < limit.quota
        counts[number] = counts.get(number, 0) + passes
        assert (verdict.passed, verdict.wait) == (passes, seconds((number + 1) * limit.window - moment))
        assert verdict.left == (limit.quota - counts[number] if passes else -1)


@STEP
@given(arrivals())
def test_a_token_bucket_is_exact(clocked: Clocked, case: tuple[Limit, list[int]]) -> None:
    limit, times = of("bucket", case[0]), case[1]
    a_ms = Fraction(limit.quota, limit.window)
    level, at = Fraction(limit.burst), times[0]
    for moment, verdict in zip(times, clocked.run(limit, times, new_name()), strict=True):
        level, at = min(Fraction(limit.burst), level + (moment - at) * a_ms), moment
        assert verdict.passed is (level >= 1)
        if verdict.passed:
            level -= 1
            assert verdict.left == math.floor(level)
        missing = math.floor(level) + 1 - level
        assert verdict.wait == seconds(missing / a_ms)


@STEP
@given(arrivals())
def test_a_sliding_window_errs_by_no_more_than_it_may(clocked: Clocked, case: tuple[Limit, list[int]]) -> None:
    limit, times = of("sliding", case[0]), case[1]
    passed: list[int] = []
    for moment, verdict in zip(times, clocked.run(limit, times, new_name()), strict=True):
        number, past = divmod(moment, limit.window)
        before, count = (sum(t // limit.window == n for t in passed) for n in (number - 1, number))
        share = Fraction(past, limit.window)
        estimate, exact = count + before * (1 - share), sum(t > moment - limit.window for t in passed)
        # Against an exact log: off by what a part of the window before can be, and never by more than all of it.
        assert -before * share <= estimate - exact <= before * (1 - share)
        assert verdict.passed is (estimate + 1 <= limit.quota)
        if verdict.passed:
            passed.append(moment)
            assert verdict.left == math.floor(limit.quota - estimate - 1)
            # Nobody gets a second quota around an edge: what passes in any stretch grows with its length alone.
            for first in range(len(passed)):
                stretch = moment - passed[first]
                if stretch <= limit.window:
                    assert len(passed) - first <= limit.quota * (1 + Fraction(stretch, limit.window))


@STEP
@given(st.sampled_from(["fixed", "sliding", "bucket"]), arrivals())
@example("sliding", (Limit("", 1, 1000, 1), [START]))
@example("sliding", (Limit("", 1, 1000, 1), [START, START + 1500]))
def test_who_waits_as_told_is_let_in_and_not_before(clocked: Clocked, algorithm: str, case: tuple[Limit, list[int]]) -> None:
    limit, times, name = of(algorithm, case[0]), case[1], new_name()
    flood = [times[-1]] * (limit.quota + limit.burst + 1)
    verdict = clocked.run(limit, [*times, *flood], name)[-1]
    assert not verdict.passed
    early, late = times[-1] + (verdict.wait - 1) * 1000, times[-1] + verdict.wait * 1000
    assert [v.passed for v in clocked.run(limit, [early, late], name)] == [False, True]


@STEP
@given(st.integers(1, 5), st.lists(st.integers(0, 20_000), min_size=1, max_size=40))
def test_violations_are_forgiven_one_by_one(clocked: Clocked, threshold: int, gaps: list[int]) -> None:
    forgive = 10_000
    limit, times = Limit("fixed", 1, 10**10, 1), [START + passed for passed in itertools.accumulate(gaps)]
    verdicts = clocked.run(limit, [START, *times], new_name(), threshold=threshold, forgive=forgive)
    assert verdicts[0].passed
    level, at, bans = Fraction(0), START, 0
    for moment, verdict in zip(times, verdicts[1:], strict=True):
        level, at = max(Fraction(0), level - Fraction(moment - at, forgive)) + 1, moment
        banned = math.ceil(level) > threshold
        if banned:
            level, bans = Fraction(0), bans + 1
        assert (verdict.banned_for > 0) is banned


def test_each_ban_is_twice_as_long_and_that_is_forgotten_in_time(clocked: Clocked) -> None:
    limit, name, longest = Limit("fixed", 1, 10**10, 1), new_name(), 4000
    gaps = [0, 0, 100, 100, 100, 3 * longest, 100, 9 * longest, 100]
    times = [START + passed for passed in itertools.accumulate(gaps)]
    verdicts = clocked.run(limit, times, name, threshold=0, longest=longest)[1:]
    assert [v.banned_for for v in verdicts] == [1, 2, 4, 4, 2, 4, 1, 2]
    assert [v.level for v in verdicts] == [1, 2, 3, 4, 2, 3, 1, 2]
