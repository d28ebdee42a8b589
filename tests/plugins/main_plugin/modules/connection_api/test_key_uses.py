"""When keys were used: written seldom and together, and not lost while the database is away."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

import pytest

from plugins.main_plugin.modules.connection_api import key_uses
from plugins.main_plugin.modules.connection_api.key_uses import APART, KeyUses
from tools.error_handling.errors import Unavailable


class Record:
    """Where uses are written to."""

    def __init__(self) -> None:
        self.writes: list[dict[str, datetime]] = []
        self.away = False

    def write(self, uses: Mapping[str, datetime]) -> None:
        if self.away:
            raise Unavailable
        self.writes.append(dict(uses))


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def uses(record: Record) -> KeyUses:
    return KeyUses(record.write)


def test_the_uses_of_many_keys_are_one_write(uses: KeyUses, record: Record) -> None:
    for key_id in ("k_1", "k_2", "k_1"):
        uses.note(key_id)
    uses.flush()
    assert [set(write) for write in record.writes] == [{"k_1", "k_2"}]


def test_nothing_is_written_where_nothing_was_used(uses: KeyUses, record: Record) -> None:
    uses.flush()
    uses.flush()
    assert record.writes == []


def test_a_key_is_written_at_most_once_a_minute_and_then_with_its_last_use(
    uses: KeyUses, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = key_uses.utc_now()
    clock = [start]
    monkeypatch.setattr(key_uses, "utc_now", lambda: clock[0])
    uses.note("k_1")
    uses.flush()
    for part in (0.1, 0.5, 0.9):
        clock[0] = start + APART * part
        uses.note("k_1")
        uses.flush()
    assert len(record.writes) == 1
    clock[0] = start + APART
    uses.flush()
    assert record.writes == [{"k_1": start}, {"k_1": start + APART * 0.9}]
    clock[0] = start + APART * 3
    uses.flush()
    assert len(record.writes) == 2


def test_what_could_not_be_written_is_written_later(uses: KeyUses, record: Record) -> None:
    uses.note("k_1")
    record.away = True
    with pytest.raises(Unavailable):
        uses.flush()
    record.away = False
    uses.flush()
    assert [set(write) for write in record.writes] == [{"k_1"}]


def test_the_end_writes_what_is_left_and_leaves_no_thread(uses: KeyUses, record: Record) -> None:
    before = threading.active_count()
    uses.start()
    uses.note("k_1")
    uses.stop()
    uses.stop()
    assert [set(write) for write in record.writes] == [{"k_1"}]
    assert threading.active_count() == before


def test_the_end_comes_also_while_the_database_is_away(uses: KeyUses, record: Record) -> None:
    uses.note("k_1")
    record.away = True
    uses.stop()
