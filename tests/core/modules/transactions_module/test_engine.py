"""The posting engine over a store in memory: batches, faults, backpressure, time-outs and the stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from core.modules.transactions_module.commands import Command, Outcome, Snapshot, Verdict
from core.modules.transactions_module.engine import PostingEngine
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import command, debit, grant, transfer, wallet
from tools.error_handling.errors import OutcomeUnknown, Unavailable
from utils import deadline

COMMIT_SECONDS = 5.0


class Store(MemoryLedger):
    """Commits only while its gate is open, notes the batches, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__(wallet("a"), wallet("b", "u_2"))
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.deadlines: list[float] = []
        self.fault: Callable[[Sequence[Command]], Exception | None] = lambda commands: None

    def commit(self, commands: Sequence[Command], decide: Callable[[Snapshot], Outcome]) -> Outcome:
        self.batches.append(len(commands))
        self.deadlines.append(deadline.remaining(-1))
        self.entered.release()
        self.gate.wait(10)
        error = self.fault(commands)
        if error is not None:
            raise error
        return super().commit(commands, decide)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(store: Store) -> Iterator[Callable[..., PostingEngine]]:
    """Started engines on `store`, stopped at the end."""
    engines: list[PostingEngine] = []

    def make(batch_max: int = 256, queue_max: int = 2048, commit_seconds: float = COMMIT_SECONDS, lanes: int = 1) -> PostingEngine:
        engine = PostingEngine(
            store, batch_max=batch_max, queue_max=queue_max, commit_seconds=commit_seconds, on_commit=lambda outcome: None, lanes=lanes
        )
        engine.start()
        engines.append(engine)
        return engine

    yield make
    store.gate.set()
    for engine in engines:
        engine.stop()
        assert not any(thread.is_alive() for thread in engine._threads)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=64) as executor:
        yield executor


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """`call` as a request that has `seconds` left."""
    deadline.start(seconds)
    try:
        return call()
    finally:
        deadline.clear()


def submit_behind(engine: PostingEngine, store: Store, pool: ThreadPoolExecutor, commands: Sequence[Command]) -> list[Future[Verdict]]:
    """One commit is on its way and held up; `commands` wait behind it."""
    store.gate.clear()
    held = pool.submit(engine.submit, command(grant("a", 1000)))
    assert store.entered.acquire(timeout=5)
    waiting = []
    for number, each in enumerate(commands, start=1):
        waiting.append(pool.submit(engine.submit, each))
        until(lambda number=number: engine.queue_length == number)  # type: ignore[misc]
    return [held, *waiting]


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    ended = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ended
        time.sleep(0.005)


def test_a_command_gets_its_verdict(make: Callable[..., PostingEngine], store: Store) -> None:
    engine = make()
    verdict = engine.submit(command(grant("a", 100)))
    assert verdict.status == 201
    assert verdict.transaction == store.transactions[0]
    assert engine.submit(command(debit("a", 101))).status == 402
    assert engine.queue_length == 0


def test_each_commit_is_one_event_of_the_application(
    make: Callable[..., PostingEngine], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="credit.game_play")
    within(60, lambda: make().submit(command(grant("a", 7))))
    until(lambda: any(record.name == "credit.game_play" for record in caplog.records))
    (event,) = [record for record in caplog.records if record.name == "credit.game_play"]
    assert event.getMessage() == "credits moved"
    assert event.credit_fields == {"transactions": {"grant": 1}, "amounts": {"grant CREDIT": 7}}  # type: ignore[attr-defined]


def test_what_arrives_during_a_commit_is_decided_together_and_in_order(
    make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor
) -> None:
    commands = [command(transfer("a", "b", 300 + number)) for number in range(10)]
    answers = submit_behind(make(), store, pool, commands)
    store.gate.set()
    assert [answer.result(5).status for answer in answers] == [201] * 4 + [402] * 7, "the first three of them fit"
    assert store.batches == [1, 10]


def test_a_batch_has_a_largest_size(make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor) -> None:
    answers = submit_behind(make(batch_max=4), store, pool, [command(debit("a", 1)) for _ in range(10)])
    store.gate.set()
    assert all(answer.result(5).status == 201 for answer in answers)
    assert store.batches == [1, 4, 4, 2]


def test_many_callers_at_once_lose_nothing(make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor) -> None:
    engine = make()
    engine.submit(command(grant("a", 500)))
    answers = [pool.submit(engine.submit, command(transfer("a", "b", 1))) for _ in range(600)]
    statuses = [answer.result(10).status for answer in answers]
    assert (statuses.count(201), statuses.count(402)) == (500, 100)
    assert (store.wallets["a"].settled, store.wallets["b"].settled) == (0, 500)
    assert sum(store.batches) == 601


def test_a_commit_has_a_deadline_of_its_own(make: Callable[..., PostingEngine], store: Store) -> None:
    within(60, lambda: make().submit(command(grant("a", 1))))
    assert 0 < store.deadlines[0] <= COMMIT_SECONDS


# Faults


def poisoned(commands: Sequence[Command]) -> Exception | None:
    return ValueError("nobody foresaw this") if any(each.operations[0].draft.memo == "poison" for each in commands) else None


def test_a_poisoned_command_fails_alone(make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor) -> None:
    store.fault = poisoned
    commands = [command(debit("a", 1)), command(debit("a", 1, memo="poison")), command(debit("a", 1))]
    _, first, poison, last = submit_behind(make(), store, pool, commands)
    store.gate.set()
    assert (first.result(5).status, last.result(5).status) == (201, 201)
    with pytest.raises(ValueError, match="nobody foresaw this"):
        poison.result(5)
    assert store.batches == [1, 3, 1, 1, 1]
    assert store.wallets["a"].settled == 998


