"""What waits for the posting engine, and who may go next: commits that are on their way at a time never share a wallet."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """One command in the queue. `wallets` None: which ones it touches is only known once it was read."""

    weight: int
    wallets: frozenset[str] | None


class Turns(Protocol):
    """Which worker of this machine works on which wallets (WalletTurns)."""

    def take(self, wallet_ids: Collection[str]) -> bool:
        """Take the turn with all of `wallet_ids` or with none; where another worker has one, stand in line for it."""

    def give_back(self, wallet_ids: Collection[str]) -> None:
        """Let the next one have its turn."""

    def forget_others(self, wallet_ids: Collection[str]) -> bool:
        """Stand in line for nothing but `wallet_ids`; whether that is anything."""


class _NoTurns:
    """For a worker that is alone."""

    def take(self, wallet_ids: Collection[str]) -> bool:
        return True

    def give_back(self, wallet_ids: Collection[str]) -> None:
        """There is nobody to give it to."""

    def forget_others(self, wallet_ids: Collection[str]) -> bool:
        return False


NO_TURNS = _NoTurns()
T = TypeVar("T", bound=Waiting)


class Batch(list[T]):
    """What goes into one commit, and the wallets that are its own until then."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0
        self.wallets: set[str] = set()
        self.alone = False

    def add(self, item: T) -> None:
        self.append(item)
        self.weight += item.weight
        if item.wallets is None:
            self.alone = True
        else:
            self.wallets |= item.wallets


class PostingQueue(deque[T]):
    """The commands in the order of their arrival; the caller locks.

    Those of one wallet stay in their order. What waits is shared evenly between `lanes` commits, but for commands on the same
    wallets, which cannot be divided. A command whose wallets are not known goes when no other commit is on its way.
    """

    def __init__(self, batch_max: int, lanes: int, turns: Turns) -> None:
        super().__init__()
        self._batch_max = batch_max
        self._lanes = lanes
        self._turns = turns
        self._under_way: list[Batch[T]] = []
        # Whether something stays behind only because another worker has its turn.
        self.elsewhere = False

    def take(self) -> Batch[T]:
        """The next commit's commands, which are under way until `done`; empty when none may go now."""
        batch: Batch[T] = Batch()
        if not any(other.alone for other in self._under_way):
            self._fill(batch)
        if batch:
            self._under_way.append(batch)
        return batch

    def _fill(self, batch: Batch[T]) -> None:
        share = self._share()
        # What is in the hands of others, and what belongs to those who stay behind: nobody overtakes them.
        barred = set().union(*(other.wallets for other in self._under_way))
        behind: list[T] = []
        wanted: set[str] = set()
        while self and len(behind) < self._batch_max and (not batch or batch.weight + self[0].weight <= self._batch_max):
            wallets = self[0].wallets
            if wallets is None:
                if self._under_way:
                    break
                batch.add(self.popleft())
            elif self._may_go(wallets, batch, barred, share, wanted):
                batch.add(self.popleft())
            else:
                behind.append(self.popleft())
                barred |= wallets
        self.extendleft(reversed(behind))
        self.elsewhere = self._turns.forget_others(wanted)

    def done(self, batch: Batch[T]) -> None:
        """The commit is over: its wallets are free for the next one."""
        self._under_way = [other for other in self._under_way if other is not batch]
        self._turns.give_back(batch.wallets)

    def _share(self) -> float:
        """Up to which weight a commit takes what another one could take as well."""
        waiting = sum(item.weight for item in self)
        return (waiting + sum(other.weight for other in self._under_way)) / self._lanes

    def _may_go(self, wallets: frozenset[str], batch: Batch[T], barred: set[str], share: float, wanted: set[str]) -> bool:
        if not wallets.isdisjoint(barred):
            return False
        if batch.weight >= share and wallets.isdisjoint(batch.wallets):
            return False
        new = wallets - batch.wallets
        if self._turns.take(new):
            return True
        # Somebody else has its turn: stand in line.
        wanted |= new
        return False
