"""`flask users`: what it changes, the API shows at once, by the same rules, and the audit log knows who did it."""

from __future__ import annotations

import getpass
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymongo.database import Database

from tests.core.cli.conftest import Run
from tests.support.app_server import AppServer
from tests.support.at_once import at_once
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tests.support.commands import flask
from tools.local_stack import LocalStack

Told = Callable[..., Any]
Audit = Database[dict[str, Any]]


def log_in(server: AppServer, client: Client, password: str) -> int:
    return Client(server.url).call("POST", "/auth/login", {"login": client.user["username"], "password": password}).status_code


def test_a_shell_gets_one_json_object_and_the_exit_code(alice: Client, servers: LocalStack, tmp_path: Path) -> None:
    shown = flask(servers.environ, tmp_path, "users", "show", alice.user["username"], "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    user = json.loads(shown.stdout)
    assert user == {name: value for name, value in alice.user.items() if name not in ("username", "email")}


def test_personal_data_is_only_shown_where_it_is_asked_for(alice: Client, run: Run, told: Told) -> None:
    for arguments in (("list", "--limit", 5), ("show", alice.user["email"])):
        shown = run("users", *arguments)
        assert shown.exit_code == 0
        assert alice.user["id"] in shown.stdout
        assert "@" not in shown.stdout
    assert told("users", "show", alice.user["id"], "--personal") == alice.user
    rows = told("users", "list", "--role", "user", "--personal", "--limit", 1)["data"]
    assert [set(row) for row in rows] == [set(alice.user)]


def test_a_list_says_when_there_is_more(alice: Client, bob: Client, run: Run) -> None:
    shown = run("users", "list", "--limit", 1)
    assert len(shown.stdout.splitlines()) == 2
    assert "more than 1" in shown.stderr


def test_an_account_is_made_by_the_rules_of_the_api(server: AppServer, run: Run, told: Told, admin: Client) -> None:
    name = unique("made")
    refused = run("users", "create", name, f"{name}@example.com", "--password-file", "-", input="short\n")
    assert refused.exit_code == 1
    assert "password" in refused.stderr
    made = told("users", "create", name, f"{name}@example.com", "--role", "service", "--password-file", "-", input=f"{PASSWORD}\n")
    assert Client.login(server.url, name).user["role"] == "service"
    assert admin.get(f"/wallets?owner_id={made['id']}")["data"]
    again = run("users", "create", name, f"{name}@example.com", "--password-file", "-", "--json", input=f"{PASSWORD}\n")
    assert (again.exit_code, json.loads(again.stdout)["code"]) == (1, "username-taken")
    assert PASSWORD not in again.output


def test_the_password_is_asked_for_and_never_shown(run: Run, server: AppServer) -> None:
    name = unique("asked")
    done = run("users", "create", name, f"{name}@example.com", input=f"{PASSWORD}\n{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert Client.login(server.url, name).user["username"] == name


def test_role_and_status_change_at_once_and_are_audited(alice: Client, server: AppServer, told: Told, database: Audit) -> None:
    user_id = alice.user["id"]
    assert told("users", "role", alice.user["username"], "analyst")["role"] == "analyst"
    assert_problem(alice.call("GET", "/auth/me"), 401, "session-revoked")
    assert Client.login(server.url, alice.user["username"]).get("/auth/me")["role"] == "analyst"
    assert told("users", "suspend", user_id)["status"] == "suspended"
    assert log_in(server, alice, PASSWORD) == 401
    assert told("users", "activate", alice.user["username"])["status"] == "active"
    assert log_in(server, alice, PASSWORD) == 200
    actors = {row["actor_id"] for row in database["audit_logs"].find({"target": user_id, "actor_id": {"$regex": "^cli:"}})}
    assert actors == {f"cli:{getpass.getuser()}"}


def test_the_last_admin_stays(run: Run, admin: Client, secrets_dir: Path, database: Audit) -> None:
    # Those that other tests have left.
    database["users"].update_many({"role": "admin", "_id": {"$ne": admin.user["id"]}}, {"$set": {"status": "suspended"}})
    refused = run("users", "suspend", (secrets_dir / "admin_email").read_text().strip(), "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["code"]) == (1, "last-admin")
    assert refused.stderr == "Error: This is the last active admin. (last-admin)\n"
    assert admin.get("/auth/me")["status"] == "active"


def test_a_one_time_password_opens_one_session_in_which_a_new_one_is_set(alice: Client, server: AppServer, told: Told, run: Run) -> None:
    name = alice.user["username"]
    assert run("users", "password-reset", name, input="n\n").exit_code == 1
    assert alice.get("/auth/me")["id"] == alice.user["id"]
    password = told("users", "password-reset", name, "--yes")["one_time_password"]
    assert_problem(alice.call("GET", "/auth/me"), 401, "session-revoked")
    assert log_in(server, alice, PASSWORD) == 401
    # Several at a time, of whom it was stolen: one of them gets in.
    assert sorted(at_once(4, lambda _: log_in(server, alice, password))) == [200, 401, 401, 401]
    assert log_in(server, alice, password) == 401
    again = told("users", "password-reset", name, "--yes")["one_time_password"]
    session = Client.login(server.url, name, again)
    new = "a new and rather long passphrase"
    assert session.call("PUT", "/auth/password", {"current_password": again, "new_password": new}).status_code == 204
    assert [log_in(server, alice, new) for _ in range(2)] == [200, 200]


def test_a_one_time_password_that_was_not_used_for_a_day_is_worth_nothing(
    alice: Client, server: AppServer, told: Told, database: Audit
) -> None:
    password = told("users", "password-reset", alice.user["id"], "--yes")["one_time_password"]
    passed = [{"$set": {"one_time_until": {"$dateSubtract": {"startDate": "$one_time_until", "unit": "day", "amount": 1}}}}]
    database["users"].update_one({"_id": alice.user["id"]}, passed)
    assert log_in(server, alice, password) == 401


def test_a_one_time_password_can_go_into_a_file_that_nobody_else_reads(alice: Client, server: AppServer, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "password"
    done = run("users", "password-reset", alice.user["id"], "--yes", "--to", file)
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = file.read_text().strip()
    assert password not in done.output
    refused = run("users", "password-reset", alice.user["id"], "--yes", "--to", file)
    assert refused.exit_code == 1
    assert log_in(server, alice, password) == 200
    assert run("users", "password-reset", "nobody-of-this-name", "--yes", "--to", tmp_path / "other").exit_code == 1
    assert not (tmp_path / "other").exists()


def test_who_is_erased_is_gone(alice: Client, admin: Client, run: Run, told: Told) -> None:
    assert run("users", "erase", alice.user["username"], input="n\n").exit_code == 1
    assert told("users", "erase", alice.user["username"], "--yes") == {"id": alice.user["id"], "status": "deleted"}
    gone = admin.get(f"/users/{alice.user['id']}")
    assert (gone["status"], gone["username"], gone["email"]) == ("deleted", None, None)
    assert run("users", "show", alice.user["username"]).exit_code == 1


def test_whom_nobody_knows_and_what_is_no_text_is_refused(run: Run) -> None:
    for named in ("nobody-of-this-name", "u_000000000000000000000000", "no@where.example"):
        refused = run("users", "show", named)
        assert (refused.exit_code, refused.stderr) == (1, "Error: There is no such user. (not-found)\n"), named
    assert run("users", "show", "\udcff").stderr == "Error: There is nothing of that name. (not-found)\n"
