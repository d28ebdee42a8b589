"""Recurrence rules: what they mean, and that no text costs more than a moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from core.modules.schedules_module import recurrence
from core.modules.schedules_module.recurrence import InvalidRule, Recurrence

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
BOUNDED = settings(max_examples=80, deadline=2000)


def occurrences(rule: Recurrence) -> Iterator[datetime]:
    moment = rule.next_after(rule.start - timedelta(days=1))
    while moment is not None:
        yield moment
        moment = rule.next_after(moment)


def first(text: str, number: int = 4, start: datetime = START) -> list[str]:
    return [f"{moment:%Y-%m-%d %H:%M}" for moment in itertools.islice(occurrences(Recurrence.parse(text, start)), number)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FREQ=DAILY", ["2026-01-31 09:30", "2026-02-01 09:30"]),
        ("RRULE:FREQ=DAILY;INTERVAL=3", ["2026-01-31 09:30", "2026-02-03 09:30"]),
        ("FREQ=DAILY;BYDAY=MO,TU,WE,TH,FR", ["2026-02-02 09:30", "2026-02-03 09:30"]),
        ("FREQ=DAILY;BYHOUR=8,20;BYMINUTE=15", ["2026-01-31 20:15", "2026-02-01 08:15"]),
        ("freq=weekly;byday=mo,fr", ["2026-02-02 09:30", "2026-02-06 09:30"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU;WKST=MO", ["2026-02-01 09:30", "2026-02-15 09:30"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU;WKST=SU", ["2026-02-08 09:30", "2026-02-22 09:30"]),
        ("FREQ=MONTHLY", ["2026-01-31 09:30", "2026-03-31 09:30"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", ["2026-01-31 09:30", "2026-02-28 09:30"]),
        ("FREQ=MONTHLY;BYDAY=1MO,-1FR", ["2026-02-02 09:30", "2026-02-27 09:30"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", ["2026-02-27 09:30", "2026-03-31 09:30"]),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", ["2028-02-29 09:30", "2032-02-29 09:30"]),
        ("FREQ=YEARLY;BYMONTH=3,6", ["2026-03-31 09:30", "2027-03-31 09:30"]),
        ("FREQ=HOURLY;INTERVAL=6", ["2026-01-31 09:30", "2026-01-31 15:30"]),
        ("FREQ=HOURLY;BYMINUTE=0,45", ["2026-01-31 09:45", "2026-01-31 10:00"]),
        ("FREQ=MINUTELY;INTERVAL=90", ["2026-01-31 09:30", "2026-01-31 11:00"]),
        ("FREQ=DAILY;UNTIL=20260201T093000Z", ["2026-01-31 09:30", "2026-02-01 09:30"]),
        ("FREQ=DAILY;UNTIL=20260201T092959Z", ["2026-01-31 09:30"]),
    ],
)
def test_a_rule_means_what_the_standard_says(text: str, expected: list[str]) -> None:
    assert first(text, len(expected)) == expected


def test_milliseconds_of_the_start_are_kept_and_the_start_is_the_first_occurrence() -> None:
    start = START.replace(second=7, microsecond=250_000)
    found = list(itertools.islice(occurrences(Recurrence.parse("FREQ=MINUTELY", start)), 2))
    assert found == [start, start + timedelta(minutes=1)]


def test_a_count_is_told_and_left_to_whoever_counts() -> None:
    rule = Recurrence.parse("FREQ=DAILY;COUNT=2", START)
    assert rule.count == 2
    assert len(list(itertools.islice(occurrences(rule), 5))) == 5


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "parts"),
        ("FREQ", "parts"),
        ("FREQ=", "parts"),
        ("FREQ=DAILY;", "parts"),
        ("FREQ=DAILY;;COUNT=1", "parts"),
        ("INTERVAL=2", "FREQ"),
        ("FREQ=SECONDLY", "FREQ"),
        ("FREQ=EVERY", "FREQ"),
        ("FREQ=DAILY;FREQ=DAILY", "twice"),
        ("FREQ=DAILY;BYSECOND=0,1,2", "parts"),
        ("FREQ=DAILY;BYEASTER=1", "parts"),
        ("FREQ=YEARLY;BYWEEKNO=20", "parts"),
        ("FREQ=YEARLY;BYYEARDAY=1", "parts"),
        ("DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY", "parts"),
        ("DTSTART;TZID=Europe/Berlin:20260101T000000\nRRULE:FREQ=DAILY", "parts"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20300101T000000Z", "both"),
        ("FREQ=DAILY;COUNT=0", "COUNT"),
        ("FREQ=DAILY;COUNT=1,2", "COUNT"),
        ("FREQ=DAILY;COUNT=99999", "COUNT"),
        ("FREQ=DAILY;COUNT=" + "9" * 400, "COUNT"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL"),
        ("FREQ=DAILY;INTERVAL=-1", "INTERVAL"),
        ("FREQ=DAILY;INTERVAL=1001", "INTERVAL"),
        ("FREQ=DAILY;INTERVAL=1.5", "INTERVAL"),
        ("FREQ=DAILY;INTERVAL=\u0661", "INTERVAL"),
        ("FREQ=DAILY;UNTIL=20300101", "UNTIL"),
        ("FREQ=DAILY;UNTIL=20300101T000000", "UNTIL"),
        ("FREQ=DAILY;UNTIL=20301301T000000Z", "UNTIL"),
        ("FREQ=DAILY;UNTIL=00000101T000000Z", "UNTIL"),
        ("FREQ=DAILY;WKST=XX", "WKST"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR"),
        ("FREQ=DAILY;BYMINUTE=-1", "BYMINUTE"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "BYMONTHDAY"),
        ("FREQ=MONTHLY;BYMONTHDAY=32", "BYMONTHDAY"),
        ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY"),
        ("FREQ=MONTHLY;BYDAY=6MO", "BYDAY"),
        ("FREQ=WEEKLY;BYDAY=1MO", "BYDAY"),
        ("FREQ=WEEKLY;BYDAY=", "parts"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "BYMONTHDAY"),
        ("FREQ=MINUTELY;BYHOUR=9", "BYHOUR"),
        ("FREQ=DAILY;INTERVAL=14;BYDAY=MO", "BYDAY"),
        ("FREQ=YEARLY;BYHOUR=" + ",".join(map(str, range(24))) + ";BYMINUTE=0,30", "times"),
        ("FREQ=MONTHLY;BYSETPOS=" + ",".join(map(str, range(1, 64))), "BYSETPOS"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "no occurrence"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;BYSETPOS=" + ",".join(map(str, range(1, 63))), "no occurrence"),
        ("FREQ=MONTHLY;INTERVAL=12;BYMONTH=6", "no occurrence"),
        ("FREQ=MONTHLY;BYMONTHDAY=1;BYSETPOS=2", "no occurrence"),
        ("FREQ=YEARLY;BYDAY=1MO;BYMONTH=1;BYMONTHDAY=8", "no occurrence"),
    ],
)
def test_a_rule_that_cannot_be_taken_is_refused_with_a_word_about_why(text: str, word: str) -> None:
    with pytest.raises(InvalidRule, match=word):
        Recurrence.parse(text, START)


def test_what_is_long_ago_costs_as_much_as_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Recurrence.parse("FREQ=MINUTELY;INTERVAL=7", START)
    origins: list[datetime] = []
    make = recurrence.Recurrence._rule
    monkeypatch.setattr(Recurrence, "_rule", lambda self, origin, interval: origins.append(origin) or make(self, origin, interval))
    moment = START + timedelta(days=3650, seconds=1)
    found = rule.next_after(moment)
    assert found is not None
    assert (found - START) % timedelta(minutes=7) == timedelta(0)
    assert all(timedelta(0) <= moment - origin < timedelta(minutes=7) for origin in origins)


def test_the_end_of_the_calendar_is_an_end() -> None:
    start = datetime(9998, 6, 1, tzinfo=UTC)
    for text in (
        "FREQ=YEARLY",
        "FREQ=MONTHLY;INTERVAL=7",
        "FREQ=WEEKLY;INTERVAL=30",
        "FREQ=DAILY;INTERVAL=300",
        "FREQ=HOURLY;INTERVAL=900",
    ):
        found = list(occurrences(Recurrence.parse(text, start)))
        assert found[0] == start
        assert found[-1].year in (9998, 9999)


NUMBERS = st.lists(st.integers(-60, 60).map(str), min_size=1, max_size=5).map(",".join)
PARTS = st.one_of(
    st.tuples(st.just("INTERVAL"), st.sampled_from(["1", "2", "7", "12", "28", "100", "999"])),
    st.tuples(st.sampled_from(["BYMONTH", "BYMONTHDAY", "BYSETPOS", "BYHOUR", "BYMINUTE", "COUNT"]), NUMBERS),
    st.tuples(st.just("BYDAY"), st.lists(st.sampled_from(["MO", "TU", "SU", "1FR", "-1SA", "5MO", "53TH"]), min_size=1).map(",".join)),
    st.tuples(st.just("WKST"), st.sampled_from(["MO", "SU", "WE"])),
)
FREQUENCIES = st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"])
RULES = st.builds(
    lambda frequency, parts: ";".join([f"FREQ={frequency}", *(f"{name}={value}" for name, value in parts)]),
    FREQUENCIES,
    st.lists(PARTS, max_size=4, unique_by=lambda part: part[0]),
)
STARTS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))


@BOUNDED
@given(text=RULES | st.text(max_size=60) | st.text("FREQ=DAILYBM;,0123456789", max_size=60), start=STARTS)
def test_any_text_is_a_rule_or_refused_and_a_rule_only_goes_forward(text: str, start: datetime) -> None:
    try:
        rule = Recurrence.parse(text, start)
    except InvalidRule:
        return
    found = list(itertools.islice(occurrences(rule), 5))
    assert all(earlier < later for earlier, later in itertools.pairwise([start - timedelta(seconds=1), *found]))
    assert all(later - earlier >= timedelta(minutes=1) for earlier, later in itertools.pairwise(found))


@BOUNDED
@given(text=RULES, start=STARTS, skipped=st.integers(0, 30))
def test_skipping_ahead_finds_what_counting_from_the_start_finds(text: str, start: datetime, skipped: int) -> None:
    """The library's own reading of the whole text is the measure."""
    try:
        rule = Recurrence.parse(text, start)
    except InvalidRule:
        return
    uncounted = ";".join(part for part in text.split(";") if not part.startswith("COUNT"))
    expected = list(itertools.islice(rrulestr(uncounted, dtstart=start), skipped, skipped + 3))
    after = (list(itertools.islice(rrulestr(uncounted, dtstart=start), skipped)) or [start - timedelta(seconds=1)])[-1]
    found = []
    for _ in expected:
        moment = rule.next_after(after)
        assert moment is not None
        found.append(moment)
        after = moment
    assert found == expected
