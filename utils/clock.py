"""Time as the product sees it: UTC, in the milliseconds that BSON can hold, RFC 3339 on the wire."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time in UTC, cut to milliseconds so that what is answered equals what is stored."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def rfc3339(moment: datetime) -> str:
    """A UTC datetime as RFC 3339 with milliseconds and `Z`, e.g. `2026-11-21T20:17:00.123Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
