"""What clients asked for and were told, on record, and the check of that record against the ledger that it left behind.

After Jepsen's ledgers and Elle (Kingsbury and Alvaro, VLDB 2020): the checker knows nothing of the application's insides. It compares
answers with rows of MongoDB, and times of calls with the order of the entries.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pymongo.database import Database

from tests.support.ledger import assert_sound

Row = dict[str, Any]
NO_ANSWER = 0
_NOT_STORED = (401, 403, 429)
_EVENTS = ("hold", "adjust", "release")
_NOTICES = {"hold": "hold.created", "adjust": "hold.adjusted", "capture": "hold.captured", "release": "hold.released"}
_POSTED = "transaction.posted"


@dataclass(frozen=True)
class Record:
    """One call and its answer. `invoked` and `returned` are of one clock; `status` 0: no answer came; `unsent`: nobody listened."""

    client: int
    verb: str
    key: str
    args: Row
    invoked: float
    returned: float
    status: int
    body: str = ""
    replayed: bool = False
    unsent: bool = False
    retry_after: str | None = None

    @cached_property
    def answer(self) -> Row:
        answer: Row = json.loads(self.body) if self.body else {}
        return answer

    @property
    def code(self) -> str:
        return str(self.answer.get("code", ""))

    @property
    def is_done(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """Whether this is the answer for ever."""
        return self.is_done or (400 <= self.status < 500 and self.status not in _NOT_STORED)

    @property
    def is_open(self) -> bool:
        """Whether nobody knows what became of it."""
        return (self.status == NO_ANSWER and not self.unsent) or self.code == "outcome-unknown"

    @property
    def told(self) -> Row:
        """The answer without what is of the call and not of the verb."""
        return {name: value for name, value in self.answer.items() if name not in ("request_id", "instance")}


class History:
    """The records of a run, from any number of threads."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records = list(records)
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        with self._lock:
            self.records.append(record)

    def save(self, path: Path) -> None:
        """One JSON object a line."""
        with self._lock:
            path.write_text("".join(f"{json.dumps(asdict(record))}\n" for record in self.records))

    @classmethod
    def load(cls, path: Path) -> History:
        return cls(Record(**json.loads(line)) for line in path.read_text().splitlines())

    def by_key(self) -> dict[str, list[Record]]:
        """The calls of each key, in the order of their beginning."""
        calls: dict[str, list[Record]] = defaultdict(list)
        for record in sorted(self.records, key=lambda record: record.invoked):
            calls[record.key].append(record)
        return calls

    def unsettled(self) -> list[Record]:
        """One call of each key that may or may not have had its effect."""
        calls = self.by_key().values()
        return [own[-1] for own in calls if any(one.is_open for one in own) and not any(one.is_final for one in own)]

    def count(self, status: int) -> int:
        """How often this was the answer."""
        return sum(record.status == status for record in list(self.records))


@dataclass(frozen=True)
class Effect:
    """What one verb, or one item of a batch, is said to have done."""

    key: str
    verb: str
    answer: Mapping[str, Any]

    @property
    def transaction(self) -> Row | None:
        # Some verbs answer the transaction itself.
        found: Row | None = dict(self.answer) if "entries" in self.answer else self.answer.get("transaction")
        return found

    @property
    def hold(self) -> Row | None:
        found: Row | None = dict(self.answer) if "captured" in self.answer else self.answer.get("hold")
        return found


def effects_of(record: Record) -> list[Effect]:
    """What `record`'s answer says that was done."""
    if not record.is_done:
        return []
    if record.verb != "batch":
        return [Effect(record.key, record.verb, record.answer)]
    items = zip(record.args["items"], record.answer["results"], strict=True)
    return [Effect(record.key, item["op"], result) for item, result in items if result["status"] < 300]


def faults(history: History, database: Database[Row], wallets: Sequence[str]) -> list[str]:
    """What in `history` cannot be, given the ledger as it is now; empty when all is well.

    `wallets` are those that nobody outside of this history has moved anything of, from their first entry on.
    """
    return _Check(history, database, wallets).run()


