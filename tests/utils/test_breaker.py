"""The circuit breaker: closed, open, and one trial at a time."""

from __future__ import annotations

import threading
import time

from utils.breaker import CircuitBreaker

RESET = 0.05


def opened(threshold: int = 3, reset: float = RESET) -> CircuitBreaker:
    breaker = CircuitBreaker(threshold, reset)
    for _ in range(threshold):
        breaker.failed()
    return breaker


def test_it_opens_after_that_many_failures_in_a_row() -> None:
    breaker = CircuitBreaker(3, RESET)
    for _ in range(2):
        breaker.failed()
        assert breaker.allows()
        assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = CircuitBreaker(2, RESET)
    for _ in range(10):
        breaker.failed()
        breaker.succeeded()
    assert breaker.allows()


def test_when_the_time_is_over_one_trial_is_allowed_and_no_second() -> None:
    breaker = opened()
    time.sleep(RESET)
    assert breaker.allows()
    assert not breaker.allows()


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = opened()
    time.sleep(RESET)
    assert breaker.allows()
    breaker.succeeded()
    assert not breaker.is_open
    assert all(breaker.allows() for _ in range(5))


def test_a_trial_that_fails_keeps_it_open_for_the_whole_time_again() -> None:
    breaker = opened()
    time.sleep(RESET)
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    time.sleep(RESET)
    assert breaker.allows()


def test_a_trial_that_never_reports_back_does_not_keep_it_open_for_ever() -> None:
    breaker = opened()
    time.sleep(RESET)
    assert breaker.allows()
    time.sleep(RESET)
    assert breaker.allows()


def test_of_many_threads_one_gets_the_trial() -> None:
    breaker = opened(reset=0.2)
    time.sleep(0.2)
    gate = threading.Barrier(16)
    allowed: list[bool] = []

    def ask() -> None:
        gate.wait()
        allowed.append(breaker.allows())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 1
