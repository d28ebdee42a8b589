"""What lies in the outbox is as the relay will read it."""

from __future__ import annotations

from bson import ObjectId

from core.outbox import Notice, outbox_row
from utils.clock import utc_now


def test_a_document_holds_its_events_in_order_and_waits_to_be_relayed() -> None:
    now = utc_now()
    row = outbox_row(now, [Notice("transaction.posted", "tx_1"), Notice("hold.captured", "h_1", {"hold": {"id": "h_1"}})])
    assert isinstance(row.pop("_id"), ObjectId)
    assert row == {
        "created_at": now,
        "relayed_at": None,
        "events": [
            {"type": "transaction.posted", "id": "tx_1", "data": None},
            {"type": "hold.captured", "id": "h_1", "data": {"hold": {"id": "h_1"}}},
        ],
    }


def test_every_document_has_an_id_of_its_own() -> None:
    assert outbox_row(utc_now(), [])["_id"] != outbox_row(utc_now(), [])["_id"]
