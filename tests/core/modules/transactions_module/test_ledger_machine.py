"""The ledger against a model of it: random money verbs, one by one and in batches, and every invariant after each step."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.modules.transactions_module.commands import Verdict, decide
from core.modules.transactions_module.ledger import DEBIT, GRANT, MAX_BALANCE, Draft, Transaction
from core.modules.transactions_module.operations import Actor
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import ADMIN, START, command, debit, grant, transfer, user, wallet

WALLETS = {
    "a": wallet("a", "u_1"),
    "b": wallet("b", "u_2"),
    "credit": wallet("credit", "u_1", credit_limit=100),
    "ice": wallet("ice", "u_1", status="frozen"),
    "gems": wallet("gems", "u_2", asset="GEMS"),
}
NAMES = st.sampled_from([*WALLETS, "a", "b", "a", "b", "nowhere", "system:issuance"])
AMOUNTS = st.integers(1, 60) | st.sampled_from([MAX_BALANCE, MAX_BALANCE - 50])
ACTORS = st.sampled_from([ADMIN, ADMIN, user("u_1"), user("u_2")])
REFERENCES = st.none() | st.sampled_from(["r1", "r2"])
KEYS = st.none() | st.none() | st.sampled_from(["k1", "k2", "k3"])


@dataclass(frozen=True)
class Order:
    """What someone asks for."""

    draft: Draft
    actor: Actor
    key: str | None
    dry_run: bool

    def command(self) -> Any:
        return command(self.draft, self.actor, self.key, dry_run=self.dry_run)


Drafts = st.one_of(
    st.builds(grant, NAMES, AMOUNTS, st.sampled_from(["paid", "promotional"]), st.integers(0, 2), reference=REFERENCES),
    st.builds(debit, NAMES, AMOUNTS, reference=REFERENCES),
    st.builds(transfer, NAMES, NAMES, AMOUNTS, reference=REFERENCES),
).filter(lambda draft: draft.wallet_ids)
Orders = st.builds(Order, Drafts, ACTORS, KEYS, st.sampled_from([False, False, False, True]))


class Model:
    """The ledger as anyone would write it who has no need to hurry: balances, references, and answers by key."""

    def __init__(self) -> None:
        self.balances = dict.fromkeys(WALLETS, 0)
        self.references: set[tuple[str, str]] = set()
        self.answers: dict[tuple[str, str, str], tuple[Draft, int]] = {}
        self.posted = 0

    def expect(self, order: Order) -> int:
        """The status that `order` is answered with, after having carried it out."""
        if order.dry_run:
            status = self.refusal(order)
            return status or 200
        key = (order.actor.user_id, order.draft.type, order.key or "")
        if order.key is not None and key in self.answers:
            draft, status = self.answers[key]
            return status if self.same(draft, order.draft) else 422
        status = self.refusal(order) or 201
        if status == 201:
            self.carry_out(order.draft)
        if order.key is not None and status != 403:
            self.answers[key] = (order.draft, status)
        return status

    @staticmethod
    def same(one: Draft, other: Draft) -> bool:
        """Whether two requests are the same to `money.command`, which leaves the terms out."""
        fields = ("type", "amount", "source", "destination", "reference")
        return all(getattr(one, field) == getattr(other, field) for field in fields)

    def refusal(self, order: Order) -> int | None:
        draft, real = order.draft, [name for name in (order.draft.source, order.draft.destination) if not name.startswith("system:")]
        if draft.type == GRANT and not order.actor.privileged:
            return 403
        if not order.actor.privileged and (draft.source not in WALLETS or WALLETS[draft.source].owner_id != order.actor.user_id):
            return 404
        if draft.reference is not None and (real[0], draft.reference) in self.references:
            return 409
        if draft.source == draft.destination:
            return 422
        for name in real:
            if name not in WALLETS:
                return 404
            if WALLETS[name].status != "active":
                return 403
        if len({WALLETS[name].asset for name in real}) > 1:
            return 422
        if draft.source in WALLETS and self.balances[draft.source] + WALLETS[draft.source].credit_limit < draft.amount:
            return 402
        if draft.destination in WALLETS and self.balances[draft.destination] + draft.amount > MAX_BALANCE:
            return 422
        return None

    def carry_out(self, draft: Draft) -> None:
        self.posted += 1
        for name, delta in ((draft.source, -draft.amount), (draft.destination, draft.amount)):
            if name in self.balances:
                self.balances[name] += delta
        if draft.reference is not None:
            self.references.add((draft.wallet_ids[0], draft.reference))


class LedgerMachine(RuleBasedStateMachine):
    """Batches of orders go through `decide` as the engine sends them; the model carries out the same."""

    @initialize()
    def open(self) -> None:
        self.store = MemoryLedger(*deepcopy(list(WALLETS.values())))
        self.model = Model()
        self.now = START
        self.bodies: dict[tuple[str, str, str], str] = {}

    @rule(orders=st.lists(Orders, min_size=1, max_size=6), seconds=st.integers(-5, 60))
    def commit(self, orders: list[Order], seconds: int) -> None:
        # Clocks of several workers may go back.
        self.now += timedelta(seconds=seconds)
        before, count = deepcopy(self.store.wallets), len(self.store.transactions)
        commands = [order.command() for order in orders]
        outcome = self.store.commit(commands, lambda snapshot: decide(snapshot, commands, self.now))
        assert [verdict.status for verdict in outcome.verdicts] == [self.model.expect(order) for order in orders]
        if not outcome.posted:
            assert self.store.wallets == before, "refused commands change nothing"
        assert len(self.store.transactions) - count == len(outcome.posted)
        for order, verdict in zip(orders, outcome.verdicts, strict=True):
            self.check_answer(order, verdict)

    def check_answer(self, order: Order, verdict: Verdict) -> None:
        """A key has one answer for ever."""
        if order.key is None or order.dry_run or verdict.status in (403, 422):
            return
        key = (order.actor.user_id, order.draft.type, order.key)
        assert self.bodies.setdefault(key, verdict.body) == verdict.body
        assert verdict.transaction is None or not verdict.replayed

    # Invariants

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        assert {name: own.settled for name, own in self.store.wallets.items()} == self.model.balances
        assert len(self.store.transactions) == self.model.posted

    @invariant()
    def sums_are_zero(self) -> None:
        totals: dict[str, int] = {}
        for posted in self.store.transactions:
            assert sum(entry.delta for entry in posted.entries) == 0
            for entry in posted.entries:
                account = entry.wallet_id if entry.seq is None else self.store.wallets[entry.wallet_id].asset
                totals[posted.asset] = totals.get(posted.asset, 0) + entry.delta
                assert account.endswith(posted.asset)
        assert set(totals.values()) <= {0}

    @invariant()
    def every_wallet_is_the_sum_of_its_entries(self) -> None:
        for name, own in self.store.wallets.items():
            entries = [(posted, entry) for posted in self.store.transactions for entry in posted.entries if entry.wallet_id == name]
            running, time = 0, START
            for number, (posted, entry) in enumerate(entries, start=1):
                running += entry.delta
                assert entry.seq == number, "numbers have no gaps"
                assert entry.balance_after == running
                assert running + own.credit_limit >= 0, "the floor"
                assert posted.created_at >= time, "times never go back"
                time = posted.created_at
            assert (own.seq, own.settled) == (len(entries), running)
            assert own.available >= 0

    @invariant()
    def grants_are_used_up_once(self) -> None:
        granted: dict[str, Transaction] = {t.grant.grant_id: t for t in self.store.transactions if t.grant is not None}
        used = dict.fromkeys(granted, 0)
        for posted in self.store.transactions:
            assert sum(part for _, part in posted.allocations) <= posted.amount
            for grant_id, part in posted.allocations:
                assert part > 0
                payer = posted.destination if posted.type == GRANT else posted.source
                assert granted[grant_id].destination == payer, "a grant pays for its own wallet only, and there for its debt"
                used[grant_id] += part
        left = {lot.grant_id: lot.remaining for own in self.store.wallets.values() for lot in own.lots}
        assert set(left) <= set(granted)
        for grant_id, posted in granted.items():
            assert used[grant_id] + left.get(grant_id, 0) == posted.amount
            assert left.get(grant_id, 1) > 0, "a lot that is used up is gone"

    @invariant()
    def lots_are_in_their_order_and_never_more_than_there_is(self) -> None:
        for own in self.store.wallets.values():
            assert list(own.lots) == sorted(own.lots, key=lambda lot: lot.rank)
            assert sum(lot.remaining for lot in own.lots) <= max(0, own.settled)

    @invariant()
    def what_a_debit_took_was_there(self) -> None:
        for posted in self.store.transactions:
            assert (posted.type == DEBIT) == posted.destination.startswith("system:revenue")
            assert (posted.type == GRANT) == (posted.grant is not None)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
