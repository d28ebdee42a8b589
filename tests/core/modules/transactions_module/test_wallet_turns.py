from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from core.modules.transactions_module.wallet_turns import WalletTurns


class Worker:
    """Another process with turns of its own: locks of one process do not keep itself out."""

    def __init__(self, path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(path, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._ours.send((name, arguments))
            return self._ours.recv()

        return call


def _work(path: Path, orders: Connection) -> None:
    turns = WalletTurns(path)
    while True:
        name, arguments = orders.recv()
        orders.send(getattr(turns, name)(*arguments))


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Worker, Worker]]:
    path = tmp_path_factory.mktemp("turns") / "made" / "wallet-turns"
    made = Worker(path), Worker(path), Worker(path)
    yield made
    for worker in made:
        worker.process.kill()
        worker.process.join()


def test_one_worker_at_a_time_has_a_wallet(workers: tuple[Worker, Worker, Worker]) -> None:
    one, other, _ = workers
    assert one.take(["a", "b"])
    assert not other.take(["b"])
    assert other.take(["c"])
    one.give_back(["a", "b"])
    assert other.take(["b"])
    other.give_back(["b", "c"])


def test_all_wallets_or_none_are_taken(workers: tuple[Worker, Worker, Worker]) -> None:
    one, other, third = workers
    assert one.take(["z"])
    assert not other.take(["a", "z"])
    assert third.take(["a"])
    one.give_back(["z"])
    third.give_back(["a"])
    assert other.take(["a", "z"])
    other.give_back(["a", "z"])


def test_who_waits_is_next(workers: tuple[Worker, Worker, Worker]) -> None:
    one, other, third = workers
    assert one.take(["hot"])
    assert not other.take(["hot"])
    one.give_back(["hot"])
    assert not one.take(["hot"])
    assert not third.take(["hot"])
    assert other.take(["hot"])
    other.give_back(["hot"])
    assert one.take(["hot"])
    one.give_back(["hot"])


def test_who_waits_no_longer_lets_the_others_pass(workers: tuple[Worker, Worker, Worker]) -> None:
    one, other, _ = workers
    assert one.take(["hot"])
    assert not other.take(["hot"])
    assert other.forget_others(["hot"])
    assert not other.forget_others([])
    one.give_back(["hot"])
    assert one.take(["hot"])
    one.give_back(["hot"])


def test_what_a_killed_worker_had_is_free(tmp_path: Path) -> None:
    killed, other = Worker(tmp_path / "turns"), WalletTurns(tmp_path / "turns")
    assert killed.take(["a"])
    assert not other.take(["a"])
    killed.process.kill()
    killed.process.join()
    assert other.take(["a"])
    other.close()
