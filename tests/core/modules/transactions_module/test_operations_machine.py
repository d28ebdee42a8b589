"""All verbs of the ledger at random, with a clock that goes on: what holds after every commit, whatever was asked."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.modules.transactions_module import ledger, operations
from core.modules.transactions_module.alerts import ABOVE, AVAILABLE, BELOW, SETTLED, Alert
from core.modules.transactions_module.commands import Command, decide
from core.modules.transactions_module.ledger import (
    CAPTURE,
    EXPIRY,
    GRANT,
    OPEN,
    REVERSAL,
    VOIDED,
    GrantTerms,
    Transaction,
    state_at,
)
from core.modules.transactions_module.notices import notices
from core.modules.transactions_module.operations import Adjust, Capture, PlaceHold, Release, Reverse, Tidy, VoidGrant
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import ADMIN, START, batch, command, debit, grant, transfer, wallet

NAMES = ("a", "b", "credit")
ALERTS = (
    Alert("al_low", SETTLED, BELOW, 50, 10, armed=False, level=0, created_at=START),
    Alert("al_high", AVAILABLE, ABOVE, 60, 0, armed=True, level=0, created_at=START),
)
WALLETS = {"a": wallet("a", "u_1", alerts=ALERTS), "b": wallet("b", "u_2"), "credit": wallet("credit", "u_1", credit_limit=60)}
Names = st.sampled_from(NAMES)
Amounts = st.integers(1, 40)
Seconds = st.integers(1, 40)


class OperationsMachine(RuleBasedStateMachine):
    """Wishes gather and are committed together, now and then as a batch; the store keeps what was decided."""

    @initialize()
    def open(self) -> None:
        self.patch = pytest.MonkeyPatch()
        numbers = itertools.count()
        for module in (ledger, operations):
            # Drawn ids would make the order of equal grants, and so a whole run, different each time.
            self.patch.setattr(module, "new_id", lambda prefix: f"{prefix}_{next(numbers):06d}")
        self.store = MemoryLedger(*deepcopy(list(WALLETS.values())))
        self.now = START
        self.wishes: list[Any] = [
            grant("a", 100),
            grant("a", 60, terms=GrantTerms("promotional", 1, None, START + timedelta(seconds=40))),
            grant("b", 50, terms=GrantTerms("paid", 2, None, START + timedelta(seconds=90))),
            transfer("a", "b", 20),
            PlaceHold("a", 50, 30),
            PlaceHold("b", 30, 60),
        ]
        self.commit([command(wish) for wish in self.wishes], 0)

    def teardown(self) -> None:
        self.patch.undo()

    # Wishes

    @rule(name=Names, amount=Amounts, priority=st.integers(0, 2), begins=st.none() | Seconds, lasts=st.none() | Seconds)
    def wish_grant(self, name: str, amount: int, priority: int, begins: int | None, lasts: int | None) -> None:
        begin = self.now + timedelta(seconds=begins) if begins is not None else None
        end = (begin or self.now) + timedelta(seconds=lasts) if lasts is not None else None
        self.wishes.append(grant(name, amount, terms=GrantTerms("paid", priority, begin, end)))

    @rule(name=Names, amount=Amounts)
    def wish_debit(self, name: str, amount: int) -> None:
        self.wishes.append(debit(name, amount))

    @rule(source=Names, destination=Names, amount=Amounts)
    def wish_transfer(self, source: str, destination: str, amount: int) -> None:
        self.wishes.append(transfer(source, destination, amount))

    @rule(name=Names, amount=Amounts, seconds=Seconds)
    def wish_hold(self, name: str, amount: int, seconds: int) -> None:
        self.wishes.append(PlaceHold(name, amount, seconds))

    @rule(data=st.data(), amount=st.none() | Amounts, final=st.booleans(), to=st.sampled_from([None, *NAMES]))
    def wish_capture(self, data: st.DataObject, amount: int | None, final: bool, to: str | None) -> None:
        if self.store.holds:
            hold_id = data.draw(st.sampled_from(sorted(self.store.holds)))
            self.wishes.append(Capture(hold_id, amount, final, to or "system:revenue"))

    @rule(data=st.data(), amount=st.none() | Amounts, seconds=st.none() | Seconds, release=st.booleans())
    def wish_change(self, data: st.DataObject, amount: int | None, seconds: int | None, release: bool) -> None:
        if self.store.holds:
            hold_id = data.draw(st.sampled_from(sorted(self.store.holds)))
            self.wishes.append(Release(hold_id) if release else Adjust(hold_id, amount, seconds))

    @rule(data=st.data(), amount=st.none() | Amounts)
    def wish_reversal(self, data: st.DataObject, amount: int | None) -> None:
        if self.store.transactions:
            ids = [transaction.id for transaction in self.store.transactions]
            self.wishes.append(Reverse(data.draw(st.sampled_from(ids)), amount))

    @rule(data=st.data())
    def wish_void(self, data: st.DataObject) -> None:
        if self.store.grants:
            grant_id = data.draw(st.sampled_from(sorted(self.store.grants)))
            self.wishes.append(VoidGrant(self.store.grants[grant_id].wallet_id, grant_id))

    # Commits

    @rule(seconds=st.integers(0, 30))
    def commit_each(self, seconds: int) -> None:
        self.commit([command(wish) for wish in self.wishes], seconds)

    @rule(seconds=st.integers(0, 30))
    def commit_each_in_a_batch(self, seconds: int) -> None:
        if self.wishes:
            self.commit([batch(*self.wishes, atomic=False)], seconds)

    @rule(seconds=st.integers(0, 30))
    def commit_all_or_none(self, seconds: int) -> None:
        if not self.wishes:
            return
        before = deepcopy((self.store.wallets, self.store.holds, self.store.grants, self.store.transactions))
        wishes = list(self.wishes)
        (status,) = self.commit([batch(*wishes, atomic=True)], seconds)
        if status != 200:
            assert (self.store.wallets, self.store.holds, self.store.grants, self.store.transactions) == before, "a refusal moves nothing"

    @rule(seconds=st.integers(0, 30))
    def rehearse(self, seconds: int) -> None:
        """A dry run keeps nothing, and says what the real one then says."""
        if len(self.wishes) != 1:
            return
        before = deepcopy((self.store.wallets, self.store.holds, self.store.grants, self.store.transactions))
        wish = self.wishes[0]
        (tried,) = self.commit([command(wish, dry_run=True)], seconds)
        assert (self.store.wallets, self.store.holds, self.store.grants, self.store.transactions) == before
        (done,) = self.commit([command(wish)], 0)
        assert tried == (200 if done < 300 else done)

    @rule(seconds=st.integers(0, 30))
    def sweep(self, seconds: int) -> None:
        """What the sweeper writes down is what everybody could see before."""
        self.now += timedelta(seconds=seconds)
        before = self.seen()
        sweep = [Command((Tidy(NAMES),), ADMIN, None, "")]
        self.store.commit(sweep, lambda snapshot: decide(snapshot, sweep, self.now))
        assert self.seen() == before

    def seen(self) -> dict[str, tuple[Any, ...]]:
        """What anybody can see of the wallets now."""
        states = {name: state_at(own, self.now) for name, own in self.store.wallets.items()}
        return {name: (own.settled, own.held, own.seq, own.lots, own.holds) for name, own in states.items()}

    def commit(self, commands: list[Command], seconds: int) -> list[int]:
        self.now += timedelta(seconds=seconds)
        self.wishes = []
        outcome = self.store.commit(commands, lambda snapshot: decide(snapshot, commands, self.now))
        for verdict in outcome.verdicts:
            json.loads(verdict.body)
        for crossing in outcome.crossings:
            assert crossing.alert.is_beyond(crossing.current)
            assert not crossing.alert.is_beyond(crossing.previous), "only the crossing is told"
        for notice in notices(outcome):
            json.dumps(notice.data)
        return [verdict.status for verdict in outcome.verdicts]

    # What always holds

    @invariant()
    def balances_are_sums_and_numbers_have_no_gaps(self) -> None:
        for name, own in self.store.wallets.items():
            running, time = 0, START
            entries = [(posted, entry) for posted in self.store.transactions for entry in posted.entries if entry.wallet_id == name]
            for number, (posted, entry) in enumerate(entries, start=1):
                running += entry.delta
                assert (entry.seq, entry.balance_after) == (number, running)
                assert posted.created_at >= time, "times never go back"
                time = posted.created_at
            assert (own.seq, own.settled) == (len(entries), running)
        for posted in self.store.transactions:
            assert sum(entry.delta for entry in posted.entries) == 0
            assert posted.amount > 0

    @invariant()
    def held_is_the_sum_of_the_open_holds_and_never_more_than_there_is(self) -> None:
        for name, own in self.store.wallets.items():
            holds = [hold for hold in self.store.holds.values() if hold.wallet_id == name and hold.status == OPEN]
            assert own.held == sum(hold.remaining for hold in holds)
            assert {(r.hold_id, r.remaining, r.expires_at) for r in own.holds} == {(h.id, h.remaining, h.expires_at) for h in holds}
            assert own.available >= 0

    @invariant()
    def alerts_have_seen_the_levels_of_now(self) -> None:
        for own in self.store.wallets.values():
            for alert in own.alerts:
                assert alert.level == (own.settled if alert.on == SETTLED else own.available)
                assert not (alert.armed and alert.is_beyond(alert.level)), "it would have fired"

    @invariant()
    def captures_are_what_their_holds_say(self) -> None:
        captured = sum(posted.amount for posted in self.store.transactions if posted.type == CAPTURE)
        assert captured == sum(hold.captured for hold in self.store.holds.values())
        for hold in self.store.holds.values():
            assert 0 <= hold.captured <= hold.amount

    @invariant()
    def the_clock_is_always_obeyed(self) -> None:
        """Whoever looks now sees no hold that is over, and nothing to spend of a grant that is."""
        for own in self.store.wallets.values():
            seen = state_at(own, self.now)
            assert all(reserve.expires_at > self.now for reserve in seen.holds)
            assert not any(lot.pending is not None and lot.effective_at <= self.now for lot in seen.lots)
            over = sum(lot.remaining for lot in seen.lots if lot.expires_at is not None and lot.expires_at <= self.now)
            assert over <= seen.held, "what has expired only stays for the holds that count on it"
            assert seen.available >= 0

    @invariant()
    def every_grant_is_accounted_for(self) -> None:
        paid, restored = self.flows()
        left = Counter({lot.grant_id: lot.remaining for own in self.store.wallets.values() for lot in own.lots})
        posted = {t.grant_id: t.amount for t in self.store.transactions if t.type == GRANT}
        for grant_id, known in self.store.grants.items():
            waiting = grant_id not in posted
            total = known.amount if waiting and known.ended != VOIDED else posted.get(grant_id, 0)
            assert paid[grant_id] - restored[grant_id] + left[grant_id] == total, known
        for own in self.store.wallets.values():
            assert list(own.lots) == sorted(own.lots, key=lambda lot: lot.rank)
            assert sum(lot.remaining for lot in own.lots if lot.pending is None) <= max(0, own.settled)
            assert all(lot.remaining > 0 for lot in own.lots)

    def flows(self) -> tuple[Counter[str], Counter[str]]:
        """What each grant paid, and what it got back."""
        originals = {posted.id: posted for posted in self.store.transactions}
        paid: Counter[str] = Counter()
        restored: Counter[str] = Counter()
        for posted in self.store.transactions:
            own = self.grants_of(posted.source if posted.type != GRANT else posted.destination)
            for grant_id, part in posted.allocations:
                assert part > 0
                was = originals.get(posted.reverses or "")
                is_back = was is not None and grant_id in dict(was.allocations) and grant_id not in own
                (restored if is_back else paid)[grant_id] += part
        return paid, restored

    def grants_of(self, wallet_id: str) -> set[str]:
        return {grant_id for grant_id, known in self.store.grants.items() if known.wallet_id == wallet_id}

    @invariant()
    def nothing_is_taken_back_twice(self) -> None:
        back: Counter[str] = Counter()
        originals: dict[str, Transaction] = {posted.id: posted for posted in self.store.transactions}
        for posted in self.store.transactions:
            if posted.reverses is not None:
                assert posted.type == REVERSAL
                assert originals[posted.reverses].type not in (REVERSAL, EXPIRY)
                back[posted.reverses] += posted.amount
        for transaction_id, amount in back.items():
            assert amount <= originals[transaction_id].amount


TestOperationsMachine = OperationsMachine.TestCase
TestOperationsMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
