"""`flask sessions`, `limits`, `bans`, `webhooks`, `schedules`, `routes` and `plugins`: what they do, the API shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from core.cli.commands import COMMANDS
from core.cli.output import EXIT_CODES, Group
from core.contracts import Identifier
from core.managers.app_manager import AppManager
from tests.core.cli.conftest import Run
from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.client import Client, assert_problem
from tests.support.commands import flask
from tests.support.http_services import HttpServer
from tests.support.polling import eventually
from tools.local_stack import LocalStack
from utils.clock import rfc3339, utc_now

Told = Callable[..., Any]


def test_sessions_are_ended_one_by_one_or_all(alice: Client, server: AppServer, told: Told, run: Run) -> None:
    name = alice.user["username"]
    second = Client.login(server.url, name)
    rows = told("sessions", "list", name)["data"]
    assert [set(row) for row in rows] == [{"id", "created_at", "last_used_at", "expires_at"}] * 2
    assert "python-requests" in run("sessions", "list", name, "--personal").stdout
    assert "python-requests" not in run("sessions", "list", name).stdout
    told("sessions", "revoke", name, rows[0]["id"])
    assert_problem(second.call("GET", "/auth/me"), 401, "session-revoked")
    assert alice.get("/auth/me")["username"] == name
    assert run("sessions", "revoke", name, "s_000000000000000000000000").exit_code == 1
    assert run("sessions", "revoke-all", name, input="n\n").exit_code == 1
    told("sessions", "revoke-all", name, "--yes")
    assert_problem(alice.call("GET", "/auth/me"), 401, "session-revoked")
    assert told("sessions", "list", name)["data"] == []


def test_bans_by_hand_hold_at_once_and_are_lifted(alice: Client, admin: Client, told: Told, run: Run) -> None:
    user_id = alice.user["id"]
    told("bans", "add", "user", user_id, "--seconds", 600)
    assert_problem(alice.call("GET", "/wallets"), 403, "banned")
    standing = admin.get(f"/rate-limits/user/{user_id}")
    assert (standing["ban"]["policy"], 590 < standing["banned_for"] <= 600) == ("by-hand", True)
    assert user_id not in run("bans", "list").output
    assert user_id in [row["id"] for row in told("bans", "list", "--personal")["data"]]
    # Another length replaces the first.
    told("bans", "add", "user", user_id, "--seconds", 60)
    assert told("limits", "show", "user", user_id)["banned_for"] <= 60
    told("bans", "lift", "user", user_id)
    assert alice.get("/wallets")["data"]
    for bad in (("ip", "no-address"), ("user", "a b")):
        assert run("bans", "add", *bad).exit_code == 1
    assert run("bans", "add", "house", "1").exit_code == 2


def test_an_address_that_is_never_limited_cannot_be_banned(started: AppManager, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = started.rate_limiter_manager
    monkeypatch.setattr(limiter, "_is_allowed", lambda identifier: True)
    refused = run("bans", "add", "ip", "192.0.2.1")
    assert (refused.exit_code, "RATE_LIMIT_ALLOW" in refused.stderr) == (1, True)
    monkeypatch.undo()
    assert not limiter.is_banned(Identifier("ip", "192.0.2.1"))


def test_limits_are_shown_and_cleared(alice: Client, admin: Client, told: Told, run: Run) -> None:
    user_id = alice.user["id"]
    assert told("limits", "show")["data"] == admin.get("/rate-limits")["policies"]
    alice.get("/wallets")
    used = {row["policy"]: row["used"] for row in told("limits", "show", "user", user_id)["policies"]}
    assert used["user"] > 0
    shown = run("limits", "show", "user", user_id)
    assert (shown.exit_code, shown.stdout.splitlines()[-1]) == (0, "banned_for: 0")
    told("limits", "clear", "user", user_id)
    used = {row["policy"]: row["used"] for row in told("limits", "show", "user", user_id)["policies"]}
    assert used["user"] == 0
    assert run("limits", "show", "user").exit_code == 2


def test_webhooks_are_stopped_started_and_replayed(admin: Client, told: Told, run: Run, alice: Client) -> None:
    service = with_role(admin, "service")
    with HttpServer() as receiver:
        made = service.call("POST", "/webhooks", {"url": f"{receiver.url}/hook", "events": ["transaction.posted"]}).json()
        path = f"/webhooks/{made['id']}"
        assert made["id"] in [row["id"] for row in told("webhooks", "list")["data"]]
        assert made["secret"] not in run("webhooks", "list").output
        admin.grant(alice.wallet()["id"], 3)
        sent = eventually(lambda: told("webhooks", "deliveries", made["id"], "--status", "delivered")["data"], 20)[0]
        assert told("webhooks", "disable", made["id"])["status"] == "disabled"
        assert service.get(path)["disabled_reason"] == "by-hand"
        refused = run("webhooks", "replay", made["id"], sent["id"], "--json")
        assert (refused.exit_code, json.loads(refused.stdout)["code"]) == (1, "webhook-disabled")
        assert told("webhooks", "enable", made["id"])["status"] == "active"
        again = told("webhooks", "replay", made["id"], sent["id"])
        assert again["replay_of"] == sent["id"]
        done = eventually(
            lambda: [d for d in service.get(f"{path}/deliveries")["data"] if d["id"] == again["id"] and d["status"] != "pending"], 20
        )
        assert done[0]["status"] == "delivered"
        assert service.call("DELETE", path).status_code == 204


def test_schedules_are_listed_and_cancelled(alice: Client, bob: Client, told: Told, run: Run) -> None:
    wish = {"destination": {"username": bob.user["username"]}, "amount": 5, "run_at": rfc3339(utc_now()), "rrule": "FREQ=DAILY;COUNT=9"}
    made = alice.post("/schedules", wish)
    assert [row["id"] for row in told("schedules", "list", "--owner", alice.user["username"])["data"]] == [made["id"]]
    assert run("schedules", "cancel", made["id"], input="n\n").exit_code == 1
    assert alice.get(f"/schedules/{made['id']}")["status"] == "active"
    assert told("schedules", "cancel", made["id"], "--yes")["status"] == "cancelled"
    assert alice.get(f"/schedules/{made['id']}")["status"] == "cancelled"
    assert told("schedules", "list", "--owner", alice.user["id"], "--status", "active")["data"] == []


def test_what_others_have_written_does_not_command_the_terminal(admin: Client, run: Run) -> None:
    service = with_role(admin, "service")
    with HttpServer() as receiver:
        made = service.call("POST", "/webhooks", {"url": receiver.url, "events": ["*"], "description": "\x1b]0;owned\x07"}).json()
        enabled = run("webhooks", "enable", made["id"])
        assert service.call("DELETE", f"/webhooks/{made['id']}").status_code == 204
    assert (enabled.exit_code, "\x1b" in enabled.output, "owned" in enabled.output) == (0, False, True)


@pytest.fixture
def own_boot(started: AppManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the commands that only look at what has booted."""

    @contextmanager
    def booted() -> Any:
        yield started

    monkeypatch.setattr("core.cli.routes.booted", booted)


