"""`flask ledger`: verifies, exports and imports, and says by its exit code how it went."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from core.cli.ledger import ledger, written_whole
from core.managers.database_manager import DatabaseManager
from core.modules.wallet_module.service import new_wallet
from tests.core.conftest import Factory
from tests.support.commands import flask
from tests.support.engine import running_engine
from tests.support.money import command, grant
from tests.support.own_database import own_database
from tools.local_stack import LocalStack


@pytest.fixture(scope="module")
def environ(servers: LocalStack, app_manager_factory: Factory) -> Iterator[dict[str, str]]:
    """Where a ledger lies with some grants in it, and nothing is sealed yet."""
    with own_database(servers, "ledger_commands") as database:
        db: DatabaseManager = app_manager_factory("database", MONGODB_DATABASE=database.name).database_manager
        with running_engine(db) as engine:
            for number in range(3):
                wallet = new_wallet(f"u{number}", "CREDIT")
                db.insert_one("wallets", wallet)
                engine.submit(command(grant(wallet["_id"], 10)))
        yield {**servers.environ, "MONGODB_DATABASE": database.name}


def test_it_verifies_exports_and_imports(environ: dict[str, str], servers: LocalStack, tmp_path: Path) -> None:
    verified = flask(environ, tmp_path, "ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    report = json.loads(verified.stdout)
    assert (report["ok"], report["complete"], report["checked"]["transactions"], report["sums"]) == (True, True, 3, {"CREDIT": 0})

    file = tmp_path / "ledger.ndjson"
    assert flask(environ, tmp_path, "ledger", "export", str(file)).returncode == 0
    assert (stat.S_IMODE(file.stat().st_mode), list(tmp_path.glob("*.part"))) == (0o600, [])
    with own_database(servers, "ledger_commands_2") as database:
        elsewhere = {**environ, "MONGODB_DATABASE": database.name}
        imported = flask(elsewhere, tmp_path, "ledger", "import", str(file))
        assert imported.stdout.splitlines() == [
            "3 wallets, 3 grants, 0 holds, 3 transactions, 0 seals",
            f"head {report['head']}",
        ], imported.stderr

        row = database["transactions"].find_one()
        assert row is not None
        database["transactions"].update_one({"_id": row["_id"]}, {"$set": {"amount": 11}})
        broken = flask(elsewhere, tmp_path, "ledger", "verify")
        assert broken.returncode == 1
        assert broken.stdout.startswith("BROKEN: 3 transactions")
        assert f"transactions {row['_id']}: its entries do not move its amount" in broken.stdout


def test_a_full_disk_spoils_no_earlier_export(tmp_path: Path) -> None:
    file = tmp_path / "ledger.ndjson"
    file.write_text("of yesterday")

    def fill_the_disk() -> None:
        with written_whole(file) as out:
            out.write("half of today's")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(click.ClickException, match="No space left"):
        fill_the_disk()
    assert (file.read_text(), list(tmp_path.iterdir())) == ("of yesterday", [file])


@pytest.mark.parametrize("anchor", ["x", "1:zz", "1:00"])
def test_an_anchor_that_is_none_is_refused_before_anything_is_started(anchor: str) -> None:
    refused = CliRunner().invoke(ledger, ["verify", "--anchor", anchor])
    assert (refused.exit_code, "expected <number>:<64 hexadecimal digits>" in refused.output) == (2, True)
