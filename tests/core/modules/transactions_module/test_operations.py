"""The verbs of the ledger one by one, where several meet in one commit or the clock has a say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.modules.transactions_module.commands import Outcome, decide
from core.modules.transactions_module.ledger import EXPIRED, PAID, GrantTerms, Transaction
from core.modules.transactions_module.operations import Adjust, Capture, PlaceHold, Release, Reverse, Tidy, VoidGrant
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import START, batch, command, debit, grant, transfer, user, wallet


class World:
    """A ledger in memory with two wallets, and a clock that the test turns."""

    def __init__(self, credit_limit: int = 0) -> None:
        self.store = MemoryLedger(wallet("a", "u_1", credit_limit=credit_limit), wallet("b", "u_2"))
        self.now = START

    def run(self, *wishes: Any, after: int = 0) -> Outcome:
        self.now += timedelta(seconds=after)
        commands = [wish if hasattr(wish, "operations") else command(wish) for wish in wishes]
        return self.store.commit(commands, lambda snapshot: decide(snapshot, commands, self.now))

    def state(self, name: str = "a") -> tuple[int, int, list[int]]:
        own = self.store.wallets[name]
        # Lots of the same moment are in no order that a test could know.
        return own.settled, own.held, sorted(lot.remaining for lot in own.lots)

    def moment(self, seconds: int) -> datetime:
        return START + timedelta(seconds=seconds)


@pytest.fixture
def world() -> World:
    return World()


def statuses(outcome: Outcome) -> list[int]:
    return [verdict.status for verdict in outcome.verdicts]


def body(outcome: Outcome, index: int = -1) -> Any:
    return json.loads(outcome.verdicts[index].body)


def kinds(transactions: Iterable[Transaction]) -> list[tuple[str, int]]:
    return [(posted.type, posted.amount) for posted in transactions]


def lasting(amount: int, seconds: int, priority: int = 50) -> Any:
    return grant("a", amount, terms=GrantTerms(PAID, priority, None, START + timedelta(seconds=seconds)))


def test_reversals_in_one_commit_share_what_is_left(world: World) -> None:
    world.run(grant("a", 100))
    debited = body(world.run(debit("a", 50)))["id"]
    outcome = world.run(Reverse(debited, 30), Reverse(debited, 30), Reverse(debited), Reverse(debited))
    assert statuses(outcome) == [201, 422, 201, 409]
    assert world.state() == (100, 0, [100])


def test_captures_in_one_commit_share_the_hold(world: World) -> None:
    world.run(grant("a", 100))
    hold = body(world.run(PlaceHold("a", 50, 60)))["id"]
    outcome = world.run(Capture(hold, 30), Capture(hold, 30), Capture(hold, 20), Release(hold))
    assert statuses(outcome) == [200, 422, 200, 409]
    assert world.state() == (50, 0, [50])


def test_what_is_due_happens_at_its_time_and_before_anything_else(world: World) -> None:
    world.run(lasting(40, 10), grant("a", 5, terms=GrantTerms(PAID, 50, world.moment(20), None)), PlaceHold("a", 30, 5))
    outcome = world.run(debit("a", 5), after=100)
    assert kinds(posting.transaction for posting in outcome.posted) == [("expiry", 40), ("grant", 5), ("debit", 5)]
    assert [posting.transaction.created_at for posting in outcome.posted] == [world.moment(10), world.moment(20), world.moment(100)]
    assert [posting.actor_id for posting in outcome.posted] == ["system", "system", "u_admin"]
    assert world.state() == (0, 0, [])


def test_a_hold_keeps_what_it_counts_on_from_expiring_and_nothing_else(world: World) -> None:
    world.run(transfer_in(world, 50), lasting(100, 10))
    hold = body(world.run(PlaceHold("a", 120, 60)))["id"]
    assert statuses(world.run(Tidy(("a",)), after=20)) == [200]
    assert world.state() == (150, 120, [100]), "the first lots of the order would pay for the hold"
    assert statuses(world.run(debit("a", 31), debit("a", 30))) == [402, 201]
    assert world.state() == (120, 120, [100]), "what has expired pays for captures only"
    world.run(Capture(hold, 70, final=True))
    assert world.state() == (50, 0, [30])
    world.run(Tidy(("a",)))
    assert world.state() == (20, 0, [])


def transfer_in(world: World, amount: int) -> Any:
    world.run(grant("b", amount))
    return transfer("b", "a", amount)


def test_a_grant_that_gets_its_part_back_after_its_end_expires_again(world: World) -> None:
    world.run(lasting(40, 10))
    debited = body(world.run(debit("a", 40)))["id"]
    outcome = world.run(Reverse(debited), Tidy(("a",)), after=20)
    assert kinds(posting.transaction for posting in outcome.posted) == [("reversal", 40), ("expiry", 40)]
    assert world.state() == (0, 0, [])
    assert [known.ended for known in world.store.grants.values()] == [EXPIRED]


def test_a_void_grant_gets_nothing_back(world: World) -> None:
    given = body(world.run(grant("a", 40)))["grant"]["id"]
    debited = body(world.run(debit("a", 30)))["id"]
    assert statuses(world.run(VoidGrant("a", given), Reverse(debited))) == [200, 201]
    assert world.state() == (30, 0, [])


def test_a_debt_takes_its_part_of_a_grant_and_of_what_comes_back() -> None:
    world = World(credit_limit=100)
    world.run(grant("a", 20))
    debited = body(world.run(debit("a", 70)))["id"]
    assert world.state() == (-50, 0, [])
    outcome = world.run(grant("a", 80))
    assert (body(outcome)["grant"]["remaining"], outcome.posted[0].transaction.allocations[0][1]) == (30, 50)
    world.run(Reverse(debited))
    assert world.state() == (100, 0, [20, 30])


def test_an_atomic_batch_leaves_no_hold_grant_or_event_behind(world: World) -> None:
    world.run(grant("a", 50))
    later = grant("a", 5, terms=GrantTerms(PAID, 50, world.moment(60), None), reference="r")
    outcome = world.run(batch(PlaceHold("a", 10, 60), later, debit("a", 41), atomic=True))
    assert statuses(outcome) == [422]
    assert (outcome.placed, outcome.issued, outcome.events, outcome.posted, outcome.wallets) == ([], [], [], [], [])
    assert statuses(world.run(later)) == [201], "its reference is free"


def test_each_item_of_a_batch_sees_the_ones_before(world: World) -> None:
    outcome = world.run(batch(grant("a", 50), debit("a", 30), debit("a", 30), transfer("a", "b", 20), atomic=False))
    assert [row["status"] for row in body(outcome)["results"]] == [201, 201, 402, 201]
    assert (world.state(), world.state("b")) == ((0, 0, []), (20, 0, []))


def test_the_clock_alone_changes_what_nobody_touches(world: World) -> None:
    world.run(lasting(40, 10), PlaceHold("a", 10, 20))
    outcome = world.run(Tidy(("a", "nobody")), after=15)
    assert kinds(posting.transaction for posting in outcome.posted) == [("expiry", 30)]
    outcome = world.run(Tidy(("a",)), after=15)
    assert kinds(posting.transaction for posting in outcome.posted) == [("expiry", 10)]
    assert world.run(Tidy(("a",)), after=100).posted == []


def test_an_owner_may_not_touch_what_others_reserve(world: World) -> None:
    world.run(grant("a", 50))
    hold = body(world.run(PlaceHold("a", 10, 60)))["id"]
    wishes = [Capture(hold), Release(hold), Adjust(hold, 5)]
    assert statuses(world.run(*(command(wish, user("u_1")) for wish in wishes))) == [403, 403, 403]
    assert statuses(world.run(*(command(wish, user("u_2")) for wish in wishes))) == [404, 404, 404]
    assert statuses(world.run(*(command(wish) for wish in wishes))) == [200, 409, 409]


def test_a_wallet_has_a_largest_number_of_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.modules.transactions_module.operations.MAX_HOLDS", 2)
    world.run(grant("a", 50))
    outcome = world.run(*[PlaceHold("a", 1, 60)] * 3)
    assert statuses(outcome) == [201, 201, 409]
    assert body(outcome)["code"] == "too-many-holds"


def test_a_limit_that_was_lowered_while_holds_were_over_stops_nobody() -> None:
    world = World(credit_limit=100)
    world.run(PlaceHold("a", 50, 10), PlaceHold("a", 50, 20))
    # By the clock nothing is held any more, so the limit may go; what is written down still says otherwise.
    world.now += timedelta(seconds=60)
    world.store.wallets["a"].credit_limit = 0
    assert statuses(world.run(grant("a", 5), debit("a", 5))) == [201, 201]
    assert world.state() == (0, 0, [])
