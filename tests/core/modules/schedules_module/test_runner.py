"""Scheduled transfers on a real MongoDB: each due one pays exactly once, whoever crashes, races or cancels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.lease import Lease
from core.modules.schedules_module.repository import ScheduleRepository
from core.modules.schedules_module.runner import Runner
from core.modules.schedules_module.schedule import Run, claim_of, decided_run, draft_of, new_schedule
from core.modules.transactions_module.commands import Command, Verdict
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.operations import Actor, Post
from core.modules.transactions_module.repository import LedgerRepository
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.service import new_wallet
from tests.core.conftest import Factory
from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.ledger import assert_sound
from tests.support.money import command, grant
from tests.support.own_database import own_database
from tools.error_handling.errors import Unavailable
from tools.local_stack import LocalStack
from utils.clock import utc_now

MINUTE = timedelta(minutes=1)


class Crash(Exception):
    """What a kill would be: nothing after it happens."""


@pytest.fixture(scope="module")
def managers(servers: LocalStack, app_manager_factory: Factory) -> Iterator[Managers]:
    """On a database of its own, where no application runs schedules."""
    with own_database(servers, "scheduled_by_tests") as database:
        managers = app_manager_factory("database", MONGODB_DATABASE=database.name)
        yield managers
        assert_sound(database)
        managers.dispose()


@pytest.fixture(scope="module")
def ledger(managers: Managers) -> LedgerRepository:
    return LedgerRepository(managers.database_manager, WalletRepository(managers.database_manager))


@pytest.fixture(scope="module")
def engine(ledger: LedgerRepository) -> Iterator[PostingEngine]:
    engine = PostingEngine(ledger, batch_max=256, queue_max=256, commit_seconds=5, on_commit=lambda outcome: None)
    engine.start()
    yield engine
    engine.stop()


class World:
    """One sender's schedules, a clock that the test turns, and as many workers as it wants."""

    def __init__(self, managers: Managers, engine: PostingEngine, ledger: LedgerRepository) -> None:
        self.database, self.engine, self.ledger = managers.database_manager, engine, ledger
        self.schedules = ScheduleRepository(self.database, WalletRepository(self.database))
        self.now = utc_now()
        self.lease_name = unique("schedules")
        self.sender = unique("u")
        self.roles = {self.sender: "user"}
        self.source, self.destination = self.opened(self.sender), self.opened(unique("u"))
        self.runners: list[Runner] = []

    def opened(self, owner: str) -> str:
        wallet = new_wallet(owner, "CREDIT")
        self.database.insert_one("wallets", wallet)
        return str(wallet["_id"])

    def fund(self, amount: int) -> None:
        self.engine.submit(command(grant(self.source, amount)))

    def add(self, rrule: str | None = None, run_at: datetime | None = None, **more: Any) -> dict[str, Any]:
        wish = {"owner_id": self.sender, "creator_id": self.sender, "source": self.source, "destination": self.destination}
        when = {"run_at": run_at or self.now, "rrule": rrule}
        schedule = new_schedule({**wish, "amount": 1, "memo": None, "reference": None, "metadata": {}, **when, **more}, self.now)
        self.database.insert_one("schedules", {**schedule, "place": int(schedule["_id"][-6:], 16)})
        return schedule

    def runner(self, schedules: Any = None, engine: Any = None, lease_name: str | None = None) -> Runner:
        runner = Runner(
            engine or self.engine,
            schedules or self.schedules,
            Lease(self.database, lease_name or self.lease_name, 30),
            find_roles=lambda ids: {user_id: self.roles[user_id] for user_id in ids if user_id in self.roles},
            find_transaction=self.ledger.find_transaction,
            clock=lambda: self.now,
        )
        self.runners.append(runner)
        return runner

    def stored(self, schedule: dict[str, Any]) -> dict[str, Any]:
        found = self.schedules.find(schedule["_id"])
        assert found is not None
        return found

    def log(self, schedule: dict[str, Any]) -> list[tuple[str, str | None]]:
        return [(row["status"], row["error"]) for row in reversed(self.schedules.runs(schedule["_id"], None, 500))]

    @property
    def received(self) -> int:
        wallet = self.database.find_one("wallets", {"_id": self.destination})
        assert wallet is not None
        return int(wallet["settled"])

    def freeze(self, status: str = "frozen") -> None:
        self.database.update_one("wallets", {"_id": self.source}, {"$set": {"status": status}, "$inc": {"version": 1}})


@pytest.fixture
def world(managers: Managers, engine: PostingEngine, ledger: LedgerRepository) -> Iterator[World]:
    world = World(managers, engine, ledger)
    yield world
    for runner in world.runners:
        runner.stop()
    managers.database_manager.update_many("schedules", {"owner_id": world.sender}, {"$set": {"status": "cancelled"}})


