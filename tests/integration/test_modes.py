"""The main job on every kind of server process: gevent, and four workers whose metrics are one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from pymongo.database import Database

from core.web.openapi import VERSION
from tests.support.app_server import AppServer
from tests.support.client import Client
from tests.support.ledger import assert_sound
from tests.support.polling import assert_gone, eventually
from tools.local_stack import LocalStack

WORKERS = 4


@pytest.fixture(scope="module")
def many(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Four eventlet workers."""
    with AppServer(servers.environ, tmp_path_factory.mktemp("many"), WORKERS=WORKERS) as running:
        yield running


def do_the_main_job(url: str, secrets_dir: Path, amount: int) -> None:
    alice, bob = Client.register(url), Client.register(url)
    Client.admin(url, secrets_dir).grant(alice.wallet()["id"], amount)
    sent = alice.transfer({"username": bob.user["username"]}, amount - 1)
    assert sent.status_code == 201
    assert (alice.wallet()["settled"], bob.wallet()["settled"]) == (1, amount - 1)
    assert [row["type"] for row in alice.get("/wallets/me/transactions")["data"]] == ["transfer", "grant"]


def metric(server: AppServer, name: str, **labels: str) -> float:
    """The sum of the samples of that name that carry `labels`, as a scraper reads them."""
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


@pytest.mark.gevent
def test_the_main_job_works_on_gevent(servers: LocalStack, secrets_dir: Path, tmp_path: Path, database: Database[dict[str, Any]]) -> None:
    with AppServer(servers.environ, tmp_path, ASYNC_MODE="gevent") as server:
        with ThreadPoolExecutor(4) as pool:
            for job in [pool.submit(do_the_main_job, server.url, secrets_dir, 100) for _ in range(4)]:
                job.result()
        assert metric(server, "credit_transactions_total", type="transfer") == 4
    assert_sound(database)


def test_the_main_job_works_on_four_workers(many: AppServer, secrets_dir: Path, database: Database[dict[str, Any]]) -> None:
    assert len(many.workers()) == WORKERS
    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(do_the_main_job, many.url, secrets_dir, 100) for _ in range(16)]:
            job.result()
    assert_sound(database)


def test_metrics_sum_all_workers_and_outlive_a_worker(many: AppServer) -> None:
    user = Client.register(many.url)
    before = served(many)
    # Each on a connection of its own, so that every worker gets some.
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: requests.get(f"{many.url}/wallets/me", headers=token_of(user), timeout=10).status_code, range(200)))
    assert codes == [200] * 200
    assert served(many) == before + 200
    assert len([pid for pid in workers_with_counters(many) if psutil.pid_exists(pid)]) > 1, "one worker did it all"

    victim, counted = many.workers()[0], counters(many)
    many.kill_worker()
    assert_gone([victim], 5)
    eventually(lambda: len(many.workers()) == WORKERS and many.is_ready(), 20)
    assert served(many) == before + 200, "the counters of a worker that died are part of the sum"
    eventually(lambda: not list(many.folder.glob(f"metrics-*/gauge_live*_{victim.pid}.db")), 5)
    now = counters(many)
    assert [(name, value) for name, value in counted.items() if now[name] < value] == [], "no counter goes back"
    assert user.wallet()["settled"] == 0
    eventually(lambda: served(many) == before + 201, 5)


def test_the_workers_that_run_are_counted_and_not_those_that_ran(many: AppServer) -> None:
    started = metric(many, "credit_worker_starts_total")
    many.kill_worker()
    eventually(lambda: metric(many, "credit_worker_starts_total") == started + 1, 20)
    eventually(lambda: metric(many, "credit_workers") == WORKERS, 10)
    assert metric(many, "credit_build_info", version=VERSION) == 1
    assert metric(many, "credit_process_resident_memory_bytes") > WORKERS * 10_000_000


def served(server: AppServer) -> float:
    return metric(server, "credit_http_requests_total", route="/wallets/{id}", method="GET", status="200")


def counters(server: AppServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples that only ever grow."""
    families = text_string_to_metric_families(requests.get(f"{server.url}/metrics", timeout=10).text)
    growing = (sample for family in families if family.type in ("counter", "histogram") for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in growing}


def token_of(user: Client) -> dict[str, str]:
    return {"Authorization": f"Bearer {user.token}"}


def workers_with_counters(server: AppServer) -> list[int]:
    return [int(path.stem.rpartition("_")[2]) for path in server.folder.glob("metrics-*/counter_*.db")]
