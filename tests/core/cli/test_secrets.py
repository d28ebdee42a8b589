"""`flask secrets`: files are made once, what is wrong with one is named, and passwords change while clients use them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pymongo import MongoClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from core.cli.secrets import secrets
from core.managers.base import BootError
from tests.support.in_process import Managers
from tools.local_stack import LocalStack
from tools.local_stack.redis_server import RedisServer
from utils.config.config import SETTINGS, ConfigError, load_config
from utils.keys import ring_lines
from utils.secret_files import COMPOSE, PLACEHOLDER

Command = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture
def flask(folder: Path) -> Command:
    def flask(*words: str, **environ: str) -> Result:
        return CliRunner().invoke(secrets, words, env={"SECRETS_DIR": str(folder), "VAULT_ADDR": "", **environ})

    return flask


def problems(result: Result) -> dict[str, str]:
    return {row["name"]: row["problem"] for row in json.loads(result.stdout)["problems"]}


# init


def test_init_makes_every_file_once_for_its_owner_only(flask: Command, folder: Path) -> None:
    made = json.loads(flask("init", "--admin-email", "root@example.org", "--json").stdout)
    assert (made["made"], made["kept"], made["placeholders"]) == (list(COMPOSE), [], ["smtp_password", "slack_webhook_url"])
    files = {name: (folder / name).read_text() for name in COMPOSE}
    assert files["admin_email"] == "root@example.org"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in COMPOSE} == {0o600}
    (folder / "jwt_secret").unlink()
    again = json.loads(flask("init", "--admin-email", "other@example.org", "--json").stdout)
    assert again["made"] == ["jwt_secret"]
    assert {name: (folder / name).read_text() for name in COMPOSE if name != "jwt_secret"} == {
        name: text for name, text in files.items() if name != "jwt_secret"
    }


def test_what_init_makes_is_all_that_the_application_needs(flask: Command, folder: Path) -> None:
    flask("init")
    config = load_config(None, {"SECRETS_DIR": str(folder)})
    assert all(config[setting.key] for setting in SETTINGS if setting.secret and setting.required)


def test_containers_of_other_users_read_by_a_group(flask: Command, folder: Path) -> None:
    group = str(os.getgid())
    assert flask("init", "--group", group).exit_code == 0
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in COMPOSE} == {0o640}
    assert set(problems(flask("check", "--json", "--stack", "--group", group))) == {"smtp_password", "slack_webhook_url"}
    closed = problems(flask("check", "--json", "--stack"))
    assert set(closed) == set(COMPOSE)
    assert closed["jwt_secret"].startswith(f"open to the group {group}: ")


# check


def test_check_names_each_thing_that_is_wrong(flask: Command, folder: Path) -> None:
    flask("init")
    for name in ("smtp_password", "slack_webhook_url"):
        (folder / name).write_text("a real one")
    fine = flask("check", "--stack")
    assert (fine.exit_code, fine.stdout) == (0, f"{folder}: all is well\n")
    (folder / "redis_password").unlink()
    (folder / "mongodb_keyfile").unlink()
    (folder / "jwt_secret").write_text("short")
    (folder / "encryption_key").chmod(0o604)
    (folder / "mongodb_user").write_bytes(b"\xff")
    (folder / "slack_webhook_url").write_text(PLACEHOLDER)
    (folder / "jwt_secrets").write_text("a typing error")
    found = flask("check", "--json", "--stack")
    assert found.exit_code == 1
    assert problems(found) == {
        "redis_password": "missing",
        "mongodb_keyfile": "missing",
        "encryption_key": f"open to every user of this machine: chmod o= {folder / 'encryption_key'}",
        "jwt_secret": "shorter than 32 characters",
        "jwt_secrets": "unknown: no setting has it",
        "mongodb_user": "unreadable: UnicodeDecodeError",
        "slack_webhook_url": "a placeholder: write the real one",
    }
    # Where only the application runs, nobody misses what the servers have.
    assert "mongodb_keyfile" not in problems(flask("check", "--json"))


def test_with_vault_only_its_ids_are_needed(flask: Command, folder: Path) -> None:
    folder.mkdir()
    (folder / "vault_role_id").write_text("a role")
    assert problems(flask("check", "--json", VAULT_ADDR="http://127.0.0.1:1")) == {"vault_secret_id": "missing"}


def test_a_folder_that_is_not_there_is_said_in_one_line(flask: Command, folder: Path) -> None:
    done = flask("check")
    assert (done.exit_code, done.stderr) == (1, f"Error: {folder}: No such file or directory\n")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o444, 0o666])
def test_nothing_starts_on_a_secret_that_is_everybodys(flask: Command, folder: Path, mode: int) -> None:
    flask("init")
    (folder / "jwt_secret").chmod(mode)
    with pytest.raises(ConfigError, match=r"^secret jwt_secret: every user of this machine may read or change "):
        load_config(None, {"SECRETS_DIR": str(folder)})
    (folder / "jwt_secret").chmod(0o440)
    load_config(None, {"SECRETS_DIR": str(folder)})


# rotate


def test_key_rings_get_a_new_key_in_the_place_where_it_does_no_harm(flask: Command, folder: Path) -> None:
    flask("init")
    before = {name: (folder / name).read_text().strip() for name in ("jwt_secret", "encryption_key", "redis_encryption_key")}
    assert "flask keys promote jwt" in flask("rotate", "jwt_secret").stdout
    flask("rotate", "encryption_key")
    flask("rotate", "redis_encryption_key")
    after = {name: ring_lines((folder / name).read_text()) for name in before}
    assert {name: len(lines) for name, lines in after.items()} == dict.fromkeys(before, 2)
    # The first one signs and encrypts, which workers that have not read the new one could not follow; Redis may forget.
    assert (after["jwt_secret"][0], after["encryption_key"][0]) == (before["jwt_secret"], before["encryption_key"])
    assert after["redis_encryption_key"][1] == before["redis_encryption_key"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("mongodb_keyfile", "restart the members one by one"), ("tls_certificate", "USR2"), ("nothing", "cannot be replaced here")],
)
def test_what_cannot_be_done_from_here_is_said_step_by_step(flask: Command, folder: Path, name: str, words: str) -> None:
    flask("init")
    before = {path.name: path.read_text() for path in folder.iterdir()}
    done = flask("rotate", name)
    assert (done.exit_code, words in done.stderr) == (1, True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert "in Vault" in flask("rotate", "redis_password", VAULT_ADDR="http://127.0.0.1:1").stderr


def test_the_password_of_redis_changes_under_its_clients(own_redis: RedisServer, copied_secrets: Path) -> None:
    environ = {"SECRETS_DIR": str(copied_secrets), "REDIS_URL": own_redis.url, "VAULT_ADDR": ""}
    old = (copied_secrets / "redis_password").read_text()

    def logs_in(password: str) -> bool:
        with Redis(port=own_redis.port, password=password, retry=Retry(NoBackoff(), 0)) as client:
            try:
                return bool(client.ping())
            except AuthenticationError:
                return False

    assert CliRunner().invoke(secrets, ["rotate", "redis_password"], env=environ).exit_code == 0
    new = (copied_secrets / "redis_password").read_text()
    assert (old != new, logs_in(old), logs_in(new)) == (True, True, True)
    done = CliRunner().invoke(secrets, ["rotate", "redis_password", "--finish"], env=environ)
    assert (done.exit_code, done.stdout) == (0, "Redis accepts the new password only.\n")
    assert (logs_in(old), logs_in(new)) == (False, True)
    assert not [secret for secret in (old, new) if secret in done.output]


def test_a_second_user_takes_the_place_of_the_first(servers: LocalStack, copied_secrets: Path) -> None:
    environ = {**servers.environ, "SECRETS_DIR": str(copied_secrets), "VAULT_ADDR": ""}
    names = ("mongodb_analytics_user", "mongodb_analytics_password")
    old = [(copied_secrets / name).read_text() for name in names]
    begun = CliRunner().invoke(secrets, ["rotate", "mongodb_analytics_password"], env=environ)
    assert begun.exit_code == 0, begun.output
    new = [(copied_secrets / name).read_text() for name in names]
    assert new[0].startswith(f"{old[0]}-")
    roles = [{(role["role"], role["db"]) for role in user_of(servers, name)["roles"]} for name in (old[0], new[0])]
    assert roles[0] == roles[1]
    # Workers from before and after; and once all are of after, the other one goes. Here it stays: others use it.
    Managers({**environ, "SECRETS_DIR": servers.environ["SECRETS_DIR"]}, "encryption", "database").dispose()
    Managers(environ, "encryption", "database").dispose()
    with root_of(servers) as root:
        root.admin.command("createUser", "bystander", pwd="x" * 12, roles=[])
        root.admin.command("updateUser", new[0], customData={"replaces": "bystander"})
    done = CliRunner().invoke(secrets, ["rotate", "mongodb_analytics_password", "--finish"], env=environ)
    assert (done.exit_code, done.stdout) == (0, "The user bystander is gone.\n")
    again = CliRunner().invoke(secrets, ["rotate", "mongodb_analytics_password", "--finish"], env=environ)
    assert (again.exit_code, again.stderr) == (1, f"Error: mongodb: {new[0]} replaces nobody\n")
    with root_of(servers) as root:
        root.admin.command("dropUser", new[0])
    with pytest.raises(BootError, match="log-in refused"):
        Managers(environ, "encryption", "database")


def root_of(servers: LocalStack) -> MongoClient[dict[str, Any]]:
    assert servers.mongod is not None
    return servers.mongod.client()


def user_of(servers: LocalStack, name: str) -> dict[str, Any]:
    with root_of(servers) as root:
        user: dict[str, Any] = root.admin.command("usersInfo", name)["users"][0]
        return user
