"""What admins are told about the ledger as a whole, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from core.modules.ledger_module.export import export
from core.modules.ledger_module.repository import ProofRepository
from core.modules.ledger_module.store import LedgerStore
from core.modules.transactions_module.operations import PlaceHold
from core.modules.wallet_module.service import new_wallet
from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.client import Client, assert_problem
from tests.support.engine import running_engine
from tests.support.in_process import Managers
from tests.support.money import command, debit, grant
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tools.local_stack import LocalStack

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def mover(server: AppServer, admin: Client) -> Client:
    """Somebody who has credits, has spent some, and has a hold open."""
    client = Client.register(server.url)
    admin.grant(client.wallet()["id"], 100)
    client.post("/wallets/me/debits", {"amount": 30})
    client.post("/wallets/me/holds", {"amount": 10})
    return client


def test_the_ledger_is_verified_in_the_background_and_what_came_since_at_once(mover: Client, admin: Client) -> None:
    report = eventually(lambda: (answer := admin.get("/ledger/verify"))["complete"] and answer, 30)
    assert (report["ok"], report["first_bad"], report["problems"], report["newest"]["ok"]) == (True, None, [], True)
    assert report["verified_through"] is not None
    assert report["head"].partition(":")[0] == str(report["sealed"])
    before = report["newest"]["transactions"] + report["checked"]["transactions"]
    mover.post("/wallets/me/debits", {"amount": 1})
    after = admin.get("/ledger/verify")
    assert after["newest"]["transactions"] + after["checked"]["transactions"] > before


def test_the_invariants_hold_at_one_moment(mover: Client, admin: Client) -> None:
    told = admin.get("/ledger/invariants")
    assert told["ok"], told
    credit = next(each for each in told["assets"] if each["asset"] == "CREDIT")
    assert credit["wallets"] + sum(credit["system"].values()) == credit["sum"] == 0
    assert told["holds"]["held"] == told["holds"]["open"] == told["holds"]["reserved"] >= 10
    assert told["counts"]["entries"]["of_wallets"] + told["counts"]["entries"]["of_system"] == 2 * told["counts"]["transactions"]


def test_the_metrics_say_the_same(mover: Client, admin: Client, server: AppServer) -> None:
    def lines() -> set[str]:
        return set(requests.get(f"{server.url}/metrics", timeout=10).text.splitlines())

    eventually(lambda: {"credit_ledger_chain_ok 1.0", 'credit_ledger_imbalance{asset="CREDIT"} 0.0'} <= lines(), 30)
    eventually(lambda: any(line.startswith("credit_ledger_unsealed_rows ") for line in lines()), 30)


def test_only_admins_may(server: AppServer, admin: Client, mover: Client) -> None:
    for client in (mover, with_role(admin, "service"), with_role(admin, "analyst")):
        for method, path in (("GET", "verify"), ("GET", "invariants"), ("GET", "export"), ("POST", "import")):
            assert_problem(client.call(method, f"/ledger/{path}"), 403, "forbidden")


def test_it_is_exported_as_lines(mover: Client, admin: Client) -> None:
    answer = admin.call("GET", "/ledger/export")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.content.splitlines()]
    assert [next(iter(lines[0])), next(iter(lines[-1]))] == ["header", "end"]
    assert any(line.get("wallet", {}).get("owner_id") == mover.user["id"] for line in lines)


def test_an_import_is_refused_where_credits_are(mover: Client, admin: Client) -> None:
    def upload(data: bytes, headers: dict[str, str] = NDJSON) -> requests.Response:
        return admin.call("POST", "/ledger/import", data=data, headers=headers)

    assert_problem(upload(b""), 409, "ledger-not-empty")
    assert_problem(upload(b"{}", {"Content-Type": "application/json"}), 415, "unsupported-media-type")
    assert_problem(upload(b"x" * 1_100_000), 413, "payload-too-large")


@pytest.fixture(scope="module")
def exported(servers: LocalStack) -> tuple[str, bytes]:
    """A wallet, and the ledger of which it is the only one."""
    with own_database(servers, "ledger_home") as database:
        managers = Managers({**servers.environ, "MONGODB_DATABASE": database.name}, "database")
        db = managers.database_manager
        wallet = new_wallet("somebody", "CREDIT")
        db.insert_one("wallets", wallet)
        with running_engine(db) as engine:
            for wish in (grant(wallet["_id"], 50), debit(wallet["_id"], 5, reference="order-1"), PlaceHold(wallet["_id"], 20, 3600)):
                assert engine.submit(command(wish)).status == 201
        lines = "".join(export(LedgerStore(db, ProofRepository(db)))).encode()
        managers.dispose()
        return wallet["_id"], lines


@pytest.fixture
def abroad(servers: LocalStack, secrets_dir: Path, tmp_path: Path) -> Iterator[Client]:
    """The admin of an application with a ledger in which nothing has happened."""
    with (
        own_database(servers, "ledger_abroad") as database,
        AppServer(servers.environ, tmp_path, MONGODB_DATABASE=database.name, WORKERS=1, LEDGER_CHECK_SECONDS=0.1) as server,
    ):
        yield Client.admin(server.url, secrets_dir)


def test_a_ledger_comes_from_elsewhere_and_goes_on(abroad: Client, exported: tuple[str, bytes]) -> None:
    wallet, data = exported
    cut = abroad.call("POST", "/ledger/import", data=b"".join(data.splitlines(keepends=True)[:-1]), headers=NDJSON)
    assert_problem(cut, 422, "import-invalid")
    assert_problem(abroad.call("GET", f"/wallets/{wallet}"), 404, "not-found")
    done = abroad.call("POST", "/ledger/import", data=data, headers=NDJSON)
    assert (done.status_code, done.json()["imported"]["transaction"]) == (201, 2), done.text
    assert (abroad.wallet(wallet)["settled"], abroad.wallet(wallet)["held"], abroad.wallet(wallet)["status"]) == (45, 20, "active")
    abroad.refused(f"/wallets/{wallet}/debits", {"amount": 1, "reference": "order-1"}, 409, "duplicate-reference")
    abroad.grant(wallet, 3)
    assert abroad.get("/ledger/invariants")["ok"]
    report = eventually(lambda: (answer := abroad.get("/ledger/verify"))["checked"].get("transactions") == 3 and answer, 30)
    assert (report["ok"], report["complete"]) == (True, True)
