"""How limits are written: all that can be said is understood, and nothing else is."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.managers.rate_limiter_policies import Limit, PolicyTable, parse_limit
from utils.config.config import SETTINGS

numbers = st.integers(1, 999_999_999)
DEFAULTS = {setting.key: setting.default for setting in SETTINGS}


@given(st.sampled_from(["", "fixed:", "sliding:", "bucket:"]), numbers, numbers)
def test_a_limit_is_requests_and_seconds_in_an_algorithm(prefix: str, quota: int, seconds: int) -> None:
    assert parse_limit(f"{prefix}{quota}/{seconds}") == Limit(prefix.rstrip(":") or "fixed", quota, seconds, quota)


@given(numbers, numbers, numbers)
def test_a_bucket_may_hold_more_or_less_than_its_quota(quota: int, seconds: int, burst: int) -> None:
    assert parse_limit(f"bucket:{quota}/{seconds}:{burst}") == Limit("bucket", quota, seconds, burst)
    for prefix in ("", "fixed:", "sliding:"):
        with pytest.raises(ValueError, match="burst"):
            parse_limit(f"{prefix}{quota}/{seconds}:{burst}")


@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from([*"019/: ", "fixed", "sliding", "bucket"])).map("".join)))
@example("60/60\n")
@example("٣/٦")
@example("1_0/60")
@example("+1/60")
@example("060/60")
@example("60/60:")
@example("bucket:60/60:0")
@example("Bucket:60/60")
@example("1000000000/60")
def test_whatever_else_is_refused_and_told_how_it_should_be(text: str) -> None:
    if re.fullmatch(
        r"(fixed:|sliding:)?[1-9][0-9]{0,8}/[1-9][0-9]{0,8}|bucket:[1-9][0-9]{0,8}/[1-9][0-9]{0,8}(:[1-9][0-9]{0,8})?", text, re.A
    ):
        parse_limit(text)
        return
    with pytest.raises(ValueError, match=r"such as|as in"):
        parse_limit(text)


def test_the_defaults_slide_where_passwords_are_guessed_and_fill_a_bucket_where_money_moves() -> None:
    algorithms = {policy.name: policy.algorithm for policy in PolicyTable(DEFAULTS).all()}
    assert algorithms == {"ip": "fixed", "user": "fixed", "api_key": "fixed", "auth": "sliding", "money": "bucket"}
    assert {policy.name for policy in PolicyTable(DEFAULTS).all() if policy.fail_closed} == {"auth", "money"}


def test_a_request_meets_its_own_policies_and_then_the_routes() -> None:
    table = PolicyTable(DEFAULTS)

    def met(kinds: tuple[str, ...], limit: str | None) -> list[tuple[int, str]]:
        return [(index, policy.name) for index, policy in table.plan(kinds, limit).checks]

    assert met(("ip",), None) == [(0, "ip")]
    assert met(("ip", "user"), "money") == [(0, "ip"), (1, "user"), (1, "money")]
    assert met(("ip", "api_key"), "money") == [(0, "ip"), (1, "api_key"), (1, "money")]
    assert met(("ip", "user", "api_key"), "money")[-1] == (1, "money")
    assert met(("ip", "user"), "auth")[-1] == (0, "auth")
    assert met(("ip",), "money") == [(0, "ip")], "nobody is there to be counted"
    assert met(("ip", "user"), "user") == [(0, "ip"), (1, "user")], "once is enough"
    assert met((), "auth") == []


def test_a_client_is_told_what_passes_at_once_and_when_all_of_it_is_there_again() -> None:
    table = PolicyTable({**DEFAULTS, "RATE_LIMIT_MONEY": "bucket:10/3:21"})
    assert (table["money"].most, table["money"].window) == (21, 7)
    assert (table["auth"].most, table["auth"].window) == (30, 60)
