"""Transfers under load, with every answer on record, and what must be true of them once a fault is over."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import requests
from pymongo.database import Database

from tests.support.app_server import AppServer
from tests.support.client import Client, unique
from tests.support.ledger import assert_sound
from tests.support.polling import eventually

CALLERS = 16
# One request has 4 s; the rest is for the way through a machine that others use too.
ANSWER_SECONDS = 8.0
RECOVERY_SECONDS = 30
_PAUSE_SECONDS, _BACK_OFF_SECONDS = 0.01, 0.25


@dataclass(frozen=True)
class Try:
    """One transfer and its answer; `status` 0: none came, `cut`: it broke off in the middle, `refused`: nobody listened."""

    caller: int
    key: str
    destination: str
    status: int
    began: float
    seconds: float
    answer: dict[str, Any]
    retry_after: str | None = None
    cut: bool = False
    refused: bool = False

    @property
    def code(self) -> str:
        return str(self.answer.get("code", ""))


class Load:
    """`with Load(server, clients).running(): ...` sends transfers of 1, each under a key of its own, which is its memo too."""

    def __init__(self, server: AppServer, clients: Sequence[Client]) -> None:
        self._server = server
        self._clients = clients
        self.wallets = [client.wallet()["id"] for client in clients]
        self._stop = threading.Event()
        self.tries: list[Try] = []

    @classmethod
    def prepare(cls, server: AppServer, admin: Client, users: int = 6, credits: int = 100_000) -> Load:
        """A load of new users who can afford it."""
        clients = [Client.register(server.url) for _ in range(users)]
        load = cls(server, clients)
        for wallet in load.wallets:
            admin.grant(wallet, credits)
        return load

    @property
    def client(self) -> Client:
        """One of the users, for calls beside the load."""
        return self._clients[0]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Load while the block runs, and at least ten transfers before it and after it."""
        self._stop.clear()
        threads = [threading.Thread(target=self._call_on, args=(n,), daemon=True) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            self.wait_for(10)
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for(self, count: int, seconds: float = RECOVERY_SECONDS) -> None:
        """Until `count` more transfers have succeeded."""
        wished = self.count(201) + count
        eventually(lambda: self.count(201) >= wished, seconds)

    def count(self, status: int) -> int:
        return sum(one.status == status for one in list(self.tries))

    def statuses(self) -> Counter[tuple[int, str]]:
        return Counter((one.status, one.code) for one in self.tries)

    def send(self, caller: int, key: str, destination: str, http: requests.Session | None = None) -> Try:
        """One transfer; whatever comes back is an answer."""
        client = replace(self._clients[caller], http=http or requests.Session(), url=self._server.url)
        began = time.monotonic()
        try:
            response = client.transfer(destination, 1, key=key, memo=key)
            answer = response.json()
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.JSONDecodeError):
            return Try(caller, key, destination, 0, began, time.monotonic() - began, {}, cut=True)
        except requests.RequestException as error:
            refused = "NewConnectionError" in repr(error)
            return Try(caller, key, destination, 0, began, time.monotonic() - began, {}, refused=refused)
        retry_after = response.headers.get("Retry-After")
        return Try(caller, key, destination, response.status_code, began, time.monotonic() - began, answer, retry_after)

    def retry_all(self) -> list[Try]:
        """Send again what did not end well, under its own key, until it does; the answers of those that did."""
        unsettled = {one.key: one for one in self.tries if one.status != 201}
        return [eventually(lambda one=one: self._again(one), RECOVERY_SECONDS) for one in unsettled.values()]

    def _again(self, one: Try) -> Try | None:
        again = self.send(one.caller, one.key, one.destination)
        return again if again.status == 201 else None

    def _call_on(self, number: int) -> None:
        pick = random.Random(number)
        http = requests.Session()
        while not self._stop.is_set():
            caller, receiver = pick.sample(range(len(self._clients)), 2)
            one = self.send(caller, unique("load"), self.wallets[receiver], http)
            self.tries.append(one)
            self._stop.wait(_PAUSE_SECONDS if one.status == 201 else _BACK_OFF_SECONDS)


def assert_answers(load: Load, allowed: Sequence[int] = (201, 503)) -> None:
    """Each answer is a transfer or an honest 503, in time."""
    for one in load.tries:
        assert one.status in allowed, one
        assert not one.cut, one
        assert one.seconds < ANSWER_SECONDS, one
        if one.status == 503:
            assert one.retry_after is not None, one


def assert_one_effect_each(load: Load, database: Database[dict[str, Any]]) -> None:
    """What was acknowledged is there; after a retry, every key has moved its credit exactly once; the books are sound."""
    settled = [one for one in load.tries if one.status == 201] + load.retry_all()
    effects: dict[str, list[str]] = {}
    keys = [one.key for one in settled]
    for row in database["transactions"].find({"memo": {"$in": keys}}, ("memo",)):
        effects.setdefault(row["memo"], []).append(row["_id"])
    for one in settled:
        assert effects.get(one.key) == [one.answer["id"]], one
    assert {one.key for one in load.tries} == set(keys)
    assert_sound(database)