def test_what_is_due_runs_once_and_what_is_not_waits(world: World) -> None:
    world.fund(10)
    due, later = world.add(reference="rent"), world.add(run_at=world.now + MINUTE)
    runner = world.runner()
    assert (runner.tick(), runner.tick(), world.received) == (1, 0, 1)
    done = world.stored(due)
    assert (done["status"], done["runs"], done["last_run"]["status"]) == ("finished", 1, "succeeded")
    assert "place" not in done
    transaction = world.ledger.find_transaction(done["last_run"]["transaction_id"])
    assert transaction is not None
    assert (transaction.reference, transaction.metadata, transaction.amount) == ("rent", {"schedule_id": due["_id"]}, 1)
    assert world.stored(later)["runs"] == 0
    world.now += MINUTE
    assert (runner.tick(), world.received) == (1, 2)


def test_a_rule_runs_at_each_occurrence_and_makes_up_for_those_that_were_missed(world: World) -> None:
    world.fund(10)
    schedule, runner = world.add("FREQ=MINUTELY;COUNT=5"), world.runner()
    assert runner.tick() == 1
    world.now += 3 * MINUTE
    assert (runner.tick(), world.received) == (3, 4)
    assert world.stored(schedule)["next_run_at"] == world.now + MINUTE
    world.now += MINUTE
    assert (runner.tick(), world.received, world.stored(schedule)["status"]) == (1, 5, "finished")
    at = [row["at"] for row in reversed(world.schedules.runs(schedule["_id"], None, 10))]
    assert at == [schedule["run_at"] + number * MINUTE for number in range(5)]


def test_a_refusal_is_noted_and_told_and_the_next_run_may_succeed(world: World) -> None:
    schedule, runner = world.add("FREQ=MINUTELY"), world.runner()
    runner.tick()
    world.fund(10)
    world.now += MINUTE
    runner.tick()
    world.freeze()
    world.now += MINUTE
    runner.tick()
    world.freeze("active")
    assert world.log(schedule) == [("failed", "insufficient-funds"), ("succeeded", None), ("failed", "wallet-frozen")]
    assert (world.received, world.stored(schedule)["status"]) == (1, "active")
    told = [event for row in world.database.find_many("outbox", {"events.id": schedule["_id"]}) for event in row["events"]]
    assert [(event["type"], event["data"]["run"]["error"]) for event in told if event["id"] == schedule["_id"]] == [
        ("schedule.failed", "insufficient-funds"),
        ("schedule.failed", "wallet-frozen"),
    ]


@pytest.mark.parametrize("role", [None, "analyst"])
def test_whoever_may_not_move_credits_any_more_pays_nothing(world: World, role: str | None) -> None:
    world.fund(10)
    schedule = world.add("FREQ=MINUTELY")
    world.roles = {world.sender: role} if role else {}
    runner = world.runner()
    runner.tick()
    assert (world.log(schedule), world.received) == ([("failed", "creator-inactive")], 0)
    world.roles = {world.sender: "user"}
    runner.tick()
    world.now += MINUTE
    runner.tick()
    assert world.received == 1, "the run that was refused is not made up for"


def test_the_rights_of_the_creator_are_those_of_the_moment(world: World) -> None:
    """A service that has become a user does not reach into other people's wallets any more."""
    world.fund(10)
    helper = unique("u")
    schedule, runner = world.add("FREQ=MINUTELY", creator_id=helper), world.runner()
    for role in ("service", "user", "admin"):
        world.roles = {helper: role}
        runner.tick()
        world.now += MINUTE
    assert world.log(schedule) == [("succeeded", None), ("failed", "not-found"), ("succeeded", None)]


def test_a_crash_between_paying_and_noting_pays_once(world: World) -> None:
    world.fund(10)
    schedule = world.add("FREQ=MINUTELY")

    class Crashing(ScheduleRepository):
        def note(self, runs: Sequence[Run], now: datetime) -> list[dict[str, Any]]:
            raise Crash

    crashing = world.runner(Crashing(world.database, WalletRepository(world.database)))
    with pytest.raises(Crash):
        crashing.tick()
    assert (world.received, world.stored(schedule)["runs"]) == (1, 0)
    crashing.stop()
    world.runner().tick()
    assert (world.received, world.log(schedule)) == (1, [("succeeded", None)])


def test_the_same_after_so_long_that_the_key_is_forgotten(world: World, managers: Managers) -> None:
    world.fund(10)
    schedule = world.add("FREQ=MINUTELY")
    world.engine.submit(Command((Post(draft_of(schedule)),), Actor(world.sender, False, False), claim_of(schedule), ""))
    managers.database_manager.delete_one("idempotency", {"_id": claim_of(schedule).id})
    world.runner().tick()
    assert (world.received, world.log(schedule)) == (1, [("succeeded", None)])
    assert world.stored(schedule)["last_run"]["transaction_id"] is not None


def test_workers_that_race_pay_once(world: World) -> None:
    world.fund(100)
    schedules = [world.add("FREQ=MINUTELY") for _ in range(20)]
    runners = [world.runner(lease_name=unique("own")) for _ in range(3)]
    at_once(3, lambda index: runners[index].tick())
    assert world.received == 20
    assert all(world.log(schedule) == [("succeeded", None)] for schedule in schedules)


def test_only_the_holder_of_the_lease_works(world: World) -> None:
    world.fund(10)
    world.add("FREQ=MINUTELY")
    first, second = world.runner(), world.runner()
    assert first.tick() == 1
    world.now += MINUTE
    assert second.tick() == 0
    first.stop()
    assert second.tick() == 1


