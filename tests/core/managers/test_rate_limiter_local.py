"""What a worker counts by itself stays small, whoever asks."""

from __future__ import annotations

import pytest

from core.contracts import Policy
from core.managers import rate_limiter_local
from core.managers.rate_limiter_local import KnownBans, LocalWindows, ShadowLog

POLICY = Policy("p", ("user",), "fixed", 20, 10, 20)


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_795_000_003.5

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limiter_local, "time", clock)
    return clock


def test_a_share_of_the_quota_passes_in_each_window(clock: Clock) -> None:
    windows = LocalWindows(0.1)
    assert windows.fits("a", POLICY)
    assert [windows.count("a", POLICY) for _ in range(4)] == [0, 0, 7, 7]
    assert not windows.fits("a", POLICY)
    assert windows.count("b", POLICY) == 0
    clock.now += 7
    assert [windows.count("a", POLICY) for _ in range(3)] == [0, 0, 10]


@pytest.mark.parametrize(("share", "passing"), [(0.0, 0), (0.001, 1), (1.0, 20)])
def test_a_share_is_nothing_or_at_least_one(share: float, passing: int, clock: Clock) -> None:
    windows = LocalWindows(share)
    assert [windows.count("a", POLICY) for _ in range(25)].count(0) == passing


def test_a_flood_of_names_takes_no_more_places_and_frees_nobody(clock: Clock) -> None:
    windows = LocalWindows(0.1, most=100)
    assert [windows.count("first", POLICY) for _ in range(3)] == [0, 0, 7]
    passed = sum(windows.count(f"n{number}", POLICY) == 0 for number in range(10_000))
    assert len(windows) == 101
    assert passed == 99 + 2, "those without a place of their own have one together"
    assert windows.count("first", POLICY) == 7
    clock.now += 10
    assert windows.count("late", POLICY) == 0
    assert len(windows) == 1, "windows that have ended make room"


def test_a_worker_remembers_bans_until_they_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter_local, "_MOST", 2)
    bans = KnownBans()
    bans.add("a", 10)
    bans.add("b", 10)
    bans.add("a", 20)
    bans.add("c", 10)
    assert [bans.left(name) for name in "abc"] == [20, 0, 10], "the oldest made room"
    bans.forget("a")
    clock.now += 9
    assert [bans.left(name) for name in "ac"] == [0, 1]
    clock.now += 2
    assert bans.left("c") == 0


def test_shadow_decisions_do_not_fill_the_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = ShadowLog()
    for _ in range(1000):
        log.add("p")
    log.add("q")
    assert len(caplog.records) == 2
    clock.now += 10
    log.add("p")
    assert [record.credit_fields["requests"] for record in caplog.records] == [1, 1, 1000]  # type: ignore[attr-defined]
