"""Alerts: once on the crossing, and again only after the level has come back by the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.modules.transactions_module.alerts import ABOVE, AVAILABLE, BELOW, SETTLED, Alert
from core.modules.transactions_module.commands import Command, Outcome, decide
from core.modules.transactions_module.ledger import GrantTerms, Wallet
from core.modules.transactions_module.operations import Capture, PlaceHold, Tidy
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import START, batch, command, debit, grant, transfer, wallet

LATER = START + timedelta(minutes=1)


def alert(threshold: int, direction: str = BELOW, on: str = SETTLED, margin: int = 0, level: int = 100) -> Alert:
    return Alert("al_1", on, direction, threshold, margin, armed=True, level=level, created_at=START)


def fired_levels(watch: Alert, levels: Sequence[int]) -> list[int]:
    """The levels at which it fires."""
    fired = []
    for level in levels:
        before, watch = watch, watch.look(level, LATER)
        assert watch.level == level
        if before.armed and not watch.armed:
            fired.append(level)
    return fired


@pytest.mark.parametrize(
    ("watch", "levels", "expected"),
    [
        (alert(50), [60, 50, 49, 48, 0], [49]),
        (alert(50), [49, 50, 49], [49, 49]),
        (alert(50, margin=10), [49, 59, 40, 60, 45], [49, 45]),
        (alert(50, ABOVE), [50, 51, 99], [51]),
        (alert(50, ABOVE, margin=10), [51, 41, 60, 40, 60], [51, 60]),
        (alert(0), [0, -1, -2], [-1]),
    ],
    ids=["once", "again", "margin", "above", "above with margin", "into debt"],
)
def test_it_fires_on_the_crossing_and_again_after_it_came_back(watch: Alert, levels: list[int], expected: list[int]) -> None:
    assert fired_levels(watch, levels) == expected


@given(st.lists(st.integers(-20, 20)), st.integers(-20, 20), st.integers(0, 10), st.sampled_from([BELOW, ABOVE]))
def test_between_two_firings_the_level_was_back(levels: list[int], threshold: int, margin: int, direction: str) -> None:
    sign = 1 if direction == BELOW else -1
    waiting = False
    watch = alert(threshold, direction, margin=margin, level=threshold)
    for level in levels:
        beyond, back = sign * (level - threshold) < 0, sign * (level - threshold) >= margin
        fires = beyond and not waiting
        before, watch = watch, watch.look(level, LATER)
        assert (before.armed and not watch.armed) == fires
        waiting = (waiting or fires) and not back
        assert watch.armed == (not waiting)


def watched(name: str, *alerts: Alert, **more: object) -> Wallet:
    return replace(wallet(name, **more), alerts=alerts)


def commit(store: MemoryLedger, *commands: Command, seconds: int = 0) -> Outcome:
    return store.commit(commands, lambda snapshot: decide(snapshot, commands, START + timedelta(seconds=seconds)))


def crossings(outcome: Outcome) -> list[tuple[str, int, int]]:
    return [(crossing.wallet_id, crossing.previous, crossing.current) for crossing in outcome.crossings]


def test_a_payment_that_crosses_is_reported_with_the_level_before_and_after() -> None:
    store = MemoryLedger(watched("a", alert(50), settled=100), wallet("b"))
    assert crossings(commit(store, command(transfer("a", "b", 50)))) == []
    outcome = commit(store, command(transfer("a", "b", 30)), command(debit("a", 5)), seconds=9)
    assert crossings(outcome) == [("a", 50, 20)]
    (crossing,) = outcome.crossings
    assert (crossing.owner_id, crossing.at) == ("u_1", START + timedelta(seconds=9))
    kept = store.wallets["a"].alerts[0]
    assert (kept.armed, kept.level, kept.fired_at) == (False, 15, START + timedelta(seconds=9))


def test_a_level_that_dips_and_recovers_within_one_commit_is_reported() -> None:
    store = MemoryLedger(watched("a", alert(50), settled=100))
    outcome = commit(store, command(debit("a", 80)), command(grant("a", 80)), command(debit("a", 80)))
    assert crossings(outcome) == [("a", 100, 20), ("a", 100, 20)]


def test_a_hold_crosses_what_is_available_and_not_what_is_settled() -> None:
    low, settled = alert(50, on=AVAILABLE), alert(50, on=SETTLED)
    store = MemoryLedger(watched("a", low, settled, settled=100))
    outcome = commit(store, command(PlaceHold("a", 60, 900)))
    assert [(crossing.alert.on, crossing.current) for crossing in outcome.crossings] == [(AVAILABLE, 40)]


def test_a_capture_is_one_step_and_not_two() -> None:
    store = MemoryLedger(watched("a", alert(50, ABOVE, AVAILABLE, level=40), settled=100))
    commit(store, command(PlaceHold("a", 60, 900)))
    (hold_id,) = store.holds
    outcome = commit(store, command(Capture(hold_id)))
    assert crossings(outcome) == []
    assert store.wallets["a"].alerts[0].level == 40


def test_what_expires_by_the_clock_crosses_too() -> None:
    store = MemoryLedger(watched("a", alert(50)))
    commit(store, command(grant("a", 100, terms=GrantTerms(expires_at=START + timedelta(seconds=10)))))
    assert crossings(commit(store, command(Tidy(("a",))), seconds=10)) == [("a", 100, 0)]


def test_a_changed_credit_limit_is_noticed_at_the_next_look() -> None:
    store = MemoryLedger(watched("a", alert(50, on=AVAILABLE), credit_limit=100))
    store.wallets["a"] = replace(store.wallets["a"], credit_limit=20)
    assert crossings(commit(store, command(Tidy(("a",))))) == [("a", 100, 20)]


def test_a_dry_run_and_a_refused_batch_cross_nothing() -> None:
    store = MemoryLedger(watched("a", alert(50), settled=100))
    outcome = commit(store, command(debit("a", 60), dry_run=True), batch(debit("a", 60), debit("a", 60), atomic=True))
    assert crossings(outcome) == []
    assert store.wallets["a"].alerts == (alert(50),)
    assert crossings(commit(store, batch(debit("a", 60), debit("a", 10), atomic=True))) == [("a", 100, 40)]
