"""The compose stack, rehearsed: its programs run natively with its own commands, environments and files, and serve through the front."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests
import socketio
from click.testing import CliRunner
from pymongo import MongoClient
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from core.cli.secrets import check, init
from tests.support.app_server import ROOT, free_port
from tests.support.client import Client
from tests.support.compose import Rehearsal
from tests.support.polling import eventually
from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.mongo_init import apply_access
from tools.local_stack.replica_set import ensure_replica_set, join, wait_for_member
from utils.collections import apply_collections

COPIES = ["app1", "app2", "app3", "app4"]
MEMBERS = ["mongodb1", "mongodb2", "mongodb3"]
WATCHERS = ["prometheus", "alertmanager"]
# So that nobody waits here for what takes place every 15 seconds there.
QUICKER = {"scrape_interval: 15s": "scrape_interval: 1s", "scrape_timeout: 10s": "scrape_timeout: 1s"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an operator makes them."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    made = CliRunner().invoke(init, ["--host", "127.0.0.1", "--group", str(os.getgid())], env={"SECRETS_DIR": str(folder)})
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture(scope="module")
def stack(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """All of it, with OpenBao, in the order of compose; requests of this module trust its certificate."""
    folder = tmp_path_factory.mktemp("rehearsal")
    files = ("docker-compose.yml", "docker-compose.vault.yml")
    running = Rehearsal(folder, secrets, *files, quicker=QUICKER, PUBLIC_HOST="credits.example.com", SECRETS_FOLDER=str(secrets))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(secrets / "tls_certificate"))
        try:
            running.start([*MEMBERS, "redis", "openbao"])
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda set_up: set_up(running, secrets), (set_vault_up, set_mongodb_up)))
            running.start(COPIES)
            running.start(["haproxy", *WATCHERS])
            eventually(lambda: all(running.is_ready(name) for name in COPIES), 60)
            yield running
        finally:
            running.stop()


def set_mongodb_up(stack: Rehearsal, secrets: Path) -> None:
    """By the script of compose where there is mongosh; else by what the local stack does instead of it."""
    if shutil.which("mongosh"):
        done = stack.run("mongodb-init")
        assert "is up to date" in done.stdout, done.stdout + done.stderr
        return
    files = SecretFiles(secrets)
    ports = [int(stack.address(name, 27017).rpartition(":")[2]) for name in MEMBERS]
    ensure_replica_set(ports[0], files["mongodb_root_password"])
    for number, port in enumerate(ports[1:], 2):
        join(ports[0], port, number, files["mongodb_root_password"])
        wait_for_member(port)
    with root_of(stack, secrets) as client:
        apply_collections(client["credit_system"])
        apply_access(client, "credit_system", files)


def set_vault_up(stack: Rehearsal, secrets: Path) -> None:
    """What an operator does once: unseal it, and run the script that puts the secrets in."""
    client = hvac.Client(url=f"http://{stack.address('openbao', 8200)}", timeout=10)
    keys = client.sys.initialize(secret_shares=1, secret_threshold=1)
    client.sys.submit_unseal_key(keys["keys"][0])
    eventually(lambda: not client.sys.is_sealed() and client.ha_status["is_self"], 20)
    stack.services["openbao-setup"]["command"] = ["sh /etc/openbao/setup.sh"]
    stack.services["openbao-setup"]["environment"]["BAO_TOKEN"] = keys["root_token"]
    done = stack.run("openbao-setup")
    assert done.returncode == 0, done.stdout + done.stderr


def root_of(stack: Rehearsal, secrets: Path) -> MongoClient[dict[str, Any]]:
    """MongoDB as its root sees it."""
    hosts = ",".join(stack.address(name, 27017) for name in MEMBERS)
    return MongoClient(f"mongodb://{hosts}/?replicaSet=rs0", username="root", password=(secrets / "mongodb_root_password").read_text())


@pytest.fixture(scope="module")
def url(stack: Rehearsal) -> str:
    """The front, over TLS, once it has found its copies."""
    front = f"https://{stack.address('haproxy', 8443)}"
    named = {"Host": "credits.example.com"}
    eventually(lambda: requests.get(f"{front}/health/ready", headers=named, timeout=10).status_code == 200, 60)
    return front


def test_a_transfer_over_tls_is_told_to_a_stock_client(url: str, secrets: Path) -> None:
    admin, alice, bob = Client.admin(url, secrets), Client.register(url), Client.register(url)
    admin.grant(alice.wallet()["id"], 1000)
    session = requests.Session()
    session.verify = str(secrets / "tls_certificate")
    heard: list[dict[str, Any]] = []
    # It polls at first, and so has to reach the same copy each time.
    with socketio.SimpleClient(http_session=session) as listener:
        listener.connect(url, auth={"token": bob.token})
        transfer = {"source": alice.wallet()["id"], "destination": bob.wallet()["id"], "amount": 250}
        answer = alice.call("POST", "/transfers", transfer, key="first")
        assert answer.status_code == 201, answer.text
        while not heard:
            event, *data = listener.receive(timeout=10)
            heard += data if event == "wallet_updated" else []
    assert (alice.wallet()["available"], bob.wallet()["available"]) == (750, 250)
    assert heard[0]["available"] == 250


def test_only_tls_is_served_and_only_under_our_name(stack: Rehearsal, url: str) -> None:
    plain = requests.get(f"http://{stack.address('haproxy', 8080)}/wallets/me", allow_redirects=False, timeout=10)
    assert plain.status_code == 308
    statuses = {
        host: requests.get(f"{url}/health", headers={"Host": host}, timeout=10).status_code for host in ("credits.example.com", "evil")
    }
    assert statuses == {"credits.example.com": 200, "evil": 400}


def test_health_checks_say_that_all_is_well(stack: Rehearsal) -> None:
    assert all(stack.healthy(name) for name in (*COPIES, *MEMBERS))
    ended = stack.services["app1"] | {"environment": {"PORT": str(free_port())}}
    stack.services["nobody"] = ended
    assert not stack.healthy("nobody")


def test_prometheus_scrapes_every_copy_and_the_front_and_knows_whom_to_alert(stack: Rehearsal) -> None:
    prometheus = f"http://{stack.address('prometheus', 9090)}/api/v1"

    def up() -> dict[str, int]:
        result = requests.get(f"{prometheus}/query", {"query": "sum by (job) (up)"}, timeout=10).json()["data"]["result"]
        return {row["metric"]["job"]: int(row["value"][1]) for row in result}

    eventually(lambda: up() == {"credit-system": 4, "haproxy": 1, "prometheus": 1}, 30)
    verbs = requests.get(f"{prometheus}/query", {"query": "count(credit_build_info or credit_keys_loaded)"}, timeout=10).json()
    assert verbs["data"]["result"]
    targets = requests.get(f"{prometheus}/alertmanagers", timeout=10).json()["data"]["activeAlertmanagers"]
    assert [target["url"] for target in targets] == [f"http://{stack.address('alertmanager', 9093)}/api/v2/alerts"]
    rules = requests.get(f"{prometheus}/rules", timeout=10).json()["data"]["groups"]
    assert rules
    assert requests.get(f"http://{stack.address('alertmanager', 9093)}/-/ready", timeout=10).status_code == 200


def test_three_members_hold_every_acknowledged_write(stack: Rehearsal, secrets: Path) -> None:
    with root_of(stack, secrets) as client:
        states = sorted(member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"])
        lifetime = client.admin.command("getParameter", transactionLifetimeLimitSeconds=1)["transactionLifetimeLimitSeconds"]
    assert states == ["PRIMARY", "SECONDARY", "SECONDARY"]
    assert lifetime == 5


def test_redis_has_its_password_and_forgets_nothing(stack: Rehearsal, secrets: Path) -> None:
    port = int(stack.address("redis", 6379).rpartition(":")[2])
    with Redis(port=port, password=(secrets / "redis_password").read_text()) as client:
        wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction"}
        assert {key: client.config_get(key)[key] for key in wanted} == wanted
    with Redis(port=port, retry=Retry(NoBackoff(), 0)) as anyone, pytest.raises(AuthenticationError):
        anyone.ping()


def test_every_copy_has_its_secrets_from_openbao(stack: Rehearsal) -> None:
    environ = {**stack.environ_of("app1"), "LOG_CONSOLE": "ERROR"}
    shown = subprocess.run(["flask", "settings", "--json"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    settings = json.loads(shown.stdout)
    origins = {key: settings[key]["origin"] for key in ("JWT_SECRET", "MONGODB_PASSWORD", "ADMIN_PASSWORD")}
    assert origins == {"JWT_SECRET": "vault", "MONGODB_PASSWORD": "vault", "ADMIN_PASSWORD": "secret file"}


def test_no_process_shows_a_secret(stack: Rehearsal, secrets: Path) -> None:
    """Neither its command line nor its environment, which anyone with access to Docker can read."""
    values = [text for path in secrets.iterdir() if len(text := path.read_text().strip()) > 20]
    shown = [" ".join(process.cmdline()) + " ".join(process.environ().values()) for process in stack.processes()]
    assert len(shown) >= 12
    assert not [value for value in values for text in shown if value in text]


def test_the_check_of_secrets_finds_nothing_but_what_is_still_to_be_filled_in(stack: Rehearsal, secrets: Path) -> None:
    environ = {"SECRETS_DIR": str(secrets), "VAULT_ADDR": stack.environ_of("app1")["VAULT_ADDR"]}
    checked = CliRunner().invoke(check, ["--json", "--stack", "--group", str(os.getgid())], env=environ)
    problems = {row["name"]: row["problem"] for row in json.loads(checked.stdout)["problems"]}
    assert problems == dict.fromkeys(("slack_webhook_url", "smtp_password"), "a placeholder: write the real one")
