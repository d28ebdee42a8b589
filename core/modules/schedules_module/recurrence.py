"""Recurrence rules (RFC 5545, RRULE): the part of them that a payment needs, so that each one costs little to compute."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dateutil import rrule

MAX_TEXT = 500
_MAX_INTERVAL, _MAX_COUNT, _MAX_NUMBERS = 1000, 10_000, 62
# Times on one day: who wants more takes HOURLY or MINUTELY.
_MAX_TIMES = 24
# A rule whose first that many months or years have no occurrence has none at all, for all that anybody wants to wait.
_MAX_EMPTY_PERIODS = 100
_BEYOND = 12 * 10_000
_FREQUENCIES = {name: getattr(rrule, name) for name in ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY")}
_STEPS = {
    "WEEKLY": timedelta(weeks=1),
    "DAILY": timedelta(days=1),
    "HOURLY": timedelta(hours=1),
    "MINUTELY": timedelta(minutes=1),
}
_DAYS = {name: getattr(rrule, name) for name in ("MO", "TU", "WE", "TH", "FR", "SA", "SU")}
_TIMES = frozenset({"BYHOUR", "BYMINUTE"})
_DATES = frozenset({"BYMONTH", "BYMONTHDAY", "BYDAY", "BYSETPOS", *_TIMES})
# What may narrow each frequency. What is missing can be said with a longer one: MINUTELY in some hours is DAILY with
# BYHOUR and BYMINUTE.
_ALLOWED = {
    "YEARLY": _DATES,
    "MONTHLY": _DATES,
    "WEEKLY": _TIMES | {"BYDAY"},
    "DAILY": _TIMES | {"BYDAY"},
    "HOURLY": frozenset({"BYMINUTE"}),
    "MINUTELY": frozenset(),
}
_KNOWN = frozenset({"FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", *_DATES})
_NUMBER = re.compile(r"[+-]?[0-9]{1,6}")
_DAY = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_MOMENT = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class InvalidRule(ValueError):
    """The rule cannot be taken; the message says what about it."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """When something happens again and again, from `start` on, in UTC. `count` is for whoever counts what has happened."""

    start: datetime
    frequency: str
    interval: int
    count: int | None
    until: datetime | None
    week_start: int
    by: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, start: datetime) -> Recurrence:
        """`text` such as `FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=12`, beginning at `start` (its DTSTART). Raises InvalidRule."""
        parts = _parts_of(text)
        frequency = parts.get("FREQ")
        if frequency not in _FREQUENCIES:
            raise InvalidRule(f"FREQ must be one of {', '.join(_FREQUENCIES)}")
        refused = sorted(name for name in parts if name.startswith("BY") and name not in _ALLOWED[frequency])
        if refused:
            raise InvalidRule(f"{refused[0]} does not go with FREQ={frequency}")
        if "COUNT" in parts and "UNTIL" in parts:
            raise InvalidRule("give COUNT or UNTIL, not both")
        recurrence = cls(
            start=start,
            frequency=frequency,
            interval=_number(parts, "INTERVAL", _MAX_INTERVAL) or 1,
            count=_number(parts, "COUNT", _MAX_COUNT),
            until=_until(parts),
            week_start=_week_start(parts),
            by=_by(parts, frequency, start),
        )
        recurrence._refuse_what_never_happens()
        return recurrence

    def next_after(self, moment: datetime) -> datetime | None:
        """The first occurrence later than `moment`; None when there is none any more.

        It costs the same whether `start` is near or long ago: what is between is skipped by arithmetic.
        """
        # The library counts in whole seconds.
        fraction = timedelta(microseconds=self.start.microsecond)
        after = max(moment, self.start - timedelta(microseconds=1)) - fraction
        # Beyond the last year of the calendar there is nothing.
        with suppress(OverflowError, ValueError):
            found: datetime | None = self._rule(self._origin(after), self.interval).after(after)
            if found is not None and (self.until is None or found + fraction <= self.until):
                return found + fraction
        return None

    def _rule(self, origin: datetime, interval: int) -> Any:
        return rrule.rrule(_FREQUENCIES[self.frequency], dtstart=origin, interval=interval, wkst=self.week_start, **self.by)

    def _origin(self, moment: datetime) -> datetime:
        """The beginning of the last period (year, month, ... minute) of the rule that is not after `moment`."""
        first, last = self._floor(self.start), self._floor(max(moment, self.start))
        if self.frequency in _STEPS:
            return last - (last - first) % (self.interval * _STEPS[self.frequency])
        months = 12 * (last.year - first.year) + last.month - first.month
        return _later(first, months - months % self._months)

    def _floor(self, moment: datetime) -> datetime:
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        match self.frequency:
            case "YEARLY":
                return midnight.replace(month=1, day=1)
            case "MONTHLY":
                return midnight.replace(day=1)
            case "WEEKLY":
                return midnight - timedelta(days=(midnight.weekday() - self.week_start) % 7)
            case "DAILY":
                return midnight
            case "HOURLY":
                return midnight.replace(hour=moment.hour)
            case _:
                return midnight.replace(hour=moment.hour, minute=moment.minute)

    @property
    def _months(self) -> int:
        return self.interval * (12 if self.frequency == "YEARLY" else 1)

    def _refuse_what_never_happens(self) -> None:
        """Nothing at all fits a 30 February, and the library would look for it until the year 9999.

        Where something fits once, it does so again after one round of the calendar (400 years) at the latest.
        """
        if self.frequency == "DAILY" and "byweekday" in self.by and self.interval % 7 == 0:
            raise InvalidRule("BYDAY does not go with every seventh day; take FREQ=WEEKLY")
        if self.frequency in _STEPS:
            return
        origin = self._floor(self.start)
        with suppress(ValueError):  # the end of the calendar
            for _ in range(_MAX_EMPTY_PERIODS):
                # An interval beyond the calendar leaves one period to look at.
                if any(True for _ in self._rule(origin, _BEYOND)):
                    return
                origin = _later(origin, self._months)
        raise InvalidRule("has no occurrence")


def _parts_of(text: str) -> dict[str, str]:
    """`{name: value}` of the rule's parts."""
    parts: dict[str, str] = {}
    for part in text.upper().removeprefix("RRULE:").split(";"):
        name, separator, value = part.partition("=")
        if name not in _KNOWN or not separator or not value:
            raise InvalidRule(f"takes the parts {', '.join(sorted(_KNOWN))}, as NAME=VALUE and separated by semicolons")
        if name in parts:
            raise InvalidRule(f"{name} comes twice")
        parts[name] = value
    return parts


