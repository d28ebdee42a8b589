"""Calls at the same time as one: each gets its own answer, and what fails fails for those who asked together."""

from __future__ import annotations

import threading

import pytest

from tests.support.at_once import at_once
from tests.support.polling import eventually
from utils.batching import Batcher


def test_calls_that_wait_go_together_and_each_gets_its_own_answer() -> None:
    sizes: list[int] = []
    go_on = threading.Event()

    def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        go_on.wait(10)
        return [2 * item for item in items]

    batcher = Batcher(double, 8)
    threading.Timer(0.3, go_on.set).start()
    assert at_once(20, batcher.call) == [2 * number for number in range(20)]
    assert sum(sizes) == 20
    assert max(sizes) <= 8
    assert len(sizes) < 20
    assert batcher.call(50) == 100, "nobody leads any more"


def test_an_error_reaches_those_of_its_batch_and_nobody_else() -> None:
    held = threading.Event()

    def refuse_negative(items: list[int]) -> list[int]:
        held.wait(10)
        if min(items) < 0:
            raise ValueError("negative")
        return items

    batcher = Batcher(refuse_negative, 1)
    errors: list[str] = []

    def call(number: int) -> int | None:
        try:
            return batcher.call(number - 2)
        except ValueError as error:
            errors.append(str(error))
            return None

    held.set()
    assert sorted(answer for answer in at_once(6, call) if answer is not None) == [0, 1, 2, 3]
    assert errors == ["negative", "negative"]


def test_a_batch_that_is_answered_short_is_an_error_and_no_call_hangs() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [], 8)
    with pytest.raises(ValueError, match="zip"):
        batcher.call(1)
    eventually(lambda: not batcher._busy, 1)
