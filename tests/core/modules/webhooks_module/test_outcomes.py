"""What follows from an attempt: for the delivery, and for the webhook."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.modules.webhooks_module.outcomes import FAILING_FOR, GIVEN_UP, TRIES, outcome_of, standing_after
from core.modules.webhooks_module.sender import Attempt
from tests.support.money import START

WELL: dict[str, Any] = {"status": "active", "failing_since": None, "given_up": 0}


def attempt(status_code: int | None = None, error: str | None = None, retry_after: float | None = None) -> Attempt:
    return Attempt(status_code, error, 0.1, retry_after)


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_every_2xx_is_an_arrival(code: int) -> None:
    assert outcome_of(attempt(code), TRIES, lambda: 0.0).status == "delivered"


@pytest.mark.parametrize(("code", "error"), [(408, None), (429, None), (500, None), (503, None), (599, None), (None, "dns"), (None, "tls")])
def test_what_may_pass_is_tried_again_until_the_last_time(code: int | None, error: str | None) -> None:
    assert outcome_of(attempt(code, error), TRIES - 1, lambda: 0.0).status == "pending"
    assert outcome_of(attempt(code, error), TRIES, lambda: 0.0).status == "failed"


@pytest.mark.parametrize("code", [100, 199, 300, 302, 304, 308, 400, 401, 403, 404, 409, 410, 422, 451])
def test_everything_else_is_final(code: int) -> None:
    assert outcome_of(attempt(code), 1, lambda: 0.0).status == "failed"


def test_pauses_grow_from_a_minute_to_an_hour() -> None:
    shortest = [outcome_of(attempt(500), tries, lambda: 0.0).pause for tries in range(1, TRIES)]
    longest = [outcome_of(attempt(500), tries, lambda: 1.0).pause for tries in range(1, TRIES)]
    assert shortest == [60, 120, 240, 480, 960, 1920, *[2400] * 8]
    assert longest == [90, 180, 360, 720, 1440, 2880, *[3600] * 8]


@pytest.mark.parametrize(("said", "pause"), [(0, 60), (59, 60), (90, 90), (3600, 3600), (86400, 3600)])
def test_what_the_receiver_asks_for_is_honoured_within_bounds(said: float, pause: float) -> None:
    assert outcome_of(attempt(429, retry_after=said), 5, lambda: 0.5).pause == pause


@given(st.integers(1, TRIES - 1), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_no_pause_is_shorter_than_a_minute_or_longer_than_an_hour(tries: int, drawn: float, said: float | None) -> None:
    assert 60 <= outcome_of(attempt(503, retry_after=said), tries, lambda: drawn).pause <= 3600


def test_the_first_failure_is_remembered_with_its_time() -> None:
    assert standing_after(WELL, ["pending"], START) == {"failing_since": START, "given_up": 0}
    assert standing_after({**WELL, "failing_since": START}, ["pending"], START + timedelta(hours=1)) == {}


def test_a_success_forgives_everything_before_it() -> None:
    bad = {**WELL, "failing_since": START, "given_up": GIVEN_UP}
    assert standing_after(bad, ["failed", "delivered", "failed"], START + 2 * FAILING_FOR) == {"failing_since": None, "given_up": 0}
    assert standing_after(WELL, ["delivered"], START) == {}


@pytest.mark.parametrize(("given_up", "hours", "disabled"), [(GIVEN_UP - 1, 24, True), (GIVEN_UP - 2, 99, False), (99, 23.9, False)])
def test_only_what_fails_often_and_for_long_is_disabled(given_up: int, hours: float, disabled: bool) -> None:
    bad = {**WELL, "failing_since": START, "given_up": given_up}
    fields = standing_after(bad, ["failed"], START + timedelta(hours=hours))
    assert (fields.get("status") == "disabled") is disabled
    assert fields.get("disabled_reason") == ("failing" if disabled else None)


def test_one_that_is_disabled_already_keeps_its_reason() -> None:
    by_hand = {"status": "disabled", "failing_since": START, "given_up": 9}
    assert "disabled_reason" not in standing_after(by_hand, ["failed"], START + timedelta(days=9))
