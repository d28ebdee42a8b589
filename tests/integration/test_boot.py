"""The boot: one line a stage, one clear line when it fails, and the three ways in which the application can be started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from pymongo import MongoClient

from core.managers.app_manager import BOOT_ORDER
from tests.support.app_server import ROOT, AppServer, free_port
from tests.support.client import Client
from tests.support.polling import eventually
from tools.local_stack import LocalStack
from tools.local_stack.dev_secrets import VAULT, SecretFiles
from tools.local_stack.mongod import find_mongod
from tools.local_stack.openbao import APP_PATH, OpenBao
from tools.local_stack.process import Process
from tools.local_stack.redis_server import RedisServer

STOP_SECONDS = 5
# Short secrets, and names that are no secrets, may well stand in a line for another reason.
_TELLING_LENGTH = 12


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def secret_values(folder: Path) -> list[str]:
    texts = [path.read_bytes().decode(errors="ignore").strip() for path in folder.iterdir() if path.is_file()]
    return [text for text in texts if len(text) >= _TELLING_LENGTH]


def copy_secrets(servers: LocalStack, to: Path) -> Path:
    return Path(shutil.copytree(servers.environ["SECRETS_DIR"], to))


# Boots that must fail


@dataclass(frozen=True)
class Others:
    """Servers that answer, and that no boot may accept; `secrets` opens them."""

    secrets: Path
    evicting_redis: str
    standalone_mongodb: str
    vault: str


@dataclass
class Attempt:
    """What one boot gets to see; a case spoils it."""

    secrets: Path
    others: Others
    environ: dict[str, str]

    def write(self, secret: str, text: str) -> None:
        (self.secrets / secret).write_text(text)


@dataclass(frozen=True)
class Ending:
    """How a boot ended. `spoken`: what it printed and logged."""

    code: int
    spoken: str
    listened: bool
    secrets: list[str] = field(repr=False)


Spoil = Callable[[Attempt], None]


def without(secret: str) -> Spoil:
    return lambda attempt: (attempt.secrets / secret).unlink()


def unreadable(secret: str) -> Spoil:
    def spoil(attempt: Attempt) -> None:
        # A folder in its place: root, who runs tests in containers, reads files of any mode.
        (attempt.secrets / secret).unlink()
        (attempt.secrets / secret).mkdir()

    return spoil


def with_secret(secret: str, text: str) -> Spoil:
    return lambda attempt: attempt.write(secret, text)


def with_settings(**settings: str) -> Spoil:
    return lambda attempt: attempt.environ.update(settings)


def with_vault(secret_id: str | None = None, *, away: bool = False) -> Spoil:
    def spoil(attempt: Attempt) -> None:
        attempt.environ["VAULT_ADDR"] = "http://127.0.0.1:1" if away else attempt.others.vault
        if secret_id is not None:
            attempt.write("vault_secret_id", secret_id)

    return spoil


def with_wrapped_secret_id(attempt: Attempt) -> None:
    with_vault()(attempt)
    without("vault_secret_id")(attempt)
    attempt.write("vault_wrapped_secret_id", "s.0123456789abcdefghijklmn")


def without_vault_secret_id(attempt: Attempt) -> None:
    with_vault()(attempt)
    without("vault_secret_id")(attempt)


def on_evicting_redis(attempt: Attempt) -> None:
    attempt.environ["REDIS_URL"] = attempt.others.evicting_redis


def on_standalone_mongodb(attempt: Attempt) -> None:
    attempt.environ["MONGODB_URI"] = attempt.others.standalone_mongodb


def on_standalone_mongodb_as_a_set(attempt: Attempt) -> None:
    attempt.environ["MONGODB_URI"] = f"{attempt.others.standalone_mongodb}?replicaSet=rs0"


# What is wrong, and what the one line must say about it.
CASES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing secret": (without("jwt_secret"), ("missing secret jwt_secret", "SECRETS_DIR")),
    "unreadable secret": (unreadable("redis_password"), ("secret redis_password", "cannot read")),
    "short secret": (with_secret("encryption_key", "too-short-to-be-safe"), ("secret encryption_key", "shorter than 32")),
    "missing vault secret id": (without_vault_secret_id, ("missing secret vault_secret_id",)),
    "wrong vault secret id": (with_vault("0b5d6c6a-not-this-one"), ("01/11 vault", "log-in refused", "vault_secret_id")),
    "wrapped secret id spent": (
        with_wrapped_secret_id,
        ("01/11 vault", "vault_wrapped_secret_id was unwrapped before, or has expired"),
    ),
    "vault away": (with_vault(away=True), ("01/11 vault", "127.0.0.1:1", "does not answer")),
    "mongodb away": (
        with_settings(MONGODB_URI="mongodb://127.0.0.1:1/?replicaSet=rs0", MONGODB_TIMEOUT="0.5"),
        ("02/11 database", "127.0.0.1:1", "not reachable"),
    ),
    "wrong mongodb password": (
        with_secret("mongodb_password", "certainly-not-this-password"),
        ("02/11 database", "log-in refused", "mongodb_user"),
    ),
    "standalone mongod": (on_standalone_mongodb, ("02/11 database", "not a replica set")),
    "standalone mongod named as a set": (on_standalone_mongodb_as_a_set, ("02/11 database", "no member of the replica set")),
    "redis away": (with_settings(REDIS_URL="redis://127.0.0.1:1/0"), ("03/11 redis", "127.0.0.1:1", "not reachable")),
    "wrong redis password": (
        with_secret("redis_password", "certainly-not-this-password"),
        ("03/11 redis", "password refused", "redis_password"),
    ),
    "evicting redis": (on_evicting_redis, ("03/11 redis", "allkeys-lru", "noeviction")),
    "bad setting": (with_settings(JWT_ACCESS_TTL="soon"), ("settings", "JWT_ACCESS_TTL", "integer")),
    "bad choice": (with_settings(ASYNC_MODE="fast"), ("settings", "ASYNC_MODE", "eventlet")),
    "PORT that is no number": (with_settings(PORT="http"), ("settings", "PORT", "integer")),
    "PORT that is no port": (with_settings(PORT="70000"), ("settings", "PORT", "65535")),
    "CORS for everyone": (with_settings(CORS_ORIGINS="*"), ("CORS_ORIGINS", "'*'")),
}


@pytest.fixture(scope="module")
def others(servers: LocalStack, secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Others]:
    folder = tmp_path_factory.mktemp("others")
    secrets = SecretFiles(copy_secrets(servers, folder / "secrets"))
    secrets.create_missing(VAULT)
    redis = RedisServer(folder, secrets)
    vault = OpenBao(folder, secrets)
    mongod = Process("standalone", folder / "standalone.log")
    try:
        redis.start()
        with redis.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        vault.start()
        yield Others(secrets.directory, redis.url, start_standalone(mongod, folder / "standalone", secrets), vault.url)
    finally:
        redis.stop()
        vault.stop()
        mongod.stop()


def start_standalone(process: Process, home: Path, secrets: SecretFiles) -> str:
    """A mongod without a replica set that knows our users; its address."""
    home.mkdir()
    port = free_port()
    cache = ("--wiredTigerCacheSizeGB", "0.25")
    process.start([find_mongod(), "--dbpath", home, "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket", *cache])
    process.wait_until(lambda: is_listening(port), 30)
    with MongoClient("127.0.0.1", port, directConnection=True) as client:
        for user in ("mongodb_user", "mongodb_analytics_user", "mongodb_admin_user"):
            password = secrets[user.replace("_user", "_password")]
            client["admin"].command("createUser", secrets[user], pwd=password, roles=["root"])
    return f"mongodb://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def endings(servers: LocalStack, others: Others, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """All boots of CASES, some at a time: each takes two seconds, most of them imports."""
    folder = tmp_path_factory.mktemp("endings")
    with ThreadPoolExecutor(3) as pool:
        runs = {name: pool.submit(attempt_boot, servers, others, folder / name.replace(" ", "-"), name) for name in CASES}
    return {name: run.result() for name, run in runs.items()}


def attempt_boot(servers: LocalStack, others: Others, folder: Path, name: str) -> Ending:
    own_secrets = Path(shutil.copytree(others.secrets, folder / "secrets"))
    attempt = Attempt(own_secrets, others, {})
    CASES[name][0](attempt)
    server = AppServer({**servers.environ, "SECRETS_DIR": str(own_secrets)}, folder / "app")
    server.environ.update(attempt.environ)
    process = server.spawn()
    port = int(server.environ["PORT"]) if server.environ["PORT"] == str(server.port) else server.port
    listened = False
    give_up = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < give_up:
        listened = listened or is_listening(port)
        time.sleep(0.02)
    if process.poll() is None:
        server.stop()
        return Ending(0, server.log_text(), True, [])
    return Ending(process.returncode, server.log_text(), listened, secret_values(own_secrets))


@pytest.mark.parametrize("name", CASES)
def test_a_boot_that_cannot_succeed_ends_with_one_line_that_says_what_and_where(name: str, endings: dict[str, Ending]) -> None:
    ending = endings[name]
    lines = [line for line in ending.spoken.splitlines() if "boot failed" in line]
    assert ending.code not in (0, None)
    assert len(lines) == 1, ending.spoken
    assert lines[0].startswith("boot failed: "), lines
    for word in CASES[name][1]:
        assert word in lines[0]
    assert "Traceback" not in ending.spoken
    assert not ending.listened, "something listened on the port meanwhile"
    assert not [secret for secret in ending.secrets if secret in ending.spoken], "a secret was printed"


# Boots that succeed


def test_every_stage_of_the_boot_says_in_order_that_it_is_ready(server: AppServer, secrets_dir: Path) -> None:
    text = server.output.read_text()
    rehearsal = re.findall(r"(\d\d)/(\d\d) (\w+) ready \d+ ms", text)[: len(BOOT_ORDER)]
    expected = [(f"{number:02d}", f"{len(BOOT_ORDER):02d}", manager.name) for number, manager in enumerate(BOOT_ORDER, 1)]
    assert rehearsal == expected
    assert not [secret for secret in secret_values(secrets_dir) if secret in server.log_text()]


def test_more_apps_boot_on_prepared_databases_and_share_what_is_there(
    server: AppServer, servers: LocalStack, admin: Client, alice: Client, tmp_path: Path
) -> None:
    others = [AppServer(servers.environ, tmp_path / name, WORKERS=1) for name in ("second", "third")]
    try:
        # Both at a time: nodes behind a load balancer start together.
        for other in others:
            other.spawn()
        for other in others:
            eventually(other.is_ready, 40)
        there = Client.login(others[0].url, alice.user["username"])
        admin.grant(there.wallet()["id"], 70)
        alice.url = others[1].url
        assert there.wallet()["settled"] == alice.wallet()["settled"] == 70
    finally:
        codes = [other.stop() for other in others]
    assert codes == [0, 0]


def test_settings_come_from_vault_first_and_the_log_says_so(servers: LocalStack, secrets_dir: Path, tmp_path: Path) -> None:
    secrets = copy_secrets(servers, tmp_path / "secrets")
    foreign = {"mongodb_uri": servers.environ["MONGODB_URI"], "redis_url": servers.environ["REDIS_URL"]}
    with LocalStack(tmp_path / "stack", secrets, vault=True, **foreign) as stack:
        assert stack.openbao is not None
        held = stack.openbao.client().secrets.kv.v2.read_secret_version(path=APP_PATH, raise_on_deleted_version=True)["data"]["data"]
        # No secret: any setting may lie there too. The files are wrong now, so that only Vault's values work.
        stack.openbao.client().secrets.kv.v2.create_or_update_secret(APP_PATH, secret={**held, "jwt_issuer": "issuer-from-vault"})
        for name in held:
            (secrets / name).write_text("a file that must not win against vault")
        with AppServer(stack.environ, tmp_path / "app", WORKERS=1, JWT_ISSUER="issuer-from-environment") as server:
            Client.register(server.url)
            spoken = server.log_text()
            health = requests.get(f"{server.url}/health", timeout=10).json()["managers"]["vault"]
    assert "setting JWT_ISSUER = issuer-from-vault (vault)" in spoken
    for name in ("MONGODB_PASSWORD", "REDIS_PASSWORD", "JWT_SECRET", "ENCRYPTION_KEY"):
        assert f"setting {name} = ******** (vault)" in spoken
    assert not [value for value in [*held.values(), *secret_values(secrets)] if len(value) >= _TELLING_LENGTH and value in spoken]
    assert (health["status"], health["enabled"], health["sealed"]) == ("healthy", True, False)


# python app.py


@pytest.mark.parametrize(
    ("number", "mode"),
    [(signal.SIGTERM, "eventlet"), (signal.SIGINT, "eventlet"), (signal.SIGTERM, "gevent")],
    ids=["SIGTERM", "SIGINT", "SIGTERM on gevent"],
)
def test_python_app_py_serves_and_stops_cleanly(servers: LocalStack, tmp_path: Path, number: signal.Signals, mode: str) -> None:
    server = AppServer(servers.environ, tmp_path, ASYNC_MODE=mode)
    with server.output.open("ab") as output:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=server.environ, stdout=output, stderr=output)
    try:
        eventually(server.is_ready, 40, unless=lambda: process.poll() is not None)
        user = Client.register(server.url)
        assert user.wallet()["settled"] == 0
        process.send_signal(number)
        assert process.wait(STOP_SECONDS) == 0, server.output.read_text()
    finally:
        process.kill()
    assert "Traceback" not in server.output.read_text()
    assert not is_listening(server.port)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"ASYNC_MODE": "fast"}, "ASYNC_MODE"), ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "03/11 redis")],
    ids=["bad mode", "redis away"],
)
def test_python_app_py_fails_with_one_line_too(servers: LocalStack, tmp_path: Path, settings: dict[str, str], word: str) -> None:
    environ = {**AppServer(servers.environ, tmp_path).environ, **settings}
    ended = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode != 0
    lines = [line for line in ended.stderr.splitlines() if line.startswith("boot failed: ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in ended.stderr


# The app manager in a process of one's own


SCRIPTS = {
    "without an app": """
        from core.managers.app_manager import AppManager

        manager = AppManager()
        assert manager.initialize() is True
        assert manager.app is not None
    """,
    "with an app": """
        from flask import Flask
        from core.managers.app_manager import AppManager

        app = Flask("mine")
        app.add_url_rule("/mine", "mine", lambda: "my own route")
        manager = AppManager()
        assert manager.initialize(app) is True
        assert manager.app is app
        assert app.test_client().get("/mine").text == "my own route"
    """,
}
REST = """
        client = manager.app.test_client()
        ready = client.get("/health/ready")
        assert ready.status_code == 200, ready.text
        health = client.get("/health").get_json()
        assert health["status"] == "healthy", health
        assert len(health["managers"]) == 11
        manager.dispose()
        manager.dispose()
        assert not [t for t in __import__("threading").enumerate() if t.name in ("posting-engine", "socket-keeper")]
        print("all well")
"""


@pytest.mark.parametrize("form", SCRIPTS)
def test_the_app_manager_initializes_in_process(servers: LocalStack, tmp_path: Path, form: str) -> None:
    script = textwrap.dedent(SCRIPTS[form]) + textwrap.dedent(REST)
    environ: dict[str, Any] = {**os.environ, **servers.environ, "LOG_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=40, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "all well"
