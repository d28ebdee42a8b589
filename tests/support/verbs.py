"""All money verbs as data, two ways to send them (over HTTP, and straight to an engine), and random ones under load, on record."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import requests

from core.modules.transactions_module.commands import Batch, Claim, Command
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import REVENUE
from core.modules.transactions_module.operations import Adjust, Capture, Operation, PlaceHold, Post, Release, Reverse, VoidGrant
from tests.support import money
from tests.support.client import unique
from tests.support.history import NO_ANSWER, History, Record, effects_of
from tests.support.polling import eventually
from tools.error_handling.errors import AppError
from utils import deadline

Args = dict[str, Any]
PATHS = {
    "grant": "/wallets/{wallet_id}/grants",
    "debit": "/wallets/{wallet_id}/debits",
    "transfer": "/transfers",
    "hold": "/wallets/{wallet_id}/holds",
    "capture": "/holds/{hold_id}/capture",
    "release": "/holds/{hold_id}/release",
    "adjust": "/holds/{hold_id}/adjust",
    "reversal": "/transactions/{transaction_id}/reversals",
    "void": "/wallets/{wallet_id}/grants/{grant_id}/void",
    "batch": "/batches",
}
EACH_VERB = ("grant", "debit", "transfer", "hold", "capture", "release", "adjust", "reversal", "void", "batch, atomic", "batch, each")
# One for each, and one to send to.
WALLETS_OF_EACH = len(EACH_VERB) + 1
CALLERS = 8
SETTLE_SECONDS = 40
_PAUSE_SECONDS, _BACK_OFF_SECONDS = 0.005, 0.1
_OWN_SECONDS = 4.0


@dataclass(frozen=True)
class Answer:
    """What came back: `status` 0 when nothing did, `unsent` when nobody listened."""

    status: int
    body: str = ""
    replayed: bool = False
    unsent: bool = False
    retry_after: str | None = None


class Transport(Protocol):
    """A way to the ledger, for any number of clients at a time."""

    def send(self, client: int, verb: str, args: Args, key: str) -> Answer: ...


class OverHttp:
    """As one account, with a connection for each client. `url` may change when a server comes back elsewhere."""

    def __init__(self, url: str, token: str, *, timeout: float = 20) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._sessions: dict[int, requests.Session] = {}

    def send(self, client: int, verb: str, args: Args, key: str) -> Answer:
        path = PATHS[verb].format(**args)
        body = {name: value for name, value in args.items() if f"{{{name}}}" not in PATHS[verb]}
        http = self._sessions.setdefault(client, requests.Session())
        try:
            headers = {**self._headers, "Idempotency-Key": key}
            response = http.post(self._url + path, json=body, headers=headers, timeout=self._timeout)
        except requests.RequestException as error:
            return Answer(NO_ANSWER, unsent="NewConnectionError" in repr(error))
        replayed, retry_after = "Idempotency-Replayed" in response.headers, response.headers.get("Retry-After")
        return Answer(response.status_code, response.text, replayed, retry_after=retry_after)


class InProcess:
    """Straight to `engines`, to each client its own of them, as an admin."""

    def __init__(self, *engines: PostingEngine) -> None:
        self._engines = engines

    def send(self, client: int, verb: str, args: Args, key: str) -> Answer:
        items = args["items"] if verb == "batch" else [{"op": verb, **args}]
        batch = Batch(args["atomic"], (None,) * len(items)) if verb == "batch" else None
        claim = Claim.of(money.ADMIN.user_id, verb, key, args)
        command = Command(tuple(operation(item["op"], item) for item in items), money.ADMIN, claim, key, batch)
        deadline.start(_OWN_SECONDS)
        try:
            verdict = self._engines[client % len(self._engines)].submit(command)
        except AppError as error:
            return Answer(error.status, json.dumps(error.problem()))
        except Exception as error:
            return Answer(500, json.dumps({"code": "internal-error", "detail": repr(error)}))
        finally:
            deadline.clear()
        return Answer(verdict.status, verdict.body, verdict.replayed)


def operation(verb: str, args: Mapping[str, Any]) -> Operation:
    """The operation that the service makes of such a request."""
    made: Operation
    match verb:
        case "grant":
            made = Post(money.grant(args["wallet_id"], args["amount"], memo=args.get("reason")))
        case "debit":
            made = Post(money.debit(args["wallet_id"], args["amount"], memo=args.get("reason")))
        case "transfer":
            made = Post(money.transfer(args["source"], args["destination"], args["amount"], memo=args.get("memo")))
        case "hold":
            made = PlaceHold(args["wallet_id"], args["amount"], 900, args.get("reason"))
        case "capture":
            made = Capture(args["hold_id"], args.get("amount"), args.get("final", False), args.get("destination", REVENUE))
        case "release":
            made = Release(args["hold_id"])
        case "adjust":
            made = Adjust(args["hold_id"], args.get("amount"), args.get("expires_in"))
        case "reversal":
            made = Reverse(args["transaction_id"], args.get("amount"), args.get("reason"))
        case "void":
            made = VoidGrant(args["wallet_id"], args["grant_id"])
        case _:
            raise ValueError(verb)
    return made


class Recorder:
    """Sends verbs and keeps what came of it."""

    def __init__(self, transport: Transport) -> None:
        self.history = History()
        self._transport = transport

    def call(self, verb: str, args: Args, key: str | None = None, client: int = 0) -> Record:
        """Send it once, whatever comes back."""
        key = key or unique(verb)
        invoked = time.monotonic()
        answer = self._transport.send(client, verb, args, key)
        record = Record(client, verb, key, args, invoked, time.monotonic(), **asdict(answer))
        self.history.add(record)
        return record

    def done(self, verb: str, args: Args) -> dict[str, Any]:
        """Send it, again where that fails, and be told that it is done."""
        record = self.call(verb, args)
        if not record.is_final:
            record = self.insist(record)
        assert record.is_done, record
        return record.answer

    def again(self, record: Record) -> Record:
        """The same call once more."""
        return self.call(record.verb, record.args, record.key, record.client)

    def insist(self, record: Record, seconds: float = SETTLE_SECONDS) -> Record:
        """The same call until there is an answer for ever."""

        def attempt() -> Record | None:
            again = self.again(record)
            return again if again.is_final else None

        return eventually(attempt, seconds)

    def settle(self) -> None:
        """Retry each call of which nobody knows, until it is known."""
        for record in self.history.unsettled():
            self.insist(record)


def each_verb(recorder: Recorder, wallets: Sequence[str]) -> list[tuple[str, Args]]:
    """Each of EACH_VERB once, with a wallet (and holds, a debit and a grant) that no other verb touches; they all can be done."""
    own = dict(zip(EACH_VERB, wallets, strict=False))
    items: list[Args] = [{"op": "grant", "wallet_id": wallet, "amount": 100} for wallet in wallets]
    items += [{"op": "hold", "wallet_id": own[verb], "amount": 50} for verb in ("capture", "release", "adjust", *EACH_VERB[-2:])]
    items += [{"op": "debit", "wallet_id": own["reversal"], "amount": 7}, {"op": "grant", "wallet_id": own["void"], "amount": 9}]
    made = recorder.done("batch", {"atomic": True, "items": items})["results"][len(wallets) :]
    holds = [result["hold"]["id"] for result in made[:5]]
    return [
        ("grant", {"wallet_id": own["grant"], "amount": 11, "reason": unique("r")}),
        ("debit", {"wallet_id": own["debit"], "amount": 12, "reason": unique("r")}),
        ("transfer", {"source": own["transfer"], "destination": wallets[-1], "amount": 13, "memo": unique("m")}),
        ("hold", {"wallet_id": own["hold"], "amount": 14}),
        ("capture", {"hold_id": holds[0], "amount": 15}),
        ("release", {"hold_id": holds[1]}),
        ("adjust", {"hold_id": holds[2], "amount": 16}),
        ("reversal", {"transaction_id": made[5]["transaction"]["id"], "amount": 3}),
        ("void", {"wallet_id": own["void"], "grant_id": made[6]["grant"]["id"]}),
        ("batch", {"atomic": True, "items": _several(own["batch, atomic"], holds[3])}),
        ("batch", {"atomic": False, "items": _several(own["batch, each"], holds[4])}),
    ]


def _several(wallet: str, hold: str) -> list[Args]:
    return [
        {"op": "debit", "wallet_id": wallet, "amount": 1},
        {"op": "capture", "hold_id": hold, "amount": 20},
        {"op": "hold", "wallet_id": wallet, "amount": 2},
        {"op": "grant", "wallet_id": wallet, "amount": 3},
    ]


class AllVerbs:
    """`with AllVerbs(recorder, wallets).running(): ...` sends random verbs that meet each other, some of them twice at a time."""

    def __init__(self, recorder: Recorder, wallets: Sequence[str], *, callers: int = CALLERS, seed: int = 1) -> None:
        self._recorder = recorder
        self._wallets = wallets
        self._callers = callers
        self._seed = seed
        self._stop = threading.Event()
        # What can be referred to: the latest only, so that callers meet at them.
        self._holds: deque[str] = deque(maxlen=12)
        self._transactions: deque[str] = deque(maxlen=12)
        self._grants: deque[tuple[str, str]] = deque(maxlen=12)
        self._sent: deque[tuple[str, Args, str]] = deque(maxlen=32)
        self._verbs: dict[str, tuple[int, Callable[[random.Random], Args | None]]] = {
            "grant": (3, self._grant),
            "debit": (4, self._debit),
            "transfer": (5, self._transfer),
            "hold": (4, self._hold),
            "capture": (4, self._capture),
            "release": (1, self._release),
            "adjust": (2, self._adjust),
            "reversal": (2, self._reversal),
            "void": (1, self._void),
            "batch": (2, self._batch),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Load while the block runs."""
        self._stop.clear()
        threads = [threading.Thread(target=self._call_on, args=(number,), daemon=True) for number in range(self._callers)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for(self, count: int, seconds: float = SETTLE_SECONDS) -> None:
        """Until `count` more verbs are done."""
        wished = self._done() + count
        eventually(lambda: self._done() >= wished, seconds)

    def _done(self) -> int:
        return sum(record.is_done for record in list(self._recorder.history.records))

    def _call_on(self, client: int) -> None:
        pick = random.Random(self._seed * 1000 + client)
        while not self._stop.is_set():
            record = self._once(client, pick)
            # Somebody whose call has failed asks again, or leaves it at that. (Of what is unknown, the end tells.)
            if not record.is_final and pick.random() < 0.5:
                self._stop.wait(_BACK_OFF_SECONDS)
                record = self._recorder.again(record)
            self._learn(record)
            self._stop.wait(_PAUSE_SECONDS if record.is_final else _BACK_OFF_SECONDS)

    def _once(self, client: int, pick: random.Random) -> Record:
        if self._sent and pick.random() < 0.1:
            return self._recorder.call(*pick.choice(list(self._sent)), client=client)
        verb, args = self._wish(pick)
        key = unique("h")
        marks = {"grant": "reason", "debit": "reason", "transfer": "memo", "hold": "reason", "reversal": "reason"}
        if verb in marks:
            args[marks[verb]] = key
        self._sent.append((verb, args, key))
        return self._recorder.call(verb, args, key, client)

    def _wish(self, pick: random.Random) -> tuple[str, Args]:
        names = list(self._verbs)
        while True:
            (verb,) = pick.choices(names, [weight for weight, _ in self._verbs.values()])
            args = self._verbs[verb][1](pick)
            if args is not None:
                return verb, args

    def _learn(self, record: Record) -> None:
        for effect in effects_of(record):
            if effect.hold is not None:
                self._holds.append(effect.hold["id"])
            if effect.transaction is not None:
                self._transactions.append(effect.transaction["id"])
            if effect.verb == "grant":
                grant = effect.answer["grant"]
                self._grants.append((grant["wallet_id"], grant["id"]))

    # Wishes

    def _grant(self, pick: random.Random) -> Args:
        return {"wallet_id": pick.choice(self._wallets), "amount": pick.randint(20, 80)}

    def _debit(self, pick: random.Random) -> Args:
        return {"wallet_id": pick.choice(self._wallets), "amount": pick.randint(1, 40)}

    def _transfer(self, pick: random.Random) -> Args:
        source, destination = pick.sample(list(self._wallets), 2)
        return {"source": source, "destination": destination, "amount": pick.randint(1, 30)}

    def _hold(self, pick: random.Random) -> Args:
        return {"wallet_id": pick.choice(self._wallets), "amount": pick.randint(1, 30)}

    def _capture(self, pick: random.Random) -> Args | None:
        hold_id = _latest(self._holds, pick)
        return None if hold_id is None else {"hold_id": hold_id, "amount": pick.randint(1, 12), "final": pick.random() < 0.3}

    def _release(self, pick: random.Random) -> Args | None:
        hold_id = _latest(self._holds, pick)
        return None if hold_id is None else {"hold_id": hold_id}

    def _adjust(self, pick: random.Random) -> Args | None:
        hold_id = _latest(self._holds, pick)
        return None if hold_id is None else {"hold_id": hold_id, "amount": pick.randint(10, 40)}

    def _reversal(self, pick: random.Random) -> Args | None:
        transaction_id = _latest(self._transactions, pick)
        return None if transaction_id is None else {"transaction_id": transaction_id, "amount": pick.randint(1, 10)}

    def _void(self, pick: random.Random) -> Args | None:
        found = _latest(self._grants, pick)
        return None if found is None else {"wallet_id": found[0], "grant_id": found[1]}

    def _batch(self, pick: random.Random) -> Args | None:
        verbs = [verb for verb in self._verbs if verb not in ("batch", "void")]
        wishes = [(verb, self._verbs[verb][1](pick)) for verb in pick.choices(verbs, k=pick.randint(2, 4))]
        items = [{"op": verb, **args} for verb, args in wishes if args is not None]
        return {"atomic": pick.random() < 0.5, "items": items} if items else None


def _latest(known: deque[Any], pick: random.Random) -> Any:
    return pick.choice(list(known)) if known else None
