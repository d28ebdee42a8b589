"""Repeated work: it repeats, survives its failures, and ends when told."""

from __future__ import annotations

import threading

from tests.support.polling import eventually
from utils.background import Ticker


def no_failure(error: Exception) -> None:
    raise AssertionError(error)


def test_it_works_again_and_again_until_it_is_stopped() -> None:
    calls: list[str] = []
    ticker = Ticker("tick", 0.01, lambda: calls.append(threading.current_thread().name), no_failure, first=0)
    ticker.start()
    eventually(lambda: len(calls) >= 3, 5)
    ticker.stop()
    count = len(calls)
    assert set(calls) == {"tick"}
    assert "tick" not in {thread.name for thread in threading.enumerate()}
    assert len(calls) == count


def test_a_failing_call_is_reported_and_the_next_one_comes() -> None:
    failures: list[Exception] = []

    def work() -> None:
        raise ValueError("not this time")

    ticker = Ticker("tick", 0.01, work, failures.append, first=0)
    ticker.start()
    eventually(lambda: len(failures) >= 2, 5)
    ticker.stop()
    assert all(isinstance(failure, ValueError) for failure in failures)


def test_it_can_be_woken_and_stopped_while_it_waits() -> None:
    called = threading.Event()
    ticker = Ticker("tick", 3600, called.set, no_failure)
    ticker.start()
    assert not called.is_set()
    ticker.wake()
    assert called.wait(5)
    ticker.stop()
    ticker.stop()
    assert "tick" not in {thread.name for thread in threading.enumerate()}


def test_one_that_never_started_can_be_stopped() -> None:
    Ticker("tick", 1, lambda: None, no_failure).stop()
