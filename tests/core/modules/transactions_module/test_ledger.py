"""The rules of the ledger, one by one: double entry, floors, numbers, and which grant pays."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.modules.transactions_module import ledger
from core.modules.transactions_module.errors import LedgerInvariantError
from core.modules.transactions_module.ledger import MAX_BALANCE, MAX_LOTS, PAID, PROMOTIONAL, Book, Draft, Lot, is_system
from tests.support.money import START, debit, grant, transfer, wallet
from tools.error_handling.errors import AppError

LATER = START + timedelta(hours=1)


def book(*wallets: Any) -> Book:
    return Book(wallets or (wallet("a"), wallet("b", "u_2")), LATER)


def lot(name: str, remaining: int = 10, category: str = PAID, priority: int = 50, **when: Any) -> Lot:
    times = {"effective_at": START, "expires_at": None, "created_at": START, **when}
    return Lot(name, remaining, category, priority, **times)


# Double entry


def test_a_grant_comes_from_issuance_and_opens_a_lot() -> None:
    state = book()
    posted = state.post(grant("a", 100, PROMOTIONAL, 10, reference="r", memo="m", metadata={"k": 1}))
    assert [(e.wallet_id, e.delta, e.seq, e.balance_after, e.held_after) for e in posted.entries] == [
        ("system:issuance:CREDIT", -100, None, None, None),
        ("a", 100, 1, 100, 0),
    ]
    assert (posted.type, posted.asset, posted.amount, posted.created_at) == ("grant", "CREDIT", 100, LATER)
    assert (posted.source, posted.destination) == ("system:issuance:CREDIT", "a")
    assert (posted.reference, posted.memo, posted.metadata, posted.allocations) == ("r", "m", {"k": 1}, ())
    assert posted.grant is not None
    assert (posted.grant.remaining, posted.grant.category, posted.grant.priority) == (100, PROMOTIONAL, 10)
    assert state.wallets["a"].lots == (posted.grant,)


def test_a_debit_goes_to_revenue_and_is_paid_by_lots() -> None:
    state = book()
    given = state.post(grant("a", 100)).grant
    posted = state.post(debit("a", 30))
    assert given is not None
    assert [(e.wallet_id, e.delta) for e in posted.entries] == [("a", -30), ("system:revenue:CREDIT", 30)]
    assert posted.allocations == ((given.grant_id, 30),)
    assert state.wallets["a"].lots[0].remaining == 70
    assert posted.grant is None


def test_a_transfer_arrives_as_funds_without_a_grant() -> None:
    state = book()
    state.post(grant("a", 100))
    posted = state.post(transfer("a", "b", 40))
    assert [(e.wallet_id, e.delta, e.seq, e.balance_after) for e in posted.entries] == [("a", -40, 2, 60), ("b", 40, 1, 40)]
    assert state.wallets["b"].lots == ()
    assert state.post(debit("b", 40)).allocations == ()


def test_numbers_go_up_by_one_and_times_never_back() -> None:
    state = book(wallet("a", posted_at=LATER + timedelta(days=1)), wallet("b"))
    posted = [state.post(grant("a", 5)), state.post(grant("a", 5)), state.post(transfer("a", "b", 1))]
    assert [next(e.seq for e in t.entries if e.wallet_id == "a") for t in posted] == [1, 2, 3]
    assert all(t.created_at == LATER + timedelta(days=1) for t in posted), "the clock of another worker was ahead"
    assert state.wallets["b"].posted_at == LATER + timedelta(days=1)


def test_each_asset_has_system_accounts_of_its_own() -> None:
    state = book(wallet("x", asset="GEMS"))
    assert state.post(grant("x", 5)).source == "system:issuance:GEMS"
    assert state.post(debit("x", 5)).destination == "system:revenue:GEMS"


# Floors


@pytest.mark.parametrize(
    ("state", "amount", "fits"),
    [
        ({"settled": 10}, 10, True),
        ({"settled": 10}, 11, False),
        ({"settled": 10, "credit_limit": 5}, 15, True),
        ({"settled": 10, "credit_limit": 5}, 16, False),
        ({"settled": 10, "held": 4}, 6, True),
        ({"settled": 10, "held": 4}, 7, False),
        ({"settled": -5, "credit_limit": 5}, 1, False),
    ],
)
def test_only_what_is_available_can_be_spent(state: dict[str, int], amount: int, fits: bool) -> None:
    own = book(wallet("a", **state))
    available = own.wallets["a"].available
    if fits:
        own.post(debit("a", amount))
        assert own.wallets["a"].available == available - amount >= 0
    else:
        refused(own, debit("a", amount), "insufficient-funds", available=available, required=amount)


def test_a_balance_has_an_end() -> None:
    state = book(wallet("a", settled=MAX_BALANCE - 5), wallet("b", settled=10))
    refused(state, transfer("b", "a", 6), "amount-invalid")
    refused(state, grant("a", 6), "amount-invalid")
    state.post(transfer("b", "a", 5))
    assert state.wallets["a"].settled == MAX_BALANCE


def test_a_wallet_holds_only_so_many_grants() -> None:
    state = book(wallet("a", lots=tuple(lot(f"g{n}") for n in range(MAX_LOTS)), settled=MAX_LOTS * 10), wallet("b"))
    refused(state, grant("a", 1), "too-many-grants")
    state.post(debit("a", 10))
    state.post(grant("a", 1))


# Refusals


def refused(state: Book, draft: Draft, code: str, **extra: Any) -> None:
    before = deepcopy(state.wallets)
    with pytest.raises(AppError) as refusal:
        state.post(draft)
    assert refusal.value.code == code
    assert extra.items() <= refusal.value.extra.items()
    assert state.wallets == before, "a refusal leaves no trace"


@pytest.mark.parametrize(
    ("draft", "code"),
    [
        (transfer("a", "a", 1), "same-wallet"),
        (transfer("a", "nobody", 1), "not-found"),
        (transfer("nobody", "a", 1), "not-found"),
        (grant("nobody", 1), "not-found"),
        (debit("nobody", 1), "not-found"),
        (transfer("a", "gems", 1), "asset-mismatch"),
        (transfer("a", "frozen", 1), "wallet-frozen"),
        (transfer("frozen", "a", 1), "wallet-frozen"),
        (grant("closed", 1), "wallet-closed"),
        (transfer("system:issuance", "system:revenue", 1), "asset-mismatch"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_has_changed(draft: Draft, code: str) -> None:
    others = (wallet("gems", asset="GEMS"), wallet("frozen", status="frozen", settled=5), wallet("closed", status="closed"))
    refused(book(wallet("a", settled=5), *others), draft, code)


def test_a_fault_of_ours_never_becomes_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    state = book(wallet("a", settled=10))
    monkeypatch.setattr(ledger, "_move", lambda *_: ledger.Entry("a", 1, 1, 1, 0))
    with pytest.raises(LedgerInvariantError, match="do not sum to zero"):
        state.post(debit("a", 5))


def test_a_branch_is_tried_out_without_a_trace_until_it_is_taken_over() -> None:
    state = book()
    state.post(grant("a", 100))
    before = deepcopy(state.wallets)
    branch = state.branch(["a", "nobody"])
    posted = branch.post(debit("a", 60))
    assert (state.wallets, len(state.posted)) == (before, 1)
    state.absorb(branch)
    assert (state.wallets["a"].settled, state.posted[-1]) == (40, posted)


# Which grant pays


def test_lots_pay_by_priority_then_expiry_then_promotional_then_age() -> None:
    day = timedelta(days=1)
    wanted = [
        lot("first by priority", priority=1),
        lot("expires first", expires_at=LATER + day),
        lot("expires later", expires_at=LATER + 2 * day),
        lot("promotional", category=PROMOTIONAL, effective_at=START + 2 * day),
        lot("effective earlier", effective_at=START),
        lot("made earlier", effective_at=START + day, created_at=START),
        lot("a made later", effective_at=START + day, created_at=START + day),
        lot("b made later", effective_at=START + day, created_at=START + day),
        lot("last by priority", priority=99, expires_at=START),
    ]
    for shuffled in (wanted[::-1], wanted[3:] + wanted[:3]):
        assert sorted(shuffled, key=lambda each: each.rank) == wanted


def test_grants_are_put_in_their_place_whenever_they_come() -> None:
    state = book()
    for amount, category, priority in ((1, PAID, 50), (2, PROMOTIONAL, 50), (3, PAID, 10), (4, PROMOTIONAL, 90)):
        state.post(grant("a", amount, category, priority))
    assert [each.remaining for each in state.wallets["a"].lots] == [3, 2, 1, 4]
    assert [amount for _, amount in state.post(debit("a", 7)).allocations] == [3, 2, 1, 1]
    assert [each.remaining for each in state.wallets["a"].lots] == [3]


@given(st.lists(st.integers(1, 20), max_size=6), st.integers(1, 200), st.integers(0, 100))
def test_lots_pay_first_and_what_they_do_not_cover_comes_from_the_rest(lots: list[int], amount: int, rest: int) -> None:
    own = tuple(lot(f"g{number}", remaining) for number, remaining in enumerate(lots))
    state = book(wallet("a", lots=own, settled=sum(lots) + rest))
    if amount > sum(lots) + rest:
        return
    allocations = state.post(debit("a", amount)).allocations
    paid = dict(allocations)
    assert sum(paid.values()) == min(amount, sum(lots))
    assert all(part > 0 for part in paid.values())
    left = {each.grant_id: each.remaining for each in state.wallets["a"].lots}
    assert all(paid.get(each.grant_id, 0) + left.get(each.grant_id, 0) == each.remaining for each in own)
    # In order: only the last one that paid may be left with something.
    assert [name for name, _ in allocations] == [each.grant_id for each in own][: len(allocations)]
    assert all(name not in left for name, _ in allocations[:-1])


@pytest.mark.parametrize(("account", "system"), [("system:issuance", True), ("system:x", True), ("w_1", False), ("System:issuance", False)])
def test_accounts_of_the_system_are_told_by_their_name(account: str, system: bool) -> None:
    assert is_system(account) is system
