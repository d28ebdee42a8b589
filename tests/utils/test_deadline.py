"""The deadline of a request: what is left of it, everywhere in its own context and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from utils import deadline


@pytest.fixture(autouse=True)
def no_deadline() -> Iterator[None]:
    deadline.clear()
    yield
    deadline.clear()


def test_without_a_deadline_the_default_is_left() -> None:
    assert deadline.remaining(2.5) == 2.5


def test_within_a_request_its_time_runs_out() -> None:
    deadline.start(1.0)
    first = deadline.remaining(99)
    assert 0.9 < first <= 1.0
    assert deadline.remaining(99) <= first


def test_a_deadline_that_has_passed_is_never_zero_which_drivers_take_for_no_limit() -> None:
    deadline.start(-5)
    assert deadline.remaining(99) == 0.05


def test_a_cleared_deadline_is_forgotten() -> None:
    deadline.start(1.0)
    deadline.clear()
    assert deadline.remaining(7) == 7


def test_another_thread_has_a_deadline_of_its_own() -> None:
    deadline.start(1.0)
    seen: list[float] = []
    thread = threading.Thread(target=lambda: seen.append(deadline.remaining(42)))
    thread.start()
    thread.join()
    assert seen == [42]