@pytest.mark.usefixtures("own_boot")
def test_every_route_is_shown_with_who_may_call_it(started: AppManager, told: Told) -> None:
    rows = told("endpoints")["data"]
    assert len(rows) == len(started.chain.routes)
    assert {"method": "POST", "path": "/wallets/{id}/grants", "roles": "admin,service", "scope": "money", "limit": "money"}.items() <= next(
        row for row in rows if (row["method"], row["path"]) == ("POST", "/wallets/{id}/grants")
    ).items()
    assert next(row for row in rows if row["path"] == "/auth/login")["roles"] == "everyone, without a token"


def test_flasks_own_command_shows_the_same(servers: LocalStack, tmp_path: Path) -> None:
    shown = flask(servers.environ, tmp_path, "routes")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line.split()[:2] for line in shown.stdout.splitlines()[:2]] == [["method", "path"], ["GET", "/"]]


@pytest.mark.usefixtures("own_boot")
def test_plugins_are_shown_and_one_that_is_off_is_a_finding(
    started: AppManager, told: Told, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = told("plugins", "list")["data"]
    assert [(row["plugin"], row["status"], row["built_in"]) for row in rows] == [("main_plugin", "on", True)]
    monkeypatch.setattr(started.plugins["main_plugin"], "error", "ImportError")
    assert run("plugins", "list").exit_code == 1


def test_every_command_states_its_exit_codes_and_can_tell_json() -> None:
    groups = [command for command in COMMANDS if isinstance(command, Group)]
    assert len(groups) >= 8
    for group in groups:
        for name, command in group.commands.items():
            assert command.epilog == EXIT_CODES, name
            assert "--json" in [option for parameter in command.params for option in parameter.opts], f"{group.name} {name}"


def test_a_command_says_in_one_line_that_the_boot_failed(tmp_path: Path) -> None:
    users = next(command for command in COMMANDS if command.name == "users")
    nowhere = {"SECRETS_DIR": str(tmp_path), "MONGODB_URI": "mongodb://127.0.0.1:1/", "LOG_DIR": str(tmp_path), "DATA_DIR": str(tmp_path)}
    ended = CliRunner().invoke(users, ["list"], env=nowhere)
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (3, 1)
