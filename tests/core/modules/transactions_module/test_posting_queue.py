from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from core.modules.transactions_module.posting_queue import NO_TURNS, Batch, PostingQueue


@dataclass(eq=False)
class Item:
    wallets: frozenset[str] | None
    weight: int = 1


def item(*wallets: str, weight: int = 1) -> Item:
    return Item(frozenset(wallets), weight)


UNKNOWN = None
ANYTHING = st.one_of(st.just(UNKNOWN), st.frozensets(st.sampled_from("abcdef"), max_size=3))


def queue(*items: Item, batch_max: int = 256, lanes: int = 2, turns: object = NO_TURNS) -> PostingQueue[Item]:
    made: PostingQueue[Item] = PostingQueue(batch_max, lanes, turns)  # type: ignore[arg-type]
    made.extend(items)
    return made


def test_one_lane_takes_what_waits_in_its_order_up_to_a_full_batch() -> None:
    items = [item("a"), Item(UNKNOWN), item("b"), item("a", weight=3), item("c")]
    waiting = queue(*items, batch_max=5, lanes=1)
    first = waiting.take()
    assert first == items[:3]
    assert list(waiting) == items[3:]
    waiting.done(first)
    assert waiting.take() == items[3:]


def test_a_command_that_is_larger_than_a_batch_goes_by_itself() -> None:
    large = item("a", weight=1000)
    assert queue(large, item("b")).take() == [large]


def test_two_lanes_share_what_waits_evenly() -> None:
    waiting = queue(*(item(str(number)) for number in range(10)))
    assert [len(waiting.take()), len(waiting.take())] == [5, 5]


def test_commands_on_one_wallet_are_not_divided() -> None:
    waiting = queue(*(item("hot", str(number)) for number in range(10)), item("elsewhere"))
    assert len(waiting.take()) == 10
    assert [each.wallets for each in waiting.take()] == [{"elsewhere"}]


def test_a_wallet_that_is_under_way_waits_and_nobody_behind_it_overtakes_it() -> None:
    busy, behind, last, free = item("a"), item("a", "b"), item("b"), item("c")
    waiting = queue(busy, lanes=2)
    first = waiting.take()
    waiting.extend([behind, last, free])
    second = waiting.take()
    assert second == [free]
    waiting.done(first)
    assert waiting.take() == [behind, last]


def test_a_command_of_unknown_wallets_goes_when_nothing_else_is_under_way() -> None:
    unknown, other = Item(UNKNOWN), item("b")
    waiting = queue(item("a"))
    first = waiting.take()
    waiting.extend([unknown, other])
    assert not waiting.take()
    waiting.done(first)
    alone = waiting.take()
    assert unknown in alone
    waiting.append(item("z"))
    assert not waiting.take()


@dataclass
class OthersTurn:
    theirs: set[str] = field(default_factory=set)
    mine: list[str] = field(default_factory=list)
    line: set[str] = field(default_factory=set)

    def take(self, wallet_ids: Collection[str]) -> bool:
        if self.theirs.intersection(wallet_ids):
            return False
        self.mine.extend(wallet_ids)
        return True

    def give_back(self, wallet_ids: Collection[str]) -> None:
        for wallet_id in wallet_ids:
            self.mine.remove(wallet_id)

    def forget_others(self, wallet_ids: Collection[str]) -> bool:
        self.line = set(wallet_ids)
        return bool(wallet_ids)


def test_a_wallet_that_another_worker_has_does_not_hold_up_the_rest() -> None:
    turns = OthersTurn(theirs={"a"})
    waiting = queue(item("a"), item("b"), lanes=1, turns=turns)
    batch = waiting.take()
    assert [each.wallets for each in batch] == [{"b"}]
    assert waiting.elsewhere
    assert turns.line == {"a"}
    waiting.done(batch)
    assert turns.mine == []
    turns.theirs.clear()
    assert [each.wallets for each in waiting.take()] == [{"a"}]
    assert not waiting.elsewhere


@given(st.lists(st.tuples(ANYTHING, st.integers(1, 4)), max_size=30), st.integers(1, 3), st.data())
def test_no_two_commits_share_a_wallet_and_everything_goes_in_the_order_of_its_wallet(
    commands: list[tuple[frozenset[str] | None, int]], lanes: int, data: st.DataObject
) -> None:
    items = [Item(wallets, weight) for wallets, weight in commands]
    turns = OthersTurn()
    waiting = queue(*items, batch_max=6, lanes=lanes, turns=turns)
    under_way: list[Batch[Item]] = []
    gone: list[Item] = []
    while waiting or under_way:
        batch = waiting.take() if len(under_way) < lanes else Batch[Item]()
        if batch:
            assert len(batch) == 1 or batch.weight <= 6
            gone.extend(batch)
            under_way.append(batch)
            assert len(under_way) == 1 or not any(other.alone for other in under_way)
            touched = [wallet for other in under_way for wallet in other.wallets]
            assert len(touched) == len(set(touched))
            assert sorted(turns.mine) == sorted(touched)
        if under_way and (not batch or data.draw(st.booleans())):
            waiting.done(under_way.pop(data.draw(st.integers(0, len(under_way) - 1))))
    assert sorted(map(id, gone)) == sorted(map(id, items))
    for wallet in "abcdef":
        in_order = [each for each in items if each.wallets is not None and wallet in each.wallets]
        assert [each for each in gone if each.wallets is not None and wallet in each.wallets] == in_order
