"""The other side of the engine bench: callers in one process, one MongoDB transaction for each transfer."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

from pymongo import MongoClient

from bench.callers import Call, drive
from bench.naive_transfer import NaiveLedger
from bench.result import Result
from bench.scenarios import AMOUNT, OPENING_BALANCE, Pairs, pairs

DATABASE = "bench_engine"


def run_engine(scenario: str, callers: int, wallets: int, seconds: float) -> Result:
    """Transfers by `callers` parallel callers for `seconds`; checks afterwards that no credit was made or lost."""
    client: MongoClient[dict[str, object]] = MongoClient(os.environ["BENCH_MONGODB_URI"], maxPoolSize=callers + 8)
    try:
        return _run(NaiveLedger(client, DATABASE), scenario, callers, wallets, seconds)
    finally:
        client.close()


def _run(ledger: NaiveLedger, scenario: str, callers: int, wallets: int, seconds: float) -> Result:
    names = [f"wallet-{number:05d}" for number in range(wallets)]
    ledger.create(dict.fromkeys(names, OPENING_BALANCE))
    result = drive([_call(ledger, pairs(scenario, names, caller)) for caller in range(callers)], seconds)
    if sum(ledger.balances()) != wallets * OPENING_BALANCE:
        raise RuntimeError("the balances do not sum to what was issued")
    ledger.drop()
    return result


def _call(ledger: NaiveLedger, stream: Pairs) -> Call:
    keys = _keys()

    def call() -> None:
        source, destination = next(stream)
        ledger.transfer(next(keys), source, destination, AMOUNT)

    return call


def _keys() -> Iterator[str]:
    """Fresh idempotency keys; the prefix is drawn once, to keep the generator's cost out of the measure."""
    prefix, number = uuid.uuid4().hex, 0
    while True:
        number += 1
        yield f"{prefix}-{number}"
