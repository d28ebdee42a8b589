"""`flask doctor`: on servers as they should be nothing fails, and each fault is found by its name, with what to do."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pymongo.database import Database

from core.cli.doctor import doctor
from core.doctor.deployment import wires
from core.doctor.finding import FAIL, OK, WARN
from core.doctor.mongodb import skew
from core.restore_marker import COLLECTION as MARKER
from tests.support.app_server import AppServer
from tests.support.in_process import booted
from tests.support.logs import kept_logging
from tests.support.own_database import own_database
from tools.local_stack import LocalStack
from tools.local_stack.openbao import ROLE
from tools.local_stack.redis_server import RedisServer

Look = Callable[..., tuple[int, dict[str, dict[str, str]]]]
DATABASE = "doctor_looks"
# Why a laptop is no place for production; root is whom containers of a build run things as.
ON_A_LAPTOP = {"mongodb.members", "mongodb.seal_delay", "machine.account", "machine.data_dir", "machine.log_dir"}


@pytest.fixture(scope="module")
def stored(servers: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    with own_database(servers, DATABASE) as database:
        yield database


@pytest.fixture
def look(stored: Database[dict[str, Any]], servers: LocalStack, copied_secrets: Path, tmp_path: Path) -> Look:
    """`look(PORT=1)`: the exit code, and what was found, by the name of the check (the worst, where there are several)."""
    own = {"MONGODB_DATABASE": DATABASE, "LOG_DIR": str(tmp_path), "DATA_DIR": str(tmp_path), "SECRETS_DIR": str(copied_secrets)}

    def look(*, starts: bool = True, **settings: object) -> tuple[int, dict[str, dict[str, str]]]:
        environ = {**servers.environ, **own, **{key: str(value) for key, value in settings.items()}}
        with pytest.MonkeyPatch.context() as patch, kept_logging():
            if not starts:
                # The whole boot costs a second, and most faults are found without it.
                patch.setattr("core.cli.doctor.application", lambda app_manager: ())
            done = CliRunner().invoke(doctor, ["--json"], env=environ)
        assert done.exit_code in (0, 1, 2), done.output
        found = json.loads(done.stdout)["findings"]
        assert all(finding["advice"] for finding in found if finding["state"] != OK)
        order = (OK, WARN, FAIL)
        return done.exit_code, {f["check"]: f for f in sorted(found, key=lambda f: order.index(f["state"]))}

    return look


def states(found: dict[str, dict[str, str]]) -> dict[str, str]:
    """What is not well."""
    return {check: finding["state"] for check, finding in found.items() if finding["state"] != OK}


def test_where_all_is_well_nothing_fails(look: Look) -> None:
    code, found = look()
    assert set(states(found)) <= ON_A_LAPTOP, found
    assert FAIL not in states(found).values()
    assert code == (1 if states(found) else 0)
    assert {"settings", "secrets.modes", "mongodb.read_write.rights", "redis.policy", "application.boot", "machine.port"} <= set(found)


def test_while_every_server_is_down_each_of_them_is_named(look: Look) -> None:
    code, found = look(
        MONGODB_URI="mongodb://127.0.0.1:1/?replicaSet=rs0", REDIS_URL="redis://127.0.0.1:1/0", VAULT_ADDR="http://127.0.0.1:1"
    )
    assert code == 2
    failing = {check for check, state in states(found).items() if state == FAIL}
    assert {
        "settings",
        "mongodb.read_write",
        "mongodb.read_only",
        "mongodb.admin",
        "redis.login",
        "vault.login",
        "application.boot",
    } <= failing
    assert found["machine.port"]["state"] == OK


def test_secrets_that_are_missing_open_or_easily_guessed_are_named_without_their_value(look: Look, copied_secrets: Path) -> None:
    (copied_secrets / "jwt_secret").write_text("ab" * 20)
    (copied_secrets / "encryption_key").write_text("ab" * 20)
    (copied_secrets / "redis_password").chmod(0o644)
    (copied_secrets / "mongodb_user").unlink()
    code, found = look(starts=False)
    assert code == 2
    assert {"settings": FAIL, "secrets.modes": FAIL, "secrets.twins": WARN, "secrets.strength": FAIL}.items() <= states(found).items()
    assert "mongodb_user" in found["settings"]["detail"]
    assert "redis_password" in found["secrets.modes"]["detail"]
    assert "abab" not in json.dumps(found)


def test_a_front_that_lets_too_much_in_is_named(look: Look) -> None:
    lenient = {"RATE_LIMIT_SCALE": 100, "RATE_LIMIT_SHADOW": "all", "WEBHOOK_PRIVATE": 1, "CORS_ORIGINS": "http://example.com"}
    code, found = look(starts=False, HOST="0.0.0.0", **lenient)
    assert code == 1
    assert {"front.proxies": WARN, "front.hosts": WARN, "front.cors": WARN, "settings.lenient": WARN}.items() <= states(found).items()
    assert "sticky" in found["front.workers"]["detail"]
    _, found = look(
        starts=False, HOST="0.0.0.0", PROXY_COUNT=1, TRUSTED_HOSTS="credits.example.com", VAULT_ADDR="http://vault.example.com:8200"
    )
    assert not {"front.proxies", "front.hosts", "front.cors"} & set(states(found))
    assert found["vault.address"]["state"] == FAIL


def test_wires_to_other_machines_need_tls() -> None:
    def found(mongodb: str, redis: str) -> list[str]:
        return [finding.state for finding in wires({"MONGODB_URI": mongodb, "REDIS_URL": redis})]

    assert found("mongodb://127.0.0.1:1/?replicaSet=rs0", "redis://localhost:1/0") == [OK, OK]
    assert found("mongodb://127.0.0.1:1,mongo-2:1/?replicaSet=rs0", "redis://redis:1/0") == [WARN, WARN]
    assert found("mongodb://mongo-1:1,mongo-2:1/?replicaSet=rs0&tls=true", "rediss://redis:1/0") == [OK, OK]


def test_a_machine_that_is_too_small_is_named(look: Look, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    (tmp_path / "file").write_text("")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        _, found = look(starts=False, WORKER_CONNECTIONS=limit, DATA_DIR=str(tmp_path / "file"), PORT=other.getsockname()[1])
    assert {"machine.open_files": FAIL, "machine.data_dir": FAIL, "machine.port": FAIL}.items() <= states(found).items()


def test_our_own_application_may_be_on_the_port(look: Look, server: AppServer) -> None:
    _, found = look(starts=False, PORT=server.port)
    assert found["machine.port"] == {
        "check": "machine.port",
        "state": OK,
        "detail": f"127.0.0.1:{server.port}: the application runs here",
        "advice": "",
    }


def test_rights_that_are_missing_or_too_many_are_named(look: Look, stored: Database[dict[str, Any]]) -> None:
    held = stored.command("rolesInfo", "creditReadWrite", showPrivileges=True)["roles"][0]["privileges"]
    fewer = [each for each in held if each["resource"]["collection"] != "wallets"]
    more = [*held, {"resource": {"db": DATABASE, "collection": "entries"}, "actions": ["update"]}]
    try:
        for privileges, word in ((fewer, "update on wallets"), (more, "append-only: entries")):
            stored.command("updateRole", "creditReadWrite", privileges=privileges)
            _, found = look(starts=False)
            finding = found["mongodb.read_write.rights"]
            assert (finding["state"], word in finding["detail"]) == (FAIL, True), finding
            assert "mongodb-init.js" in finding["advice"]
    finally:
        stored.command("updateRole", "creditReadWrite", privileges=held)


def test_users_without_their_password_or_role_are_named(look: Look, copied_secrets: Path) -> None:
    (copied_secrets / "mongodb_analytics_password").write_text("another one")
    _, found = look(starts=False, MONGODB_DATABASE="nobody_set_this_up")
    assert found["mongodb.read_only"]["state"] == FAIL
    assert found["mongodb.read_write.rights"]["state"] == FAIL


def test_collections_and_indexes_that_are_missing_and_half_a_restore_are_named(look: Look, stored: Database[dict[str, Any]]) -> None:
    stored["bans"].drop_index("forgotten")
    stored["webhooks"].drop()
    stored[MARKER].insert_one({"backup": "backup_1"})
    try:
        code, found = look()
    finally:
        stored[MARKER].drop()
        stored["bans"].create_index("forgotten_at", name="forgotten", expireAfterSeconds=0)
        stored["webhooks"].create_index([("owner_id", 1), ("_id", -1)], name="of_owner")
    assert code == 2
    assert "webhooks" in found["mongodb.collections"]["detail"]
    assert "bans.forgotten" in found["mongodb.indexes"]["detail"]
    assert found["mongodb.restore"]["state"] == FAIL
    assert "half restored" in found["application.boot"]["detail"]


def test_a_redis_that_forgets_or_lets_everybody_in_is_named(look: Look, own_redis: RedisServer, copied_secrets: Path) -> None:
    client = own_redis.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("appendonly", "no")
    _, found = look(starts=False, REDIS_URL=own_redis.url)
    assert {"redis.policy": FAIL, "redis.persistence": WARN}.items() <= states(found).items()
    assert found["redis.password"]["state"] == OK
    client.config_set("requirepass", "")
    _, found = look(starts=False, REDIS_URL=own_redis.url)
    assert found["redis.password"]["state"] == FAIL
    client.config_set("requirepass", "another one")
    _, found = look(starts=False, REDIS_URL=own_redis.url)
    assert (found["redis.login"]["state"], "password" in found["redis.login"]["detail"]) == (FAIL, True)
    client.close()


def test_a_vault_is_asked_for_its_token_and_a_wrapped_id_is_left_for_the_server(look: Look, stack: LocalStack, tmp_path: Path) -> None:
    assert stack.openbao is not None
    secrets = Path(shutil.copytree(stack.secrets.directory, tmp_path / "of-vault"))
    there = {"VAULT_ADDR": stack.environ["VAULT_ADDR"], "SECRETS_DIR": secrets}
    _, found = look(starts=False, **there)
    assert found["vault.login"]["detail"] == "by AppRole"
    assert "root" not in found["vault.policies"]["detail"]
    assert "renewable" in found["vault.token"]["detail"]
    (secrets / "vault_secret_id").write_text("no such id")
    _, found = look(starts=False, **there)
    assert found["vault.login"]["state"] == FAIL
    wrapped = stack.openbao.client().auth.approle.generate_secret_id(ROLE, wrap_ttl="60s")["wrap_info"]["token"]
    (secrets / "vault_secret_id").unlink()
    (secrets / "vault_wrapped_secret_id").write_text(wrapped)
    _, found = look(starts=False, **there)
    assert found["vault.login"]["state"] == OK
    assert stack.openbao.client().sys.unwrap(wrapped)["data"]["secret_id"]


def test_the_first_admins_first_password_and_pending_migrations_are_named(
    look: Look, stored: Database[dict[str, Any]], servers: LocalStack, tmp_path: Path
) -> None:
    with booted({**servers.environ, "MONGODB_DATABASE": DATABASE}, tmp_path) as app_manager:
        app_manager.prepare()
    stored["audit_logs"].update_many({}, {"$unset": {"stamp": ""}})
    stored["migrations"].delete_many({})
    _, found = look()
    assert found["application.first_admin"]["state"] == WARN
    assert found["application.migrations"]["state"] == WARN


def test_a_clock_that_is_off_is_named() -> None:
    assert skew("c", 100.0, 99.0, 101.0).state == OK
    assert skew("c", 97.0, 99.0, 101.0).state == WARN
    assert skew("c", 200.0, 99.0, 101.0).state == FAIL


def test_people_get_lines_and_only_what_is_not_well_when_they_say_so(
    servers: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.cli.doctor.application", lambda app_manager: ())
    environ = {**servers.environ, "LOG_DIR": str(tmp_path), "DATA_DIR": str(tmp_path), "RATE_LIMIT_SHADOW": "all"}
    with kept_logging():
        done = CliRunner().invoke(doctor, ["--quiet"], env=environ)
    assert done.exit_code == 1
    assert "warn  settings.lenient: RATE_LIMIT_SHADOW=all: nobody is limited or banned\n      Leave" in done.stdout
    assert "ok  " not in done.stdout
