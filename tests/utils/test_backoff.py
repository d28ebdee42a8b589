"""Pauses grow, are spread, and end in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.backoff import backoff, retry_pause


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_the_largest() -> None:
    clock = Clock()
    pauses = backoff(1, 5, 100, clock, lambda: 1.0)
    assert [next(pauses) for _ in range(5)] == [1, 2, 4, 5, 5]


@given(st.floats(0.01, 2), st.floats(2, 10), st.floats(0, 60), st.floats(0.01, 1))
def test_together_they_never_take_longer_than_allowed(first: float, largest: float, seconds: float, draw: float) -> None:
    clock = Clock()
    for pause in backoff(first, largest, seconds, clock, lambda: draw):
        assert 0 < pause <= largest
        clock.now += pause
    assert clock.now == pytest.approx(seconds)


def test_two_who_wait_do_not_come_back_together() -> None:
    clock = Clock()
    one, other = (backoff(1, 5, 100, clock) for _ in range(2))
    assert [next(one) for _ in range(8)] != [next(other) for _ in range(8)]


def test_without_time_there_is_no_pause() -> None:
    assert list(backoff(1, 5, 0)) == []


def test_pauses_between_tries_double_and_stay_within_their_bounds() -> None:
    assert [retry_pause(failures, 60, 3600, lambda: 0.0) for failures in (1, 2, 3, 6, 7, 15, 10_000)] == [
        60,
        120,
        240,
        1920,
        2400,
        2400,
        2400,
    ]
    assert [retry_pause(failures, 60, 3600, lambda: 1.0) for failures in (1, 2, 10_000)] == [90, 180, 3600]


def test_pauses_between_tries_are_drawn() -> None:
    assert len({retry_pause(1, 60, 3600) for _ in range(20)}) > 1
