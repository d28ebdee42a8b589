"""Seals a log off the hot path: one worker of all at a time, and never before every row of the past has arrived."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bson import Timestamp
from pymongo.client_session import ClientSession

from core import metrics
from core.chain import SEAL_ROWS, Chain, Log, head_of
from core.lease import Lease, LeaseLost
from tools.logger.custom_logger import custom_log

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager

_LEASE_SECONDS = 30.0
# What one tick seals at the most: it has to be over long before the lease is.
_SEALS_A_TICK = 20


class ChainSealer:
    """Call `tick` again and again in each worker; the holder of the lease seals, the others do nothing.

    Rows are sealed in the order of their stamps, the cluster's logical time at their insert, which only grows, also over elections.
    But a row becomes visible at its transaction's commit, up to 1.5 times the server's transactionLifetimeLimitSeconds later. So the
    sealer notes the cluster's time at each tick, and seals up to a note that it has kept for `delay` seconds by its own
    monotonic clock: what has an older stamp was committed by then, or never will be. No wall clock plays a part.
    """

    def __init__(
        self,
        database: DatabaseManager,
        log: Log,
        *,
        delay: float,
        clock: Callable[[], float] = time.monotonic,
        may_seal: Callable[[], bool] = lambda: True,
        looks_again: bool = True,
    ) -> None:
        """`may_seal`: asked before and after rows are read; False while they are not yet what they will be.

        `looks_again`: whether a tick also verifies an older seal.
        """
        self.chain = Chain(database, log)
        self._log = log
        self._may_seal = may_seal
        self._looks_again = looks_again
        self._lease = Lease(database, log.lease, _LEASE_SECONDS)
        self._delay = delay
        self._clock = clock
        self._notes: deque[tuple[float, Timestamp]] = deque()
        self._horizon: Timestamp | None = None
        self._checked: dict[str, Any] | None = None
        self._broken, self._was_broken = False, False

    def tick(self) -> int:
        """Seal what may be sealed, look at an older seal again, and measure; how many rows were sealed. Unavailable, LeaseLost."""
        was_ours = self._lease.is_held
        if not self._lease.take() or not self._may_seal():
            if was_ours:
                # Whoever seals now tells; what we told would stand on this machine for ever.
                self._log.gauges[1].set(0)
            return 0
        horizon = self._note(self._lease.time)
        sealed = self._seal(horizon) if horizon is not None else 0
        last = self.chain.last_seal()
        if sealed and last is not None:
            custom_log(f"{self._log.title} sealed", rows=sealed, head=head_of(last))
        if self._looks_again:
            self._look_again()
        _, unsealed, last_sealed = self._log.gauges
        unsealed.set(self.chain.unsealed(last))
        if last is not None:
            last_sealed.set(last["sealed_at"].timestamp())
        metrics.note_run(self._log.lease)
        return sealed

    def stop(self) -> None:
        """Let another worker go on at once."""
        self._lease.release()

    def _note(self, now: Timestamp) -> Timestamp | None:
        """Remember `now`; the newest of the notes that are old enough, or None while there is none."""
        self._notes.append((self._clock(), now))
        while self._notes and self._clock() - self._notes[0][0] >= self._delay:
            self._horizon = self._notes.popleft()[1]
        return self._horizon

    def _seal(self, horizon: Timestamp) -> int:
        total = 0
        for _ in range(_SEALS_A_TICK):
            sealed = self.chain.seal(horizon, self._fence)
            total += sealed
            if sealed < SEAL_ROWS:
                break
            # A thousand hashes are some milliseconds: let the requests of this worker in between.
            time.sleep(0)
        return total

    def _fence(self, session: ClientSession) -> None:
        self._lease.fence(session)
        if not self._may_seal():
            raise LeaseLost(self._log.lease)

    def _look_again(self) -> None:
        """Verify the next seal, round and round. What is found to be broken stays so until a whole round finds nothing."""
        seal = self.chain.seal_after(self._checked["_id"] if self._checked else 0)
        problems = self.chain.problems_of(seal, self._checked) if seal is not None else []
        self._broken = self._broken or bool(problems)
        self._log.gauges[0].set(not (self._broken or self._was_broken))
        if problems:
            first = problems[0]
            custom_log(f"the {self._log.title} was tampered with", level="ERROR", problem=first.kind, seq=first.seq, row=first.row)
        self._checked = seal
        if seal is None:
            self._was_broken, self._broken = self._broken, False
