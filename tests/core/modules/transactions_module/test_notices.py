"""What a commit tells: each thing that happened once, in the words that receivers subscribe to."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from core.modules.transactions_module.alerts import Alert
from core.modules.transactions_module.commands import Command, decide
from core.modules.transactions_module.ledger import GrantTerms
from core.modules.transactions_module.notices import notices
from core.modules.transactions_module.operations import Adjust, Capture, PlaceHold, Release, Reverse, Tidy, VoidGrant
from core.outbox import Notice
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import START, batch, command, debit, grant, transfer, wallet


def tell(store: MemoryLedger, *commands: Command, seconds: int = 0) -> list[Notice]:
    outcome = store.commit(commands, lambda snapshot: decide(snapshot, commands, START + timedelta(seconds=seconds)))
    return list(notices(outcome))


def types(told: list[Notice]) -> list[str]:
    return [notice.type for notice in told]


def test_every_transaction_is_told_and_a_reversal_under_both_names() -> None:
    store = MemoryLedger(wallet("a"), wallet("b"))
    told = tell(store, command(grant("a", 100)), command(transfer("a", "b", 10)), command(debit("b", 11)))
    assert types(told) == ["transaction.posted", "transaction.posted", "grant.created"]
    assert [notice.id for notice in told[:2]] == [posted.id for posted in store.transactions]
    told = tell(store, command(Reverse(store.transactions[1].id)))
    assert types(told) == ["transaction.posted", "transaction.reversed"]
    assert {notice.id for notice in told} == {store.transactions[-1].id}


def test_a_hold_is_told_as_it_was_at_each_step() -> None:
    store = MemoryLedger(wallet("a", settled=100))
    told = tell(store, command(PlaceHold("a", 50, 10)))
    hold_id = told[0].id
    told += tell(store, command(Adjust(hold_id, 60)), command(Capture(hold_id, 20)), command(Release(hold_id)))
    holds = [notice for notice in told if notice.data is not None]
    assert types(holds) == ["hold.created", "hold.adjusted", "hold.captured", "hold.released"]
    views = [notice.data["hold"] for notice in holds if notice.data is not None]
    assert [(view["amount"], view["captured"], view["status"]) for view in views] == [
        (50, 0, "open"),
        (60, 0, "open"),
        (60, 20, "open"),
        (60, 20, "released"),
    ]


def test_what_the_clock_ends_is_told_when_it_is_written_down() -> None:
    store = MemoryLedger(wallet("a"))
    tell(store, command(grant("a", 100, terms=GrantTerms(expires_at=START + timedelta(seconds=30)))), command(PlaceHold("a", 50, 10)))
    (hold_id,), (grant_id,) = store.holds, store.grants
    told = tell(store, command(Tidy(("a",))), seconds=60)
    assert [(notice.type, notice.id) for notice in told[1:]] == [("hold.expired", hold_id), ("grant.expired", grant_id)]
    assert told[0] == Notice("transaction.posted", store.transactions[-1].id)


def test_a_void_grant_is_told() -> None:
    store = MemoryLedger(wallet("a"))
    tell(store, command(grant("a", 100)))
    (grant_id,) = store.grants
    told = tell(store, command(VoidGrant("a", grant_id)))
    assert types(told) == ["transaction.posted", "transaction.reversed", "grant.voided"]


def test_an_alert_is_told_with_all_that_its_receiver_needs() -> None:
    watch = Alert("al_1", "settled", "below", 50, 0, armed=True, level=100, created_at=START)
    store = MemoryLedger(replace(wallet("a", settled=100), alerts=(watch,)))
    told = tell(store, command(debit("a", 60)), seconds=1)[-1]
    assert told == Notice(
        "alert.crossed",
        "al_1",
        {
            "alert_id": "al_1",
            "wallet_id": "a",
            "owner_id": "u_1",
            "on": "settled",
            "direction": "below",
            "threshold": 50,
            "previous": 100,
            "current": 40,
            "at": "2026-01-01T00:00:01.000Z",
        },
    )


def test_what_was_refused_or_only_tried_is_not_told() -> None:
    store = MemoryLedger(wallet("a", settled=100))
    refused = batch(PlaceHold("a", 50, 10), debit("a", 60), atomic=True)
    tried = command(PlaceHold("a", 50, 10), dry_run=True)
    assert tell(store, refused, tried, command(debit("a", 101))) == []
