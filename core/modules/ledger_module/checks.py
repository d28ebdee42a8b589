"""What must be true of single rows of the ledger, and of a wallet with its entries; without I/O, and without the code that writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_SEQ_DIGITS = 12
_PARTIES = 2

Row = Mapping[str, Any]
# What a row of the wrong shape makes a comparison raise.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)


class Unsound(Exception):
    """A row is not as it must be; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with which row: `what` in a few words, and never more of the row than its id."""

    collection: str
    id: str | None
    what: str


def entry_id(wallet_id: str, seq: int) -> str:
    """The id of a wallet's entry number `seq`."""
    return f"{wallet_id}:{seq:0{_SEQ_DIGITS}d}"


def entries_of(transaction: Row) -> list[dict[str, Any]]:
    """The entries that must lie in the database for a transaction, member by member in the order in which they are stored."""
    pair = transaction["entries"]
    return [
        {
            "_id": entry_id(own["wallet_id"], own["seq"]) if own["seq"] is not None else f"{own['wallet_id']}:{transaction['_id']}",
            "wallet_id": own["wallet_id"],
            "transaction_id": transaction["_id"],
            "type": transaction["type"],
            "asset": transaction["asset"],
            "delta": own["delta"],
            "seq": own["seq"],
            "balance_after": own["balance_after"],
            "held_after": own["held_after"],
            "counterparty": other["wallet_id"],
            "reference": transaction["reference"],
            "memo": transaction["memo"],
            "created_at": transaction["created_at"],
        }
        for own, other in zip(pair, reversed(pair), strict=True)
    ]


def entry_ids_of(transaction: Row) -> list[str]:
    """The ids of its entries; none of what is not even a transaction."""
    try:
        return [row["_id"] for row in entries_of(transaction)]
    except MALFORMED:
        return []


def check_transaction(transaction: Row) -> None:
    """Raises Unsound unless what leaves one side arrives at the other."""
    _must(_is_whole(transaction["amount"]) and transaction["amount"] > 0, "its amount is no amount")
    entries = transaction["entries"]
    _must(len(entries) == _PARTIES, "it has not two entries")
    _must(all(_is_whole(entry["delta"]) for entry in entries), "an entry has no amount")
    _must(sum(entry["delta"] for entry in entries) == 0, "its entries do not sum to zero")
    sides = [(entry["wallet_id"], entry["delta"]) for entry in entries]
    expected = [(transaction["source"], -transaction["amount"]), (transaction["destination"], transaction["amount"])]
    _must(sides == expected, "its entries do not move its amount from its source to its destination")


@dataclass
class WalletAudit:
    """One wallet as it was read, and what its entries and holds, told one after the other, say about it."""

    wallet: Row
    seq: int = 0
    balance: int = 0
    settled: int = 0
    most_held: int = 0
    open_holds: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    highest_held_after: int = 0

    def take_entry(self, entry: Row) -> bool:
        """The wallet's next entry, by id. Whether it is a later one than the wallet knew of. Raises Unsound."""
        _must(entry["seq"] == self.seq + 1, "its number does not follow the one before" if entry["seq"] else "it has no number")
        _must(entry["_id"] == entry_id(self.wallet["_id"], entry["seq"]), "its id is not that of its wallet and number")
        _must(entry["asset"] == self.wallet["asset"], "it is of another asset than its wallet")
        self.seq = entry["seq"]
        self.balance += entry["delta"]
        # From here on the row's own word is taken: one bad row does not spoil those behind it.
        running, self.balance = self.balance, entry["balance_after"]
        if self.seq == self.wallet["seq"]:
            self.settled = running
        _must(running == entry["balance_after"], "its balance_after is not the sum of the entries")
        _must(_is_whole(entry["held_after"]) and entry["held_after"] >= 0, "its held_after is no amount")
        if self.seq <= self.wallet["seq"]:
            self.highest_held_after = max(self.highest_held_after, entry["held_after"])
        return self.seq > int(self.wallet["seq"])

    def take_holds(self, holds: Row) -> Iterator[tuple[str, str]]:
        """The sum of this wallet's holds: `{most, open, wrong, owners, first}`; `(id, what)` of those that are wrong."""
        self.most_held = holds["most"]
        self.open_holds = {hold["hold_id"]: (hold["remaining"], hold["expires_at"]) for hold in holds["open"]}
        for hold_id in holds["wrong"]:
            yield hold_id, "what it reserves is not what its changes say"
        if holds["owners"] != [self.wallet["owner_id"]]:
            yield holds["first"], "a hold of this wallet has another owner"

    def check_wallet(self, grants: Mapping[str, Row], later: Callable[[Row], int]) -> Iterator[str]:
        """All that is wrong with the wallet; `grants` by id, `later`: what is available once the clock was heard."""
        wallet = self.wallet
        if self.seq < wallet["seq"]:
            yield f"entries are missing: it has counted {wallet['seq']}, the last one is {self.seq}"
        elif wallet["settled"] != self.settled:
            yield "its balance is not the sum of its entries"
        if wallet["held"] != sum(reserve["remaining"] for reserve in wallet["holds"]):
            yield "held is not the sum of its holds"
        if {each["hold_id"]: (each["remaining"], each["expires_at"]) for each in wallet["holds"]} != self.open_holds:
            yield "its holds are not those that are open"
        if self.highest_held_after > self.most_held:
            yield "an entry says that more was held than its holds ever reserved"
        if wallet["credit_limit"] < 0:
            yield "its credit limit is negative"
        elif wallet["settled"] + wallet["credit_limit"] - wallet["held"] < 0 and later(wallet) < 0:
            yield "it is below its floor"
        yield from self._lots(grants)

    def _lots(self, grants: Mapping[str, Row]) -> Iterator[str]:
        lots = self.wallet["lots"]
        if sum(lot["remaining"] for lot in lots if lot["pending"] is None) > max(0, self.wallet["settled"]):
            yield "its grants hold more than there is"
        for lot in lots:
            grant = grants.get(lot["grant_id"])
            if grant is None or grant["wallet_id"] != self.wallet["_id"]:
                yield "a grant of it has no record"
            elif not 0 < lot["remaining"] <= grant["amount"]:
                yield "more is left of a grant than was granted"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unsound(otherwise)