def _number(parts: Mapping[str, str], name: str, high: int) -> int | None:
    if name not in parts:
        return None
    if "," in parts[name]:
        raise InvalidRule(f"{name} must be one number")
    return _numbers(parts, name, 1, high)[0]


def _numbers(parts: Mapping[str, str], name: str, low: int, high: int, *, backwards: bool = False) -> tuple[int, ...]:
    """The part's list. `backwards`: also -1 for the last one, and so on."""
    words = parts[name].split(",")
    if len(words) > _MAX_NUMBERS or not all(_NUMBER.fullmatch(word) for word in words):
        raise InvalidRule(f"{name} must be numbers, at most {_MAX_NUMBERS}")
    numbers = tuple(dict.fromkeys(int(word) for word in words))
    if not all(low <= (abs(number) if backwards else number) <= high for number in numbers):
        raise InvalidRule(f"{name} must be from {low} to {high}" + (f", or from -{high} to -{low}" if backwards else ""))
    return numbers


def _until(parts: Mapping[str, str]) -> datetime | None:
    if "UNTIL" not in parts:
        return None
    with suppress(ValueError):
        if _MOMENT.fullmatch(parts["UNTIL"]):
            return datetime.strptime(parts["UNTIL"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    raise InvalidRule("UNTIL must be a time in UTC, such as 20301231T235959Z")


def _week_start(parts: Mapping[str, str]) -> int:
    name = parts.get("WKST", "MO")
    if name not in _DAYS:
        raise InvalidRule(f"WKST must be one of {', '.join(_DAYS)}")
    day: int = _DAYS[name].weekday
    return day


def _by(parts: Mapping[str, str], frequency: str, start: datetime) -> dict[str, Any]:
    """What narrows the rule, in the library's words. What the rule leaves open is as it is in `start` (RFC 5545, 3.3.10)."""
    by: dict[str, Any] = {"bysecond": start.second}
    for name, (low, high) in {"BYHOUR": (0, 23), "BYMINUTE": (0, 59), "BYMONTH": (1, 12)}.items():
        if name in parts:
            by[name.lower()] = _numbers(parts, name, low, high)
    for name, high in {"BYMONTHDAY": 31, "BYSETPOS": 366}.items():
        if name in parts:
            by[name.lower()] = _numbers(parts, name, 1, high, backwards=True)
    if "BYDAY" in parts:
        by["byweekday"] = _days(parts["BYDAY"], frequency)
    if frequency not in ("HOURLY", "MINUTELY"):
        by.setdefault("byhour", (start.hour,))
    if frequency != "MINUTELY":
        by.setdefault("byminute", (start.minute,))
    if len(by.get("byhour", ())) * len(by.get("byminute", ())) > _MAX_TIMES:
        raise InvalidRule(f"BYHOUR and BYMINUTE must name at most {_MAX_TIMES} times of the day")
    return {**by, **_implied(by, frequency, start)}


def _implied(by: Mapping[str, Any], frequency: str, start: datetime) -> dict[str, Any]:
    if "bymonthday" in by or "byweekday" in by:
        return {}
    match frequency:
        case "YEARLY":
            return {"bymonth": by.get("bymonth", (start.month,)), "bymonthday": (start.day,)}
        case "MONTHLY":
            return {"bymonthday": (start.day,)}
        case "WEEKLY":
            return {"byweekday": (start.weekday(),)}
        case _:
            return {}


def _days(text: str, frequency: str) -> tuple[Any, ...]:
    days = []
    for word in text.split(","):
        match = _DAY.fullmatch(word)
        number = int(match[1]) if match and match[1] else None
        if match is None or number == 0 or (number is not None and not _counts_days(frequency, number)):
            raise InvalidRule("BYDAY must be days such as MO or, by month and year, 1MO or -1FR")
        days.append(_DAYS[match[2]](number) if number is not None else _DAYS[match[2]])
    return tuple(days)


def _counts_days(frequency: str, number: int) -> bool:
    return abs(number) <= {"MONTHLY": 5, "YEARLY": 53}.get(frequency, 0)


def _later(first_of_month: datetime, months: int) -> datetime:
    """ValueError beyond the year 9999."""
    years, month = divmod(first_of_month.month - 1 + months, 12)
    return first_of_month.replace(year=first_of_month.year + years, month=month + 1)
