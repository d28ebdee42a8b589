"""The whole server on Vault: ids that open it once for four workers, a Vault that goes away, and secrets that change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.app_server import AppServer
from tests.support.client import Client
from tests.support.polling import assert_gone, eventually
from tools.local_stack import LocalStack
from tools.local_stack.openbao import APP_PATH, ROLE, OpenBao

WORKERS = 4


@pytest.fixture(scope="module")
def stack(servers: LocalStack, secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("vault")
    shutil.copytree(secrets_dir, folder / "secrets")
    theirs = {"mongodb_uri": servers.environ["MONGODB_URI"], "redis_url": servers.environ["REDIS_URL"]}
    with LocalStack(folder / "data", folder / "secrets", vault=True, **theirs) as running:
        yield running


@pytest.fixture(scope="module")
def bao(stack: LocalStack) -> OpenBao:
    assert stack.openbao is not None
    return stack.openbao


@pytest.fixture(scope="module")
def ids(stack: LocalStack, bao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only secret files: a role id, and a wrapped secret id that is good for one log-in."""
    folder = tmp_path_factory.mktemp("ids")
    wrapped = bao.client().adapter.post(f"/v1/auth/approle/role/{ROLE}/secret-id", json={"num_uses": 1}, wrap_ttl="300s")
    shutil.copy(stack.secrets.directory / "vault_role_id", folder)
    (folder / "vault_wrapped_secret_id").write_text(wrapped["wrap_info"]["token"])
    return folder


@pytest.fixture(scope="module")
def server(stack: LocalStack, ids: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    quick = {"VAULT_CACHE_TTL": 0.2, "VAULT_MAX_AGE": 4, "SETTINGS_REFRESH": 0.5}
    environ = {**stack.environ, "SECRETS_DIR": str(ids)}
    with AppServer(environ, tmp_path_factory.mktemp("on-vault"), WORKERS=WORKERS, **quick) as running:
        yield running


def health_of_vault(server: AppServer) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{server.url}/health", timeout=10).json()["managers"]["vault"]
    return answer


def checks_of(server: AppServer) -> tuple[int, dict[str, str]]:
    answer = requests.get(f"{server.url}/health/ready", timeout=10)
    return answer.status_code, answer.json()["checks"]


def test_one_use_of_a_wrapped_secret_id_opens_vault_for_all_workers(server: AppServer) -> None:
    # The first of them says ready for all.
    eventually(lambda: len(server.workers()) == WORKERS, 20)
    assert all(Client.register(server.url).wallet()["settled"] == 0 for _ in range(WORKERS))
    health = health_of_vault(server)
    assert (health["status"], health["enabled"], health["sealed"]) == ("healthy", True, False)


def test_a_worker_that_is_replaced_needs_no_further_use(server: AppServer) -> None:
    # The rehearsal and each worker; the console has the same lines again.
    eventually(lambda: boots(server) == 1 + WORKERS, 20)
    victim = server.workers()[0]
    server.kill_worker()
    assert_gone([victim], 5)
    eventually(lambda: len(server.workers()) == WORKERS, 20)
    eventually(lambda: boots(server) == 1 + WORKERS + 1, 20)
    assert "boot failed" not in server.log_text()


def boots(server: AppServer) -> int:
    return (server.log_dir / "server.log").read_text().count("11/11 module ready")


def test_the_shared_log_in_is_in_memory_alone(server: AppServer, ids: Path) -> None:
    worker = server.workers()[0]
    shared = json.loads(Path(f"/proc/{worker.pid}/fd/{memory_of(worker.pid)}").read_bytes())
    assert set(shared) == {"token", "secret_id", "wrapped"}
    files = [path for folder in (server.folder, ids) for path in folder.rglob("*") if path.is_file()]
    told = b"".join(path.read_bytes() for path in files if path.name != "vault_wrapped_secret_id")
    told += str([(each.environ(), each.cmdline()) for each in server.workers()]).encode()
    assert not [name for name, value in shared.items() if value.encode() in told]


def memory_of(pid: int) -> str:
    found = [path.name for path in Path(f"/proc/{pid}/fd").iterdir() if "memfd:vault-handover" in os.readlink(path)]
    assert len(found) == 1
    return found[0]


def test_it_serves_while_vault_is_sealed_and_is_not_ready_when_that_takes_too_long(server: AppServer, bao: OpenBao) -> None:
    user = Client.register(server.url)
    bao.seal()
    try:
        eventually(lambda: health_of_vault(server)["status"] == "degraded", 10)
        assert user.wallet()["settled"] == 0
        eventually(lambda: checks_of(server) == (503, {"database": "healthy", "redis": "healthy", "vault": "unhealthy"}), 20)
        assert user.wallet()["settled"] == 0, "not ready, but what runs goes on"
    finally:
        bao.unseal()
    eventually(lambda: all(server.is_ready() for _ in range(WORKERS)), 20)


def test_a_change_in_vault_is_noticed_and_a_broken_one_harms_nobody(server: AppServer, bao: OpenBao) -> None:
    kv = bao.client().secrets.kv.v2
    held = kv.read_secret_version(path=APP_PATH, raise_on_deleted_version=True)["data"]["data"]
    try:
        kv.create_or_update_secret(APP_PATH, secret={**held, "encryption_key": "short"})
        complaint = "changed settings cannot be used, the old ones stay: secret encryption_key: shorter than 32 characters"
        eventually(lambda: server.log_text().count(complaint) >= WORKERS, 20)
        kv.create_or_update_secret(APP_PATH, secret={**held, "jwt_issuer": "changed"})
        eventually(lambda: "setting JWT_ISSUER has changed, which takes effect at the next start" in server.log_text(), 20)
        assert Client.register(server.url).wallet()["settled"] == 0
    finally:
        kv.create_or_update_secret(APP_PATH, secret=held)
