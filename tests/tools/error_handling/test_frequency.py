"""Errors counted over a moving window, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tools.error_handling.frequency import TRACKED_SECONDS, Frequencies

EXACT_TO = 5


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 90), st.sampled_from("abc")), max_size=40), st.sampled_from([60, TRACKED_SECONDS]))
def test_it_counts_what_happened_within_the_window(events: list[tuple[float, str]], seconds: int) -> None:
    clock = Clock()
    frequencies, happened = Frequencies(clock), []
    for pause, code in events:
        clock.now += pause
        frequencies.add(code)
        happened.append((clock.now, code))
    for code in "abc":
        least = sum(1 for at, each in happened if each == code and at > clock.now - seconds + EXACT_TO)
        most = sum(1 for at, each in happened if each == code and at > clock.now - seconds - EXACT_TO)
        assert least <= frequencies.of(code, seconds) <= most


def test_what_is_long_ago_is_forgotten() -> None:
    clock = Clock()
    frequencies = Frequencies(clock)
    frequencies.add("a")
    clock.now += TRACKED_SECONDS + EXACT_TO
    assert frequencies.all() == {}


def test_neither_many_errors_nor_many_codes_fill_the_memory() -> None:
    clock = Clock()
    frequencies = Frequencies(clock)
    for number in range(20_000):
        clock.now += 0.5
        frequencies.add(f"code-{number}")
    assert len(frequencies._steps) <= TRACKED_SECONDS / EXACT_TO
    for number in range(1000):
        frequencies.add(f"other-{number}")
    assert frequencies.all()["others"] >= 700
