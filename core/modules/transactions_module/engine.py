"""The posting engine: money verbs that arrive together are decided together and written in one transaction.

Group commit, as write-ahead logs do it (DeWitt et al., "Implementation Techniques for Main Memory Database Systems",
SIGMOD 1984): while one commit is on its way the next verbs gather, so the batch grows with the load by itself. A second
commit goes along on other wallets: while one waits for the database, the other decides.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from core import metrics
from core.modules.transactions_module.commands import Command, Outcome, Snapshot, Verdict, decide
from core.modules.transactions_module.posting_queue import NO_TURNS, Batch, PostingQueue, Turns
from tools.error_handling.errors import AppError, OutcomeUnknown, Unavailable
from tools.logger.custom_logger import custom_log, game_log, log_exception, log_function
from utils import deadline
from utils.clock import utc_now

# How often to look whether another worker has given a wallet back.
_TURN_SECONDS = 0.001
_UNKNOWN = "It is not known yet whether this took effect; retry with the same Idempotency-Key."
Decide = Callable[[Snapshot], Outcome]


class LedgerStore(Protocol):
    """Where the engine writes. `commit` reads, calls `decide` (perhaps several times) and writes, all in one transaction."""

    def commit(self, commands: Sequence[Command], decide: Decide) -> Outcome: ...


class _Item:
    """One command in the queue, and the event that its caller waits for."""

    __slots__ = ("command", "done", "result", "taken", "wallets", "weight")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.weight = len(command.operations)
        self.wallets = _wallets_of(command)
        self.done = threading.Event()
        self.taken = False
        self.result: Verdict | BaseException | None = None

    def finish(self, result: Verdict | BaseException) -> None:
        self.result = result
        self.done.set()


class PostingEngine:
    """One for each process. `submit` may be called from any number of threads or greenlets.

    `lanes`: how many commits may be on their way at a time, each on a thread. `turns`: shared with the other workers.
    `on_commit` gets what was committed, after its callers got their answers; it runs on a posting thread and only takes note.
    """

    def __init__(
        self,
        store: LedgerStore,
        *,
        batch_max: int,
        queue_max: int,
        commit_seconds: float,
        on_commit: Callable[[Outcome], None],
        lanes: int = 1,
        turns: Turns = NO_TURNS,
    ) -> None:
        self._store = store
        self._on_commit = on_commit
        self._queue_max = queue_max
        self._commit_seconds = commit_seconds
        self._queue: PostingQueue[_Item] = PostingQueue(batch_max, lanes, turns)
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._run, name=f"posting-engine-{lane}", daemon=True) for lane in range(lanes)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @log_function
    def stop(self) -> None:
        """Refuse new commands, finish those that wait, then end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2 * self._commit_seconds)

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    def submit(self, command: Command) -> Verdict:
        """The verdict on `command`, after its commit. Raises Unavailable (nothing moved) or OutcomeUnknown."""
        item = _Item(command)
        with self._changed:
            if self._stopping or len(self._queue) >= self._queue_max:
                raise Unavailable("Too many money verbs are waiting.", code="backpressure", retry_after=1)
            self._queue.append(item)
            self._changed.notify()
        if not item.done.wait(deadline.remaining(2 * self._commit_seconds)):
            self._give_up(item)
        if isinstance(item.result, BaseException):
            raise item.result
        assert item.result is not None
        return item.result

    def _give_up(self, item: _Item) -> None:
        """The caller's time is over: withdraw the command if it still waits, else nobody knows how it ends."""
        with self._changed:
            if not item.taken:
                self._queue.remove(item)
                raise Unavailable("The ledger is too slow just now; nothing was moved.", retry_after=1)
        if not item.done.is_set():
            raise OutcomeUnknown(_UNKNOWN)

    def _run(self) -> None:
        while batch := self._take():
            self._commit_safely(batch)
            # Those who were just answered come first: under load they ask again, and belong into the next batch. Without
            # this, half of the callers would always wait for the other half.
            time.sleep(0)
            with self._changed:
                self._queue.done(batch)
                self._changed.notify_all()

    def _commit_safely(self, batch: list[_Item]) -> None:
        try:
            self._commit(batch)
        except Exception as error:  # noqa: BLE001  whatever happens to one batch, the next ones need this thread
            log_exception("the posting engine stumbled", error, commands=len(batch))
            self._finish_rest(batch)

    @staticmethod
    def _finish_rest(batch: list[_Item]) -> None:
        for item in batch:
            if not item.done.is_set():
                item.finish(OutcomeUnknown(_UNKNOWN))

    def _take(self) -> Batch[_Item]:
        """What may go, up to a full batch; empty only when the engine stops."""
        with self._changed:
            while not (batch := self._queue.take()) and not (self._stopping and not self._queue):
                self._changed.wait(_TURN_SECONDS if self._queue.elsewhere else None)
            for item in batch:
                item.taken = True
            metrics.QUEUE_LENGTH.set(len(self._queue))
            if self._queue:
                self._changed.notify()
            return batch

    def _commit(self, batch: list[_Item]) -> None:
        started = time.perf_counter()
        commands = [item.command for item in batch]
        deadline.start(self._commit_seconds)
        try:
            outcome = self._store.commit(commands, lambda snapshot: decide(snapshot, commands, utc_now()))
        except AppError as error:
            custom_log("a commit failed", level="WARNING", code=error.code, commands=len(batch))
            for item in batch:
                item.finish(error)
            return
        except Exception as error:  # noqa: BLE001  one command that nobody foresaw must not take its neighbours along
            self._isolate(batch, error)
            return
        for item, verdict in zip(batch, outcome.verdicts, strict=True):
            item.finish(verdict)
        self._on_commit(outcome)
        self._measure(outcome, len(batch), time.perf_counter() - started)

    def _isolate(self, batch: list[_Item], error: Exception) -> None:
        """Nothing of this batch was written: commit its commands one by one, so that only the faulty one fails."""
        if len(batch) == 1:
            log_exception("a money verb failed", error, request_id=batch[0].command.request_id)
            batch[0].finish(error)
            return
        log_exception("a batch failed, retrying one by one", error, commands=len(batch))
        for item in batch:
            self._commit([item])

    @staticmethod
    def _measure(outcome: Outcome, size: int, seconds: float) -> None:
        metrics.BATCH_SIZE.observe(size)
        metrics.POSTING_SECONDS.observe(seconds)
        count: Counter[str] = Counter()
        amount: Counter[tuple[str, str]] = Counter()
        for transaction in (posting.transaction for posting in outcome.posted):
            count[transaction.type] += 1
            amount[transaction.type, transaction.asset] += transaction.amount
        if count:
            game_log(
                "credits moved", transactions=dict(count), amounts={f"{kind} {asset}": total for (kind, asset), total in amount.items()}
            )
        for kind, number in count.items():
            metrics.TRANSACTIONS.labels(kind).inc(number)
        for labels, total in amount.items():
            metrics.AMOUNT.labels(*labels).inc(total)
        replays = sum(verdict.replayed for verdict in outcome.verdicts)
        if replays:
            metrics.REPLAYS.inc(replays)


def _wallets_of(command: Command) -> frozenset[str] | None:
    """The wallets that `command` touches; None where that is only known when its holds or transactions were read."""
    needs = [operation.needs for operation in command.operations]
    if any(each.holds or each.transactions for each in needs):
        return None
    return frozenset(wallet_id for each in needs for wallet_id in each.wallets)