class _Check:
    def __init__(self, history: History, database: Database[Row], wallets: Sequence[str]) -> None:
        self._calls = history.by_key()
        self._unsettled = {record.key for record in history.unsettled()}
        self._database = database
        query = {"_id": {"$in": list(wallets)}}
        self._wallets = {row["_id"]: row for row in database["wallets"].find(query)}
        named = {"$in": list(wallets)}
        self._transactions = {
            row["_id"]: row for row in database["transactions"].find({"$or": [{"source": named}, {"destination": named}]})
        }
        self._holds = {row["_id"]: row for row in database["holds"].find({"wallet_id": named})}
        self._found: list[str] = []
        self._effects = [effect for calls in self._calls.values() for effect in effects_of(_final(calls) or calls[-1])]

    def run(self) -> list[str]:
        for key, calls in self._calls.items():
            self._key(key, calls)
        self._posted()
        self._events()
        self._told()
        self._balances()
        self._order()
        self._books()
        return self._found

    def _report(self, what: str) -> None:
        self._found.append(what)

    # One key

    def _key(self, key: str, calls: list[Record]) -> None:
        """All answers to a key are the same one, it is carried out once, and an error is no veiled success."""
        if key in self._unsettled:
            return self._report(f"unsettled: {key} never got an answer")
        finals = [call for call in calls if call.is_final]
        if any((call.status, call.told) != (finals[0].status, finals[0].told) for call in finals):
            self._report(f"replay differs: {key} was told {[(call.status, call.body) for call in finals]}")
        if sum(not call.replayed for call in finals) > 1:
            self._report(f"twice: {key} was carried out by more than one call")
        for call in finals:
            others = [other for other in calls if other is not call and other.invoked < call.returned]
            if call.replayed and not any(other.is_open or other.is_final for other in others):
                self._report(
                    f"error with effect: {key} was only told {[(other.status, other.code) for other in others]}, and was carried out"
                )
        return None

    # Transactions

    def _posted(self) -> None:
        """What was acknowledged is there as it was told, each once, and there is nothing else."""
        keys: dict[str, str] = {}
        for effect in self._effects:
            told = effect.transaction
            if told is None:
                continue
            other = keys.setdefault(told["id"], effect.key)
            if other != effect.key:
                self._report(f"shared: {told['id']} was answered to {other} and to {effect.key}")
            row = self._transactions.get(told["id"])
            if row is None:
                self._report(f"lost: {effect.key} was told {told['id']}, which is not there")
            elif (difference := _difference(told, row)) is not None:
                self._report(f"told otherwise: {effect.key}, {told['id']}: {difference}")
        for transaction_id, row in self._transactions.items():
            if transaction_id not in keys and row["type"] != "expiry":
                self._report(f"unexplained: {transaction_id} ({row['type']}, {row['memo']}) was never acknowledged")

    def _events(self) -> None:
        """Holds change as often as it was acknowledged, and to what was acknowledged; so do grants."""
        told: Counter[tuple[str, str]] = Counter()
        captured: Counter[str] = Counter()
        for effect in self._effects:
            if effect.verb in _EVENTS and effect.hold is not None:
                told[effect.verb, effect.hold["id"]] += 1
            if effect.verb == "capture" and effect.hold is not None and effect.transaction is not None:
                captured[effect.hold["id"]] += effect.transaction["amount"]
        actions = [f"ledger.{verb}" for verb in _EVENTS]
        rows = self._database["audit_logs"].find(
            {"action": {"$in": actions}, "target": {"$in": list({*self._holds, *(i for _, i in told)})}}
        )
        noted = Counter((row["action"].removeprefix("ledger."), row["target"]) for row in rows)
        for (verb, hold_id), number in (told - noted).items():
            self._report(f"lost: {number} acknowledged {verb} of {hold_id}")
        for (verb, hold_id), number in (noted - told).items():
            self._report(f"unexplained: {number} {verb} of {hold_id} beside those that were acknowledged")
        for hold_id, row in self._holds.items():
            if row["captured"] != captured[hold_id]:
                self._report(f"lost: {hold_id} has captured {row['captured']}, {captured[hold_id]} were acknowledged")
            if (row["status"] == "released") != bool(told["release", hold_id]):
                self._report(f"lost: {hold_id} is {row['status']}, its releases: {told['release', hold_id]}")

    def _told(self) -> None:
        """The outbox tells of each effect once, and of nothing that has not happened."""
        due = Counter((_POSTED, transaction_id) for transaction_id in self._transactions)
        due.update(
            (_NOTICES[effect.verb], effect.hold["id"]) for effect in self._effects if effect.verb in _NOTICES and effect.hold is not None
        )
        notices = Counter((event["type"], event["id"]) for row in self._database["outbox"].find() for event in row["events"])
        for (kind, target), number in due.items():
            if notices[kind, target] != number:
                self._report(f"outbox: {number} {kind} of {target}, told {notices[kind, target]} times")
        others = [target for kind, target in notices if kind == _POSTED and target not in self._transactions]
        known = {row["_id"] for row in self._database["transactions"].find({"_id": {"$in": others}}, ("_id",))}
        for target in set(others) - known:
            self._report(f"outbox: tells of {target}, which is not there")

    # Wallets

    def _balances(self) -> None:
        """Each balance is the sum of what was acknowledged (and of what the clock has done), and never was below its floor."""
        sums: Counter[str] = Counter()
        clock = [row for row in self._transactions.values() if row["type"] == "expiry"]
        unique = {posted["id"]: posted for effect in self._effects if (posted := effect.transaction) is not None}
        for posted in [*unique.values(), *clock]:
            for entry in posted["entries"]:
                sums[entry["wallet_id"]] += entry["delta"]
        for wallet_id, wallet in self._wallets.items():
            if wallet["settled"] != sums[wallet_id]:
                self._report(f"balance: {wallet_id} has {wallet['settled']}, the answers add up to {sums[wallet_id]}")
            for entry in self._database["entries"].find({"wallet_id": wallet_id}):
                if entry["balance_after"] + wallet["credit_limit"] - entry["held_after"] < 0:
                    self._report(f"below the floor: {wallet_id} at {entry['seq']}")

    def _order(self) -> None:
        """Of two verbs of a wallet, the one that was over before the other began has the lower number."""
        times = {key: _times(calls) for key, calls in self._calls.items()}
        rows: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for effect in self._effects:
            for entry in (effect.transaction or {"entries": []})["entries"]:
                if entry["seq"] is not None:
                    rows[entry["wallet_id"]].append((entry["seq"], effect.key))
        for wallet_id, own in rows.items():
            soonest_end, sooner = float("inf"), ""
            for seq, key in sorted(own, reverse=True):
                invoked, returned = times[key]
                if soonest_end < invoked:
                    self._report(f"order: {sooner} was over before {key} began, and has a higher number than {seq} of {wallet_id}")
                if returned < soonest_end:
                    soonest_end, sooner = returned, key

    def _books(self) -> None:
        try:
            assert_sound(self._database)
        except AssertionError as error:
            self._report(f"books: {error}".split("\n", 1)[0])


def _final(calls: Sequence[Record]) -> Record | None:
    return next((call for call in calls if call.is_final), None)


def _times(calls: Sequence[Record]) -> tuple[float, float]:
    """When the first call that can have had the effect began, and when it was first known to have had it."""
    began = min((call.invoked for call in calls if call.is_open or call.is_final), default=0.0)
    return began, min((call.returned for call in calls if call.is_final), default=float("inf"))


def _difference(told: Mapping[str, Any], row: Mapping[str, Any]) -> str | None:
    """Where an answer and a transaction's row disagree."""
    for name in ("type", "asset", "amount", "source", "destination", "reference", "memo", "metadata"):
        if told[name] != row[name]:
            return f"{name} is {row[name]!r} and was told as {told[name]!r}"
    for entry, stored in zip(told["entries"], row["entries"], strict=True):
        if any(stored[name] != value for name, value in entry.items()):
            return f"entry {stored} was told as {entry}"
    return None
