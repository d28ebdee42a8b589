"""What was exported comes back whole and goes on, in an empty ledger and in no other; or nothing comes at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.lease import Lease
from core.managers.database_manager import DatabaseManager
from core.modules.ledger_module import importer as importer_module
from core.modules.ledger_module.export import export
from core.modules.ledger_module.importer import Importer
from core.modules.ledger_module.repository import ProofRepository
from core.modules.ledger_module.store import DONE, LOADING, OPENING, LedgerStore
from core.modules.transactions_module.operations import Capture, Reverse
from tests.core.conftest import Factory
from tests.core.modules.ledger_module.conftest import KEPT, Db, hold_ids, open_wallet, unfenced, verified
from tests.support.engine import running_engine
from tests.support.ledger import assert_sound
from tests.support.money import command, debit, grant, transfer
from tests.support.own_database import own_database
from tools.error_handling.errors import AppError, Conflict
from tools.local_stack import LocalStack

LEDGER = ("wallets", "grants", "holds", "transactions", "entries", "ledger_seals")


class Killed(BaseException):
    """The process ends here: nothing of ours runs any more."""


@pytest.fixture(scope="module")
def fresh_root(servers: LocalStack) -> Iterator[Db]:
    with own_database(servers, "ledger_imports") as database:
        yield database


@pytest.fixture(scope="module")
def fresh_db(fresh_root: Db, app_manager_factory: Factory) -> DatabaseManager:
    manager: DatabaseManager = app_manager_factory("database", MONGODB_DATABASE=fresh_root.name, AUDIT_SEAL_SECONDS=3600).database_manager
    return manager


@pytest.fixture
def fresh(fresh_root: Db, fresh_db: DatabaseManager) -> Db:
    """An empty ledger, but for the wallet of somebody who has never used it."""
    for name in KEPT:
        fresh_root[name].delete_many({})
    open_wallet(fresh_db, "newcomer")
    return fresh_root


@pytest.fixture
def lines(sealed: ProofRepository, db: DatabaseManager) -> list[bytes]:
    """The history, exported."""
    return "".join(export(LedgerStore(db, sealed))).encode().splitlines(keepends=True)


@pytest.fixture
def importer(fresh: Db, fresh_db: DatabaseManager) -> Importer:
    return importer_of(fresh_db)


def importer_of(db: DatabaseManager) -> Importer:
    proofs = ProofRepository(db)
    return Importer(LedgerStore(db, proofs), proofs, Lease(db, "ledger-import", 30))


def contents(root: Db) -> dict[str, list[dict[str, Any]]]:
    found = {name: list(root[name].find().sort("_id")) for name in LEDGER}
    return {**found, "wallets": [wallet for wallet in found["wallets"] if wallet["owner_id"] != "newcomer"]}


def assert_untouched(fresh: Db) -> None:
    assert all(rows == [] for rows in contents(fresh).values())
    assert fresh["wallets"].count_documents({}) == 1
    assert fresh["ledger_state"].find_one({"_id": "import"}) is None


def with_trailer(lines: list[bytes]) -> list[bytes]:
    """`lines` with their last one made to fit."""
    trailer = json.loads(lines[-1])
    trailer["end"]["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return [*lines[:-1], json.dumps(trailer).encode()]


def test_an_export_says_what_it_is_and_when_it_is_whole(lines: list[bytes], root: Db) -> None:
    header, trailer = json.loads(lines[0])["header"], json.loads(lines[-1])["end"]
    assert (header["format"], header["version"], header["assets"]) == ("credit-ledger", 1, ["CREDIT", "GEM"])
    assert trailer["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert trailer["transaction"] == root["transactions"].count_documents({})
    assert len(lines) == 2 + sum(count for kind, count in trailer.items() if kind != "sha256")


def test_what_is_imported_is_what_was_exported_byte_by_byte_and_sound(
    importer: Importer, lines: list[bytes], root: Db, fresh: Db, fresh_db: DatabaseManager
) -> None:
    done = importer.load(lines)
    assert contents(fresh) == contents(root)
    proofs = ProofRepository(fresh_db)
    report = verified(proofs, anchor=done["head"])
    assert (report.findings, report.head) == ([], done["head"])
    assert done["imported"]["wallet"] == 3
    again = "".join(export(LedgerStore(fresh_db, proofs))).encode().splitlines()
    assert [line for line in again[1:-1] if b"newcomer" not in line] == [line.strip() for line in lines[1:-1]]


def test_an_imported_ledger_goes_on(
    importer: Importer, lines: list[bytes], wallets: dict[str, str], fresh: Db, fresh_db: DatabaseManager
) -> None:
    importer.load(lines)
    with running_engine(fresh_db) as engine:
        ann, bob = wallets["ann"], wallets["bob"]
        transferred = fresh["transactions"].find_one({"type": "transfer"})
        open_hold = next(hold_id for hold_id in hold_ids(fresh) if fresh["holds"].find_one({"_id": hold_id, "status": "open"}))
        assert transferred is not None
        verdicts = [
            engine.submit(command(wish))
            for wish in (
                transfer(ann, bob, 5),
                Reverse(transferred["_id"], 50),
                Capture(open_hold, 5),
                debit(ann, 1, reference="order-1"),
                grant(bob, 1, reference="promised"),
                grant(wallets["gems"], 4),
            )
        ]
    assert [verdict.status for verdict in verdicts] == [201, 201, 200, 409, 409, 201]
    proofs = ProofRepository(fresh_db)
    for _ in range(2):
        report = verified(proofs)
        assert report.findings == []
        while proofs.chain.seal(report.newest, unfenced):
            pass
    assert verified(proofs).sealed == fresh["transactions"].count_documents({})


def test_only_an_empty_ledger_takes_an_import(importer: Importer, lines: list[bytes], fresh: Db) -> None:
    importer.load(lines)
    before = contents(fresh)
    with pytest.raises(Conflict) as refusal:
        importer.load(lines)
    assert refusal.value.code == "ledger-not-empty"
    assert contents(fresh) == before


def test_two_imports_do_not_run_at_once(importer: Importer, lines: list[bytes], fresh: Db, fresh_db: DatabaseManager) -> None:
    other = importer_of(fresh_db)

    def meanwhile() -> Iterator[bytes]:
        yield from lines[:5]
        with pytest.raises(Conflict) as refusal:
            other.load(lines)
        assert refusal.value.code == "ledger-importing"
        yield from lines[5:]

    importer.load(meanwhile())
    assert verified(ProofRepository(fresh_db)).ok


def without_trailer(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def without_a_line(lines: list[bytes]) -> list[bytes]:
    return lines[:6] + lines[7:]


def with_a_changed_amount(lines: list[bytes]) -> list[bytes]:
    """And a trailer that fits: whoever changes a file can do that too."""
    return with_trailer([line.replace(b'"amount":100,', b'"amount":101,') if b'"transaction"' in line[:14] else line for line in lines])


def with_a_changed_memo(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b"a thing", b"a thong") for line in lines])


def with_more_in_a_wallet(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b'"settled":9,', b'"settled":10,') for line in lines])


def with_an_open_hold_more(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b'"status":"released"', b'"status":"open"') for line in lines])


def with_a_wallet_twice(lines: list[bytes]) -> list[bytes]:
    return with_trailer([lines[0], lines[1], *lines[1:]])


def with_a_wallet_at_the_end(lines: list[bytes]) -> list[bytes]:
    return with_trailer([lines[0], *lines[2:-1], lines[1], lines[-1]])


def with_another_format(lines: list[bytes]) -> list[bytes]:
    return with_trailer([lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]])


def with_an_operator(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b'"metadata":{}', b'"metadata":{"$where":"1"}') for line in lines])


def with_code(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b'"metadata":{}', b'"metadata":{"a":{"$code":"1"}}') for line in lines])


def with_garbage(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], b"\xff\xfe{\n", *lines[4:]]


def with_something_behind(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[1]]


def with_a_row_without_shape(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b'"entries":[', b'"entrees":[') for line in lines])


def with_a_hold_of_nobody(lines: list[bytes]) -> list[bytes]:
    return with_trailer([line.replace(b'"wallet_id":"w_', b'"wallet_id":"x_') if line.startswith(b'{"hold"') else line for line in lines])


def from_the_future(lines: list[bytes]) -> list[bytes]:
    header = json.loads(lines[0])
    header["header"]["newest"]["$timestamp"]["t"] += 10**8
    return with_trailer([json.dumps(header).encode() + b"\n", *lines[1:]])


def nothing(lines: list[bytes]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    "spoil",
    [
        without_trailer,
        without_a_line,
        with_a_changed_amount,
        with_a_changed_memo,
        with_more_in_a_wallet,
        with_an_open_hold_more,
        with_a_wallet_twice,
        with_a_wallet_at_the_end,
        with_another_format,
        with_an_operator,
        with_code,
        with_garbage,
        with_something_behind,
        with_a_row_without_shape,
        with_a_hold_of_nobody,
        from_the_future,
        nothing,
    ],
    ids=lambda each: each.__name__,
)
def test_what_is_not_whole_or_not_sound_leaves_nothing_behind(
    spoil: Callable[[list[bytes]], list[bytes]], importer: Importer, lines: list[bytes], fresh: Db
) -> None:
    spoilt = spoil(lines)
    assert spoilt != lines
    with pytest.raises(AppError) as refusal:
        importer.load(spoilt)
    assert refusal.value.code == "import-invalid"
    assert_untouched(fresh)


# Killed on the way


@pytest.mark.parametrize("at", [2, 5, 9, 15, -1])
def test_an_import_that_was_killed_while_it_loaded_can_be_used_by_nobody_and_is_done_anew(
    at: int,
    importer: Importer,
    lines: list[bytes],
    wallets: dict[str, str],
    fresh: Db,
    fresh_db: DatabaseManager,
    root: Db,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importer_module, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr(Importer, "_undo", lambda *_: None)

    def until_killed() -> Iterator[bytes]:
        yield from lines[:at]
        raise Killed

    with pytest.raises(Killed):
        importer.load(until_killed())
    store = LedgerStore(fresh_db, ProofRepository(fresh_db))
    assert (store.phase, store.epoch()) == (LOADING, None)
    with running_engine(fresh_db) as engine:
        assert {engine.submit(command(wish)).status for wish in (grant(wallets["ann"], 1), debit(wallets["bob"], 1))} <= {403, 404}
    importer_of(fresh_db).load(lines)
    assert store.phase == DONE
    assert contents(fresh) == contents(root)


def test_an_import_that_was_killed_while_it_opened_is_ended_by_the_next(
    importer: Importer, lines: list[bytes], fresh: Db, fresh_db: DatabaseManager, root: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_self: LedgerStore) -> Iterator[int]:
        raise Killed
        yield 0

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "open_wallets", killed)
        with pytest.raises(Killed):
            importer.load(lines)
    assert LedgerStore(fresh_db, ProofRepository(fresh_db)).phase == OPENING
    assert {wallet["status"] for wallet in contents(fresh)["wallets"]} == {"frozen"}
    with pytest.raises(Conflict):
        importer_of(fresh_db).load(lines)
    assert contents(fresh) == contents(root)
    assert_sound(root)
