"""`flask backup` and `flask restore`: a drill while money moves, and everything that may go wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId, Timestamp
from click.testing import CliRunner, Result
from pymongo.database import Database

from core.cli.backup import backup, restore_
from core.cli.hooks import hooks
from core.restore_marker import COLLECTION as MARKER
from tests.support.app_server import ROOT, AppServer
from tests.support.client import Client, unique
from tests.support.ledger import assert_sound
from tests.support.load import Load
from tests.support.logs import kept_logging
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tools.local_stack import LocalStack

Command = Callable[..., Result]
Documents = Database[dict[str, Any]]
SOURCE, TARGET = "backup_source", "backup_target"


@pytest.fixture(scope="module")
def databases(servers: LocalStack) -> Iterator[tuple[Documents, Documents]]:
    with own_database(servers, SOURCE) as source, own_database(servers, TARGET) as target:
        yield source, target


@pytest.fixture
def source(databases: tuple[Documents, Documents]) -> Documents:
    return databases[0]


@pytest.fixture
def target(databases: tuple[Documents, Documents]) -> Iterator[Documents]:
    """Empty, as after init-scripts/mongodb-init.js."""
    database = databases[1]
    yield database
    for name in database.list_collection_names(filter={"type": "collection"}):
        if not name.startswith("system."):
            database[name].drop()


def environ_of(servers: LocalStack, database: str, folder: Path, redis: int) -> dict[str, str]:
    url = f"{servers.environ['REDIS_URL'].rsplit('/', 1)[0]}/{redis}"
    own = {"MONGODB_DATABASE": database, "REDIS_URL": url, "LOG_DIR": str(folder / "logs"), "DATA_DIR": str(folder)}
    return {**servers.environ, **own}


@pytest.fixture
def back_up(servers: LocalStack, tmp_path: Path) -> Command:
    def run(*arguments: object, **settings: str) -> Result:
        with kept_logging():
            environ = {**environ_of(servers, SOURCE, tmp_path, 5), **settings}
            return CliRunner().invoke(backup, [str(argument) for argument in arguments], env=environ)

    return run


@pytest.fixture
def restore(servers: LocalStack, tmp_path: Path) -> Command:
    def run(*arguments: object, **settings: str) -> Result:
        with kept_logging():
            environ = {**environ_of(servers, TARGET, tmp_path, 6), **settings}
            return CliRunner().invoke(restore_, [str(argument) for argument in arguments], env=environ)

    return run


@pytest.fixture(scope="module")
def drilled(servers: LocalStack, databases: tuple[Documents, Documents], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Client]:
    """A backup that was made while money moved, and one of the users whose it was."""
    folder = tmp_path_factory.mktemp("drill")
    environ = environ_of(servers, SOURCE, folder, 5)
    with AppServer(environ, folder, AUDIT_SEAL_SECONDS=0.2, AUDIT_SEAL_DELAY=0.5, ARGON2_MEMORY_KIB=8, WORKERS=1) as server:
        admin = Client.admin(server.url, Path(environ["SECRETS_DIR"]))
        load = Load.prepare(server, admin, users=3)
        with load.running(), kept_logging():
            eventually(lambda: databases[0]["ledger_seals"].count_documents({}) > 1, 20)
            load.wait_for(20)
            done = CliRunner().invoke(backup, [str(folder / "copy"), "--json"], env=environ)
            load.wait_for(20)
        assert done.exit_code == 0, done.output
        assert load.count(201) == len(load.tries), "nobody noticed"
    return folder / "copy", load.client


@pytest.fixture
def copy(drilled: tuple[Path, Client], tmp_path: Path) -> Path:
    return Path(shutil.copytree(drilled[0], tmp_path / "copy"))


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_a_backup_under_load_is_restored_whole_and_people_log_in_there(
    drilled: tuple[Path, Client], source: Documents, target: Documents, restore: Command, servers: LocalStack, tmp_path: Path
) -> None:
    folder, client = drilled
    done = restore(folder, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["problems"] == []
    assert told["transactions"] > 40
    assert not told["audit_head"].startswith("0:")
    assert not told["ledger_head"].startswith("0:")
    assert_sound(target)
    # Of one moment: in the middle of what happened.
    assert 0 < target["transactions"].count_documents({}) < source["transactions"].count_documents({})
    for name in ("users", "audit_logs", "audit_seals", "ledger_seals"):
        for document in target[name].find():
            assert source[name].find_one({"_id": document["_id"]}) is not None
    for name in source.list_collection_names(filter={"type": "collection"}):
        assert target[name].index_information() == source[name].index_information(), name
    assert MARKER not in target.list_collection_names()
    with AppServer(environ_of(servers, TARGET, tmp_path, 6), tmp_path, WORKERS=1, ARGON2_MEMORY_KIB=8) as server:
        there = Client.login(server.url, client.user["email"])
        wallet = there.wallet()
        rows = there.get("/wallets/me/transactions?limit=1")["data"]
        assert rows[0]["balance_after"] == wallet["settled"]
        receiver = Client.register(server.url)
        assert there.transfer(receiver.wallet()["id"], 5).status_code == 201
    assert_sound(target)


def test_the_folder_is_private_and_names_keys_without_showing_them(drilled: tuple[Path, Client], servers: LocalStack) -> None:
    folder = drilled[0]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    manifest = manifest_of(folder)
    assert set(manifest["keys"]) == {"ENCRYPTION_KEY", "REDIS_ENCRYPTION_KEY", "JWT_SECRET"}
    secrets = Path(servers.environ["SECRETS_DIR"])
    text = (folder / "manifest.json").read_text()
    assert not [file.name for file in secrets.iterdir() if len(value := file.read_text().strip()) > 20 and value in text]
    names = {part["collection"] for part in manifest["parts"]}
    assert {"users", "transactions", "entries", "audit_logs"} <= names
    assert not names & {"leases", "users_public", MARKER}


def test_a_folder_that_is_not_empty_is_left_alone(back_up: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    refused = back_up(tmp_path)
    assert (refused.exit_code, "is not empty" in refused.stderr) == (1, True)
    assert not (tmp_path / "manifest.json").exists()


def test_a_server_that_forgets_the_moment_makes_no_backup_and_says_what_helps(
    drilled: tuple[Path, Client], back_up: Command, servers: LocalStack, restore: Command, tmp_path: Path
) -> None:
    assert servers.mongod is not None
    with servers.mongod.client() as root:
        broken = {"failCommands": ["find"], "errorCode": 239, "appName": "credit-system-admin"}
        root.admin.command("configureFailPoint", "failCommand", mode={"skip": 4}, data=broken)
        try:
            failed = back_up(tmp_path / "copy")
        finally:
            root.admin.command("configureFailPoint", "failCommand", mode="off")
    assert failed.exit_code == 1, failed.output
    assert "minSnapshotHistoryWindowInSeconds" in failed.stderr
    refused = restore(tmp_path / "copy")
    assert (refused.exit_code, "broken off" in refused.stderr) == (1, True)


def test_nothing_is_written_from_files_that_have_changed(copy: Path, target: Documents, restore: Command) -> None:
    file = copy / "main.users.bson.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for arguments in ((copy,), (copy, "--check")):
        refused = restore(*arguments)
        assert (refused.exit_code, "SHA-256" in refused.stderr) == (1, True)
    file.unlink()
    assert restore(copy).exit_code == 1
    assert target["transactions"].find_one() is None
    assert MARKER not in target.list_collection_names()


def test_a_manifest_cannot_name_files_outside_of_its_folder(copy: Path, restore: Command) -> None:
    manifest = manifest_of(copy)
    manifest["parts"][0]["file"] = "../../etc/passwd"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert restore(copy, "--check").exit_code == 1
    (copy / "manifest.json").write_text("[]")
    assert restore(copy, "--check").exit_code == 1


def test_only_an_empty_database_is_filled(copy: Path, target: Documents, restore: Command) -> None:
    target["users"].insert_one({"_id": "u_1"})
    refused = restore(copy)
    assert (refused.exit_code, "is not empty (users)" in refused.stderr) == (1, True)
    assert target["users"].count_documents({}) == 1
    assert target["wallets"].find_one() is None


def test_without_its_keys_or_by_an_older_release_or_clock_nothing_is_restored(
    copy: Path, target: Documents, restore: Command, copied_secrets: Path
) -> None:
    (copied_secrets / "encryption_key").write_text("another key that is long enough for a ring\n")
    refused = restore(copy, SECRETS_DIR=str(copied_secrets))
    assert (refused.exit_code, "encryption_key" in refused.stderr) == (1, True)
    manifest = manifest_of(copy)
    for change, word in (({"migrations": ["9999_of_tomorrow"]}, "newer release"), ({"until": [4_000_000_000, 1]}, "behind the backup")):
        (copy / "manifest.json").write_text(json.dumps({**manifest, **change}))
        refused = restore(copy)
        assert (refused.exit_code, word in refused.stderr) == (1, True), refused.output
    assert target["users"].find_one() is None


def test_a_restore_that_was_killed_is_seen_keeps_the_application_off_and_begins_anew(
    copy: Path, target: Documents, restore: Command, servers: LocalStack, tmp_path: Path
) -> None:
    environ = {**os.environ, **environ_of(servers, TARGET, tmp_path, 6)}
    command = [Path(sys.executable).with_name("flask"), "restore", str(copy)]
    assert servers.mongod is not None
    with servers.mongod.client() as root:
        # Its second insert takes long: there is time to kill it.
        slow = {"failCommands": ["insert"], "blockConnection": True, "blockTimeMS": 2500, "appName": "credit-system-admin"}
        root.admin.command("configureFailPoint", "failCommand", mode={"skip": 1}, data=slow)
        try:
            killed = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            eventually(target[MARKER].find_one, 40)
            killed.send_signal(signal.SIGKILL)
            killed.wait(10)
        finally:
            root.admin.command("configureFailPoint", "failCommand", mode="off")
        at_work = [{"$currentOp": {}}, {"$match": {"appName": "credit-system-admin", "active": True}}]
        eventually(lambda: not list(root.admin.aggregate(at_work)), 20)
    assert target[MARKER].find_one() is not None
    with kept_logging():
        refused = CliRunner().invoke(hooks, env=environ_of(servers, TARGET, tmp_path, 6))
    assert (refused.exit_code, "only half restored" in refused.stderr) == (3, True)
    assert restore(copy, input="n\n").exit_code == 1
    done = restore(copy, "--yes")
    assert done.exit_code == 0, done.output
    assert MARKER not in target.list_collection_names()
    assert_sound(target)


def test_what_the_server_would_change_on_the_way_is_noticed(
    source: Documents, target: Documents, back_up: Command, restore: Command, tmp_path: Path
) -> None:
    # In the place of such a stamp, an insert gets the time of the server: only an update can have left it there.
    row = ObjectId()
    source["settings"].insert_one({"_id": row})
    source["settings"].update_one({"_id": row}, [{"$set": {"stamp": Timestamp(0, 0)}}])
    try:
        assert back_up(tmp_path / "copy").exit_code == 0
        failed = restore(tmp_path / "copy")
        assert failed.exit_code == 1
        assert "settings: " in failed.stderr
        assert target[MARKER].find_one() is not None
    finally:
        source["settings"].delete_one({"_id": row})


def test_a_broken_chain_is_restored_as_it_is_and_told(
    source: Documents, target: Documents, back_up: Command, restore: Command, tmp_path: Path
) -> None:
    row = source["audit_logs"].find_one({}, sort=[("stamp", 1)])
    assert row is not None
    source["audit_logs"].update_one({"_id": row["_id"]}, {"$set": {"actor_id": "somebody else"}})
    try:
        assert back_up(tmp_path / "copy").exit_code == 0
        done = restore(tmp_path / "copy", "--json")
    finally:
        source["audit_logs"].update_one({"_id": row["_id"]}, {"$set": {"actor_id": row["actor_id"]}})
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"] == [f"audit log: changed, row {row['_id']}"]


def test_collections_of_plugins_come_along(
    source: Documents, target: Documents, servers: LocalStack, back_up: Command, restore: Command, tmp_path: Path
) -> None:
    with ExitStack() as afterwards:
        mine, theirs = source.client[f"{SOURCE}_plugins"], target.client[f"{TARGET}_plugins"]
        for database in (mine, theirs):
            afterwards.callback(database.client.drop_database, database.name)
            afterwards.callback(database["hello_greetings"].drop)
        mine["hello_greetings"].create_index([("at", 1)], name="by_time", expireAfterSeconds=5)
        mine["hello_greetings"].insert_many([{"_id": kind} for kind in (1, "one", 1.5, unique("greeting"))])
        assert back_up(tmp_path / "copy").exit_code == 0
        done = restore(tmp_path / "copy")
        assert done.exit_code == 0, done.output
        assert list(theirs["hello_greetings"].find().sort("_id")) == list(mine["hello_greetings"].find().sort("_id"))
        assert theirs["hello_greetings"].index_information() == mine["hello_greetings"].index_information()