def test_a_store_that_is_away_fails_the_whole_batch_and_the_next_one_is_tried_again(
    make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor
) -> None:
    engine = make()
    answers = submit_behind(engine, store, pool, [command(debit("a", 1)) for _ in range(3)])
    store.fault = lambda commands: Unavailable("away") if len(commands) > 1 else None
    store.gate.set()
    for answer in answers[1:]:
        with pytest.raises(Unavailable):
            answer.result(5)
    assert store.batches == [1, 3], "it is not asked once more for each of them"
    assert engine.submit(command(debit("a", 1))).status == 201


def test_an_unknown_outcome_is_told_as_such(make: Callable[..., PostingEngine], store: Store) -> None:
    store.fault = lambda commands: OutcomeUnknown("lost")
    with pytest.raises(OutcomeUnknown):
        make().submit(command(grant("a", 1)))


def test_the_thread_survives_whatever_happens(make: Callable[..., PostingEngine], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()

    def broken(*_: Any) -> None:
        raise OSError("no space left for metrics")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_measure", broken)
        assert engine.submit(command(grant("a", 1))).status == 201
        store.fault = lambda commands: RuntimeError("and this")
        with pytest.raises(RuntimeError):
            engine.submit(command(grant("a", 1)))
    store.fault = lambda commands: None
    assert engine.submit(command(grant("a", 1))).status == 201


# Too much, too slow


def test_a_full_queue_refuses_at_once(make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor) -> None:
    engine = make(queue_max=3)
    answers = submit_behind(engine, store, pool, [command(debit("a", 1)) for _ in range(3)])
    began = time.monotonic()
    with pytest.raises(Unavailable) as refusal:
        engine.submit(command(debit("a", 1)))
    assert time.monotonic() - began < 0.5
    assert (refusal.value.code, refusal.value.headers["Retry-After"]) == ("backpressure", "1")
    store.gate.set()
    assert [answer.result(5).status for answer in answers] == [201] * 4
    assert store.wallets["a"].settled == 997


def test_a_command_that_waited_too_long_is_withdrawn(make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor) -> None:
    engine = make()
    held, neighbour = submit_behind(engine, store, pool, [command(debit("a", 1))])
    with pytest.raises(Unavailable, match="nothing was moved") as refusal:
        within(0.1, lambda: engine.submit(command(debit("a", 500))))
    assert type(refusal.value) is Unavailable
    assert engine.queue_length == 1
    store.gate.set()
    assert (held.result(5).status, neighbour.result(5).status) == (201, 201)
    engine.submit(command(debit("a", 1)))
    assert store.wallets["a"].settled == 998, "it was told that nothing moved, and nothing did"


def test_of_a_command_that_was_taken_nobody_knows_how_it_ends(make: Callable[..., PostingEngine], store: Store) -> None:
    engine = make()
    store.gate.clear()
    posting = command(grant("a", 100), key="k")
    with pytest.raises(OutcomeUnknown, match="same Idempotency-Key"):
        within(0.1, lambda: engine.submit(posting))
    store.gate.set()
    until(lambda: len(store.transactions) == 1)
    again = engine.submit(command(grant("a", 100), key="k"))
    assert (again.status, again.replayed) == (201, True)
    assert store.wallets["a"].settled == 100, "the retry tells what happened, and moves nothing"


def test_without_a_request_a_command_waits_for_two_commits(make: Callable[..., PostingEngine], store: Store) -> None:
    engine = make(commit_seconds=0.1)
    store.gate.clear()
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        engine.submit(command(grant("a", 1)))
    assert 0.15 < time.monotonic() - began < 10
    store.gate.set()


# The stop


def test_a_stop_finishes_what_waits_and_refuses_what_comes(
    make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor
) -> None:
    engine = make(batch_max=2)
    answers = submit_behind(engine, store, pool, [command(debit("a", 1)) for _ in range(5)])
    stopping = pool.submit(engine.stop)
    until(lambda: engine._stopping)
    with pytest.raises(Unavailable) as refusal:
        engine.submit(command(debit("a", 1)))
    assert refusal.value.code == "backpressure"
    assert not stopping.done()
    store.gate.set()
    assert [answer.result(5).status for answer in answers] == [201] * 6
    stopping.result(5)
    assert not any(thread.is_alive() for thread in engine._threads)
    assert store.wallets["a"].settled == 995


def test_stopping_twice_or_before_the_start_is_harmless(make: Callable[..., PostingEngine], store: Store) -> None:
    engine = make()
    engine.stop()
    engine.stop()
    PostingEngine(store, batch_max=1, queue_max=1, commit_seconds=1, on_commit=lambda outcome: None).stop()
    with pytest.raises(Unavailable):
        engine.submit(command(grant("a", 1)))


def test_a_second_commit_goes_along_on_other_wallets_and_never_on_the_same(
    make: Callable[..., PostingEngine], store: Store, pool: ThreadPoolExecutor
) -> None:
    engine = make(lanes=2)
    answers = submit_behind(engine, store, pool, [command(debit("a", 1))])
    answers.append(pool.submit(engine.submit, command(grant("b", 1))))
    assert store.entered.acquire(timeout=5)
    assert engine.queue_length == 1
    assert store.batches == [1, 1]
    store.gate.set()
    assert [answer.result(5).status for answer in answers] == [201] * 3
