"""Which events a webhook's patterns mean, and how one is written down."""

from __future__ import annotations

import json

import pytest

from core.modules.webhooks_module.events import EVENT_TYPES, Event, is_known, wants
from tests.support.money import START


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("*", len(EVENT_TYPES)),
        ("hold.*", 5),
        ("transaction.posted", 1),
        ("hold", 0),
        ("hold.", 0),
        ("*.posted", 0),
        ("hold*", 0),
        (".*", 0),
    ],
)
def test_a_pattern_means_a_type_all_of_a_kind_or_everything(pattern: str, count: int) -> None:
    assert sum(wants([pattern], event_type) for event_type in EVENT_TYPES) == count
    assert is_known(pattern) == (count > 0)


def test_one_of_several_patterns_is_enough() -> None:
    assert wants(["grant.*", "hold.created"], "hold.created")
    assert not wants(["grant.*", "hold.created"], "hold.expired")


def test_a_body_is_json_with_id_type_time_and_data() -> None:
    event = Event.of("ev_1_0", "hold.created", START, {"hold": {"reason": "Zoë"}})
    assert json.loads(event.body) == {
        "id": "ev_1_0",
        "type": "hold.created",
        "created_at": "2026-01-01T00:00:00.000Z",
        "data": {"hold": {"reason": "Zoë"}},
    }
