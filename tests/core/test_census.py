"""What the whole database holds: counted by one of all, told by every one, and taken over when the one is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.census import Census
from core.managers.database_manager import DatabaseManager
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.polling import eventually

Maker = Callable[[], "Counted"]


class Counted:
    """A census that counts how often it counts, and keeps what it tells."""

    def __init__(self, database: DatabaseManager, name: str) -> None:
        self.counts = 0
        self.shown: list[Any] = []
        self.census = Census(database, name, 0.5, self._count, lambda figures: self.shown.append(figures["number"]))

    def _count(self) -> dict[str, Any]:
        self.counts += 1
        return {"number": self.counts}


@pytest.fixture(scope="module")
def database(app_manager_factory: Callable[..., Managers]) -> DatabaseManager:
    manager: DatabaseManager = app_manager_factory("database").database_manager
    return manager


@pytest.fixture
def make(database: DatabaseManager) -> Iterator[Maker]:
    name, made = unique("census"), []

    def one() -> Counted:
        made.append(Counted(database, name))
        return made[-1]

    yield one
    for each in made:
        each.census.stop()


def test_one_counts_and_all_tell_the_same(make: Maker) -> None:
    first, second = make(), make()
    first.census.tick()
    second.census.tick()
    assert (first.counts, second.counts) == (1, 0)
    assert first.shown == second.shown == [1]


def test_another_goes_on_when_the_one_has_stopped(make: Maker) -> None:
    first, second = make(), make()
    first.census.tick()
    first.census.stop()
    second.census.tick()
    assert second.counts == 1


def test_it_repeats_until_it_is_stopped(make: Maker) -> None:
    one = make()
    one.census.start()
    eventually(lambda: one.counts >= 2, 20)
    one.census.stop()
    one.census.stop()
    counted = one.counts
    assert one.census._ticker._thread is None
    assert one.counts == counted


def test_a_count_that_takes_long_is_made_seldom(database: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets one part in twenty of the time."""
    now = [0.0]
    monkeypatch.setattr("core.census.time.monotonic", lambda: now[0])
    counts = []

    def count() -> dict[str, Any]:
        now[0] += 10
        counts.append(now[0])
        return {}

    census = Census(database, unique("census"), 0.5, count, lambda _: None)
    for _ in range(5):
        census.tick()
        now[0] += 100
    census.stop()
    # Until 210 it rests.
    assert counts == [10, 220, 430]
