"""Time: UTC, in milliseconds, as it is stored and as it goes over the wire."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from utils.clock import rfc3339, utc_now


def test_now_is_utc_and_has_no_more_than_bson_can_hold() -> None:
    now = utc_now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert abs((datetime.now(UTC) - now).total_seconds()) < 1


def test_rfc_3339_has_milliseconds_and_a_z() -> None:
    assert rfc3339(datetime(2026, 11, 21, 20, 17, 0, 123_000, UTC)) == "2026-11-21T20:17:00.123Z"
    assert rfc3339(datetime(2026, 11, 21, tzinfo=UTC)) == "2026-11-21T00:00:00.000Z"


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_reads_back_as_the_same_millisecond(moment: datetime) -> None:
    assert datetime.fromisoformat(rfc3339(moment)) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)
