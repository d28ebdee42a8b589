"""`flask keys` as an operator runs it: on the real servers, in a database and with secrets of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from bson import BSON
from click.testing import CliRunner, Result
from pymongo.database import Database

from core.cli.keys import keys
from core.contracts import FieldRules
from core.rotation import Rotation
from tests.core.conftest import Factory
from tests.support.app_server import ROOT, AppServer
from tests.support.client import PASSWORD
from tests.support.in_process import Managers
from tests.support.logs import kept_logging
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tools.local_stack import LocalStack
from utils.keys import Stretcher, key_fingerprint, ring_lines

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
# As the ConnectionAPI declares it.
USERS = FieldRules(lookup=("username", "email"), sealed=("profile",))
CHEAP = {"ARGON2_TIME_COST": "1", "ARGON2_MEMORY_KIB": "8"}

Rings = Callable[[list[str]], Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Here = Callable[..., Result]


@pytest.fixture(scope="module")
def stored(servers: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    with own_database(servers, "rotation_by_command") as database:
        yield database


@pytest.fixture(scope="module")
def settings(environ: dict[str, str], stored: Database[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keys-command")
    return {**environ, **CHEAP, "MONGODB_DATABASE": stored.name, "LOG_DIR": str(folder / "logs"), "DATA_DIR": str(folder)}


def command(*words: object) -> list[str]:
    return [str(Path(sys.executable).with_name("flask")), "keys", *map(str, words)]


@pytest.fixture
def run(settings: dict[str, str]) -> Run:
    """`run(secrets, "status", "--json")`: the real command, as a process."""

    def start(secrets: Path, *words: object) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **settings, "SECRETS_DIR": str(secrets)}
        return subprocess.run(command(*words), cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)

    return start


@pytest.fixture
def here(settings: dict[str, str]) -> Here:
    """The same inside of this process, which takes a fraction of the time."""

    def start(secrets: Path, *words: object, **more: str) -> Result:
        with kept_logging():
            return CliRunner().invoke(keys, [*map(str, words)], env={**settings, "SECRETS_DIR": str(secrets), **more})

    return start


@pytest.fixture
def filled(stored: Database[dict[str, Any]], app_manager_factory: Factory, rings: Rings) -> Callable[[int], list[dict[str, Any]]]:
    """`filled(100)`: nobody but that many users, under the old key."""

    def fill(count: int) -> list[dict[str, Any]]:
        for name in ("users", "user_sessions", "audit_logs"):
            stored[name].delete_many({})
        managers = worker(app_manager_factory, stored, rings([OLD]))
        users = [
            {
                "_id": f"u_{number:05}",
                "username": f"canary{number}",
                "email": f"canary{number}@example.com",
                "profile": {"username": f"Canary{number}", "email": f"canary{number}@example.com"},
                "role": "user",
                "status": "active",
            }
            for number in range(count)
        ]
        managers.database_manager.insert_many("users", users)
        return users

    return fill


def worker(make: Factory, stored: Database[dict[str, Any]], secrets: Path) -> Managers:
    managers = make("database", "encryption", SECRETS_DIR=secrets, MONGODB_DATABASE=stored.name)
    managers.database_manager.declare_fields("users", USERS)
    return managers


def fingerprint(ring: str, line: str) -> str:
    return key_fingerprint(Stretcher(f"credit-system/{ring}").masters(line)[0])


def dump(stored: Database[dict[str, Any]]) -> bytes:
    """Every byte that lies in this database."""
    names = [name for name in stored.list_collection_names() if not name.startswith("system.")]
    return b"".join(BSON.encode(row) for name in names for row in stored[name].find())


# The files


def test_a_new_key_comes_last_and_is_promoted_once_everybody_knows_it(run: Run, here: Here, copied_secrets: Path) -> None:
    file = copied_secrets / "jwt_secret"
    file.chmod(0o640)
    first = file.read_text().strip()
    done = run(copied_secrets, "new", "jwt", "--write")
    assert (done.returncode, done.stderr) == (0, "")
    lines = file.read_text().splitlines()
    assert (lines[0], len(lines)) == (first, 2)
    assert len(lines[1]) >= 64
    assert lines[1] not in done.stdout
    made, of_first = (fingerprint("jwt", line) for line in reversed(lines))
    assert done.stdout.endswith(f"flask keys promote jwt {made}\n")
    # Too early: a worker may not have read it.
    early = here(copied_secrets, "promote", "jwt", made)
    assert early.exit_code == 1
    assert "changed too recently" in early.stderr
    assert file.read_text().splitlines() == lines
    os.utime(file, (0, file.stat().st_mtime - 200))
    assert here(copied_secrets, "promote", "jwt", made).exit_code == 0
    assert file.read_text().splitlines() == [lines[1], first]
    assert file.stat().st_mode & 0o777 == 0o640
    # Tokens of the old one are still about.
    assert "days" in here(copied_secrets, "retire", "jwt").stderr
    assert here(copied_secrets, "retire", "jwt", "--now").exit_code == 0
    assert file.read_text().splitlines() == [lines[1]]
    assert "one key only" in here(copied_secrets, "retire", "jwt", "--now").stderr
    assert f"no key {of_first}, only {made}" in here(copied_secrets, "promote", "jwt", of_first, "--now").stderr
    assert [path.name for path in copied_secrets.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("ring", ["jwt", "encryption"])
def test_a_promotion_names_its_key_and_does_nothing_the_second_time(here: Here, rings: Rings, ring: str) -> None:
    secrets = rings([OLD, "another key of 32 characters or more", NEW])
    file = secrets / {"jwt": "jwt_secret", "encryption": "encryption_key"}[ring]
    assert here(secrets, "promote", ring, fingerprint(ring, NEW), "--now").exit_code == 0
    promoted = [NEW, OLD, "another key of 32 characters or more"]
    assert ring_lines(file.read_text()) == promoted
    # Neither a second time nor by a name that is not there is an old key put back.
    for now in ([], ["--now"]):
        again = here(secrets, "promote", ring, fingerprint(ring, NEW), *now)
        assert (again.exit_code, again.stderr) == (1, f"Error: {fingerprint(ring, NEW)} is the first key already.\n")
    assert here(secrets, "promote", ring, "0123abcd", "--now").exit_code == 1
    assert ring_lines(file.read_text()) == promoted


@pytest.mark.parametrize("words", [("promote", "encryption", NEW), ("retire", "encryption")], ids=["promote", "retire"])
def test_workers_that_seldom_look_are_waited_for(here: Here, rings: Rings, words: tuple[str, ...]) -> None:
    secrets = rings([OLD, NEW])
    file = secrets / "encryption_key"
    words = tuple(fingerprint("encryption", word) if word == NEW else word for word in words)

    def after(seconds: int, refresh: str) -> Result:
        os.utime(file, (0, time.time() - seconds))
        return here(secrets, *words, SETTINGS_REFRESH=refresh)

    for seconds, refresh in ((100, "0.3"), (500, "600"), (2300, "600")):
        refused = after(seconds, refresh)
        assert (refused.exit_code, "changed too recently: wait" in refused.stderr) == (1, True)
    never = after(10**8, "0")
    assert (never.exit_code, "restart the workers first, then say --now" in never.stderr) == (1, True)
    assert ring_lines(file.read_text()) == [OLD, NEW]
    assert after(2500, "600").exit_code == 0
    assert ring_lines(file.read_text()) != [OLD, NEW]


def test_fingerprints_are_those_that_status_shows(here: Here, rings: Rings) -> None:
    secrets = rings([NEW, OLD])
    shown = json.loads(here(secrets, "status", "--json").stdout)["keys"]
    assert shown == {ring: [fingerprint(ring, NEW), fingerprint(ring, OLD)] for ring in ("jwt", "encryption")}
    printed = here(secrets, "new", "jwt")
    assert f"Add {fingerprint('jwt', printed.stdout.strip())} as the LAST line" in printed.stderr


def test_a_new_key_is_only_printed_unless_it_shall_be_written(here: Here, copied_secrets: Path) -> None:
    before = (copied_secrets / "encryption_key").read_text()
    made = {here(copied_secrets, "new", "encryption").stdout.strip() for _ in range(2)}
    assert len(made) == 2
    assert all(len(key) >= 64 and " " not in key for key in made)
    assert (copied_secrets / "encryption_key").read_text() == before


def test_what_cannot_be_done_is_said_in_one_line(here: Here, copied_secrets: Path, tmp_path: Path) -> None:
    missing = here(tmp_path / "nowhere", "new", "jwt", "--write")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("Error: secret jwt_secret: No such file")
    (copied_secrets / "jwt_secret").write_text("\n")
    assert here(copied_secrets, "promote", "jwt", "0123abcd").stderr == "Error: a key ring without a key\n"
    vault = here(copied_secrets, "new", "jwt", "--write", VAULT_ADDR="http://127.0.0.1:1")
    assert vault.exit_code == 1
    assert "in Vault" in vault.stderr


# The rotation


def test_a_rotation_that_was_killed_goes_on_and_leaves_nothing_of_the_old_key(
    run: Run,
    here: Here,
    filled: Callable[[int], list[dict[str, Any]]],
    stored: Database[dict[str, Any]],
    settings: dict[str, str],
    rings: Rings,
    app_manager_factory: Factory,
) -> None:
    users = filled(600)
    before = list(stored.users.find())
    secrets = rings([NEW, OLD])
    counted = here(secrets, "status", "--json")
    assert counted.exit_code == 0, counted.stderr
    report = json.loads(counted.stdout)
    assert report["collections"]["users"] == {"documents": 600, "fields": 1800, "rewritten": 0, "left": 1800, "unreadable": []}
    assert len(set(report["keys"]["encryption"])) == len(set(report["keys"]["jwt"])) == 2
    first, last = before[0]["email"], before[-1]["email"]
    env = {**os.environ, **settings, "SECRETS_DIR": str(secrets)}
    killed = subprocess.Popen(
        command("rotate", "--batch-size", 10), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: stored.users.find_one({"_id": users[0]["_id"], "email": {"$ne": first}}), 30)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(10) == -signal.SIGKILL
    assert stored.users.find_one({"_id": users[-1]["_id"], "email": last}), "it was killed in the middle"

    done = run(secrets, "rotate")
    assert done.returncode == 0, done.stderr
    assert "0 left under old keys" in done.stdout
    assert "rotating users" in done.stderr
    lying = dump(stored)
    assert b"canary" not in lying.lower()
    assert not any(ciphertext in lying for row in before for ciphertext in (row["username"], row["email"], row["profile"].encode()))
    newest = worker(app_manager_factory, stored, rings([NEW])).database_manager
    assert newest.find_many("users", {}, limit=2000) == users
    assert newest.find_one("users", {"email": "canary7@example.com"}) == users[7]


def test_what_cannot_be_read_is_named_without_its_value_and_the_exit_code_says_so(
    here: Here, filled: Callable[[int], list[dict[str, Any]]], stored: Database[dict[str, Any]], rings: Rings
) -> None:
    filled(5)
    swapped = stored.users.find_one({"_id": "u_00001"})
    assert swapped is not None
    stored.users.update_one({"_id": "u_00002"}, {"$set": {"profile": swapped["profile"]}})
    secrets, before = rings([NEW, OLD]), list(stored.users.find())
    dry = here(secrets, "rotate", "--dry-run")
    assert dry.exit_code == 1
    assert "users: 5 documents, 15 encrypted fields, 15 left under old keys" in dry.stdout
    assert list(stored.users.find()) == before
    done = here(secrets, "rotate", "--json")
    assert done.exit_code == 1
    assert "users u_00002 profile: cannot be decrypted" in done.stderr
    report = json.loads(done.stdout)["collections"]["users"]
    assert (report["rewritten"], report["left"], report["unreadable"]) == (14, 1, [{"id": "u_00002", "field": "profile"}])
    assert "canary" not in (done.stdout + done.stderr).lower()


def test_a_rotation_that_loses_the_database_says_so_and_goes_on_later(
    here: Here, filled: Callable[[int], list[dict[str, Any]]], servers: LocalStack, rings: Rings
) -> None:
    filled(5)
    secrets = rings([NEW, OLD])
    assert servers.mongod is not None
    with servers.mongod.client() as client:
        broken = {"failCommands": ["update"], "closeConnection": True, "appName": "credit-system-read_write"}
        client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=broken)
        try:
            stopped = here(secrets, "rotate")
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert stopped.exit_code == 1
    assert "start it again to go on" in stopped.stderr
    assert "Traceback" not in stopped.output
    done = here(secrets, "rotate")
    assert (done.exit_code, "15 written anew, 0 left" in done.stdout) == (0, True)


def test_the_old_encryption_key_is_only_retired_when_nothing_needs_it(
    here: Here,
    filled: Callable[[int], list[dict[str, Any]]],
    stored: Database[dict[str, Any]],
    rings: Rings,
    app_manager_factory: Factory,
) -> None:
    filled(5)
    secrets = rings([NEW, OLD])
    file = secrets / "encryption_key"
    refused = here(secrets, "retire", "encryption", "--now")
    assert refused.exit_code == 1
    assert "still needed" in refused.stderr
    assert ring_lines(file.read_text()) == [NEW, OLD]
    Rotation(worker(app_manager_factory, stored, secrets)).rotate("users", lambda looked_at: None)  # type: ignore[arg-type]
    assert here(secrets, "retire", "encryption", "--now").exit_code == 0
    assert ring_lines(file.read_text()) == [NEW]


def test_with_a_plugin_off_no_encryption_key_is_retired_and_the_rest_is_warned_of(
    here: Here, filled: Callable[[int], list[dict[str, Any]]], rings: Rings
) -> None:
    filled(5)
    secrets = rings([NEW, OLD])
    # Enabled, optional, and not there: as one would be whose import fails in the environment of the command.
    plugins = {"PLUGINS": "main_plugin,?ledger_export"}
    rotated = here(secrets, "rotate", **plugins)
    assert (rotated.exit_code, "15 written anew, 0 left" in rotated.stdout) == (1, True)
    shown = here(secrets, "status", "--json", **plugins)
    assert (shown.exit_code, json.loads(shown.stdout)["plugins_off"]) == (0, ["ledger_export"])
    counted = here(secrets, "rotate", "--dry-run", **plugins)
    assert counted.exit_code == 0
    refused = here(secrets, "retire", "encryption", "--now", **plugins)
    assert refused.exit_code == 1
    for done in (rotated, shown, counted, refused):
        assert "plugins that are off" in done.stderr
        assert "ledger_export" in done.stderr
    assert ring_lines((secrets / "encryption_key").read_text()) == [NEW, OLD]
    assert here(secrets, "retire", "encryption", "--now").exit_code == 0


def test_while_it_runs_people_register_and_nobody_gets_a_name_twice(
    here: Here,
    filled: Callable[[int], list[dict[str, Any]]],
    stored: Database[dict[str, Any]],
    settings: dict[str, str],
    rings: Rings,
    app_manager_factory: Factory,
    tmp_path: Path,
) -> None:
    filled(200)
    secrets = rings([NEW, OLD])
    ended = threading.Event()
    answers: list[tuple[str, int]] = []

    def register(server: AppServer, lane: int) -> None:
        number = lane
        while not ended.is_set():
            # In turns one who is there already, and a new one whom two lanes want at the same time.
            name = f"canary{number % 200}" if number % 2 else f"fresh{number // 4}"
            body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
            answers.append((name, requests.post(f"{server.url}/auth/register", json=body, timeout=20).status_code))
            number += 1

    with AppServer({**settings, "SECRETS_DIR": str(secrets)}, tmp_path, **CHEAP) as server, ThreadPoolExecutor(4) as pool:
        lanes = [pool.submit(register, server, lane) for lane in (0, 0, 1, 1)]
        # The smallest ring of all workers, for an operator who wants to know whether everybody has the new key.
        assert 'credit_keys_loaded{ring="encryption"} 2.0' in requests.get(f"{server.url}/metrics", timeout=10).text
        eventually(lambda: len(answers) > 8, 20)
        done = here(secrets, "rotate", "--batch-size", 5)
        eventually(lambda: len([1 for name, _ in answers if name.startswith("canary")]) > 8, 20)
        ended.set()
        for lane in lanes:
            lane.result()
    assert done.exit_code == 0, done.output
    assert {status for name, status in answers if name.startswith("canary")} == {409}
    fresh = {name for name, _ in answers if name.startswith("fresh")}
    assert fresh
    for name in fresh:
        assert sorted(status for other, status in answers if other == name)[0] == 201
        assert [status for other, status in answers if other == name].count(201) == 1
    newest = worker(app_manager_factory, stored, rings([NEW])).database_manager
    emails = [user["email"] for user in newest.find_many("users", {}, limit=5000)]
    assert len(emails) == len(set(emails)) == 200 + len(fresh) + 1