def test_a_refusal_that_the_ledger_forgets_is_final_once_it_is_noted(world: World) -> None:
    """Frozen for the one worker, active again for the other, which was slower to note: the log must not lie."""
    world.fund(10)
    schedule = world.add("FREQ=MINUTELY")
    refused = decided_run(schedule, 403, '{"code": "wallet-frozen", "status": 403}', stored=False)
    world.schedules.note([refused], world.now)
    late = world.runner(schedules=Stale(world, [schedule]))
    late.tick()
    assert (world.received, world.log(schedule)) == (0, [("failed", "wallet-frozen")])


def test_a_refusal_is_not_noted_when_somebody_was_faster_and_paid(world: World) -> None:
    world.fund(10)
    schedule = world.add("FREQ=MINUTELY")
    world.engine.submit(Command((Post(draft_of(schedule)),), Actor(world.sender, False, False), claim_of(schedule), ""))
    world.schedules.note([decided_run(schedule, 403, '{"code": "wallet-frozen", "status": 403}', stored=False)], world.now)
    world.runner().tick()
    assert (world.received, world.log(schedule)) == (1, [("succeeded", None)])


class Stale:
    """What is due as somebody saw it before it changed."""

    def __init__(self, world: World, seen: list[dict[str, Any]]) -> None:
        self._world, self._seen = world, seen

    def due(self, now: datetime, limit: int) -> list[dict[str, Any]]:
        seen, self._seen = self._seen, []
        return seen

    def note(self, runs: Sequence[Run], now: datetime) -> list[dict[str, Any]]:
        return self._world.schedules.note(runs, now)


def test_a_run_that_a_worker_is_about_to_make_does_not_happen_after_a_cancel(world: World) -> None:
    world.fund(10)
    schedule = world.add("FREQ=MINUTELY")
    world.schedules.cancel(schedule["_id"], world.now)
    world.runner(schedules=Stale(world, [schedule])).tick()
    world.runner(lease_name=unique("own")).tick()
    cancelled = world.stored(schedule)
    assert (world.received, cancelled["status"], cancelled["runs"], world.log(schedule)) == (0, "cancelled", 0, [])
    assert "place" not in cancelled


def test_a_cancel_after_the_payment_notes_it(world: World) -> None:
    world.fund(10)
    schedule, once = world.add("FREQ=MINUTELY"), world.add()
    for each in (schedule, once):
        world.engine.submit(Command((Post(draft_of(each)),), Actor(world.sender, False, False), claim_of(each), ""))
        world.schedules.cancel(each["_id"], world.now)
        assert world.log(each) == [("succeeded", None)]
    assert (world.stored(schedule)["status"], world.stored(once)["status"]) == ("cancelled", "finished")
    world.now += MINUTE
    world.runner().tick()
    assert world.received == 2


def test_a_cancel_and_a_run_at_the_same_moment_agree(world: World) -> None:
    world.fund(100)
    schedules = [world.add("FREQ=MINUTELY") for _ in range(12)]
    runner = world.runner()

    def act(index: int) -> None:
        if index == 0:
            runner.tick()
        else:
            world.schedules.cancel(schedules[index - 1]["_id"], world.now)

    at_once(13, act)
    runs = sum(len(world.log(schedule)) for schedule in schedules)
    assert world.received == runs
    world.now += MINUTE
    runner.tick()
    assert world.received == runs
    assert all(world.stored(schedule)["status"] == "cancelled" for schedule in schedules)


def test_a_ledger_that_is_busy_is_asked_again_and_nothing_counts_as_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fund(10)
    schedule = world.add()

    class Busy:
        def submit(self, command: Command) -> Verdict:
            raise Unavailable("Too many money verbs are waiting.", code="backpressure")

    busy = world.runner(engine=Busy())
    with pytest.raises(Unavailable):
        busy.tick()
    assert busy.tick() == 0, "it rests before it asks again"
    busy.stop()
    assert (world.stored(schedule)["status"], world.log(schedule)) == ("active", [])
    assert world.runner().tick() == 1
    assert world.received == 1


def test_a_schedule_that_nobody_foresaw_does_not_stop_the_others(world: World) -> None:
    world.fund(10)
    broken, sound = world.add(amount="a lot"), world.add()
    world.runner().tick()
    assert (world.log(broken), world.log(sound), world.received) == ([("failed", "internal")], [("succeeded", None)], 1)


def test_the_schedules_of_a_user_who_leaves_end(world: World, managers: Managers) -> None:
    world.fund(10)
    leaving = unique("u")
    made = [world.add("FREQ=MINUTELY", owner_id=leaving), world.add("FREQ=MINUTELY", creator_id=leaving), world.add()]
    end: Callable[[Any], None] = lambda session: world.schedules.end_all(leaving, world.now, session)  # noqa: E731
    managers.database_manager.transaction(end)
    assert [world.stored(each)["status"] for each in made] == ["cancelled", "cancelled", "active"]
    world.runner().tick()
    assert world.received == 1
