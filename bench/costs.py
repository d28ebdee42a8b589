"""What the arithmetic of docs/scaling.md stands on: CPU, round trips and bytes of one request, one transfer and one socket, by server."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import redis
from pymongo import MongoClient

from bench.accounts import Accounts, our_accounts
from bench.comparison import Effort
from bench.load import BATCH_SIZE, LoadSpec, run_load
from bench.result import BenchBroken
from bench.servers import OURS, RunningApp, running
from bench.socket_load import Link

SOCKETS = 200
_WORKERS, _MESSAGES, _CHANNEL = 64, 1000, "bench-costs"
_CALLERS = (64, 8)
_BATCH_CALLERS = 16
# Below so many documents, a file says little about one of them.
_ENOUGH = 1000


@dataclass(frozen=True)
class Cost:
    """One measured figure; there is nobody to compare it with."""

    name: str
    value: str

    def row(self) -> list[str]:
        """The cells of the printed table."""
        return [self.name, self.value, "", "", "", ""]

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


@dataclass(frozen=True)
class Use:
    """What the servers have used until now: CPU seconds by server, commands of Redis, commits of MongoDB."""

    cpu: dict[str, float]
    commands: int
    commits: int


class Gauges:
    """Reads what the servers say and what the kernel says of them."""

    def __init__(self, app: RunningApp, environ: Mapping[str, str]) -> None:
        self._app = app
        self._mongo: MongoClient[dict[str, Any]] = MongoClient(environ["BENCH_MONGODB_URI"])
        self._database = self._mongo[environ["MONGODB_DATABASE"]]
        self.redis = redis.Redis.from_url(environ["BENCH_REDIS_URI"])

    def close(self) -> None:
        self._mongo.close()
        self.redis.close()

    def use(self) -> Use:
        cpu = {"app": sum(map(_cpu, self._app.workers()))}
        for process in psutil.Process().children(recursive=True):
            name = process.name()
            if name in ("mongod", "redis-server"):
                cpu[name] = cpu.get(name, 0.0) + _cpu(process)
        transactions = self._mongo.admin.command("serverStatus")["transactions"]
        return Use(cpu, self.redis.info("stats")["total_commands_processed"], transactions["totalCommitted"])

    def sizes(self) -> dict[str, tuple[int, int, int, int]]:
        """Documents, bytes of BSON, bytes on disk, bytes of indexes on disk, by collection; after a checkpoint."""
        self._mongo.admin.command("fsync")
        found = {}
        for name in self._database.list_collection_names(filter={"type": "collection"}):
            stats = self._database.command("collStats", name)
            found[name] = (stats["count"], stats["size"], stats["storageSize"], stats["totalIndexSize"])
        return found

    def redis_bytes(self) -> int:
        used: int = self.redis.info("memory")["used_memory"]
        return used

    def worker_bytes(self) -> int:
        return sum(worker.memory_info().rss for worker in self._app.workers())


def measure_costs(environ: Mapping[str, str], folder: Path, effort: Effort) -> Iterator[Cost]:
    """Start our app with two workers and 64 callers' accounts; measure requests, then bytes, then sockets."""
    with running(OURS, folder, environ) as app:
        gauges = Gauges(app, environ)
        try:
            yield from _measure(app, gauges, environ, effort)
        finally:
            gauges.close()


def _measure(app: RunningApp, gauges: Gauges, environ: Mapping[str, str], effort: Effort) -> Iterator[Cost]:
    before = gauges.redis_bytes()
    accounts = our_accounts(app.url, Path(environ["SECRETS_DIR"]), max(_CALLERS), effort.wallets)
    people = max(_CALLERS) + effort.wallets
    yield Cost("redis: bytes of one who has just signed in", f"{(gauges.redis_bytes() - before) / people:,.0f}")
    yield from _idle(gauges)
    read = LoadSpec(app.port, "/wallets/me", accounts.tokens, "get", (), effort.seconds)
    transfer = replace(read, path="/transfers", kind="transfer", destinations=accounts.destinations)
    # Longer, since files grow in steps.
    batch = replace(transfer, seconds=3 * effort.seconds, path="/batches", kind="batch", tokens=accounts.tokens[:_BATCH_CALLERS])
    yield from _requests("GET /wallets/me, 64 callers", gauges, read)
    for callers in _CALLERS:
        sizes = gauges.sizes()
        spec = replace(transfer, tokens=accounts.tokens[:callers])
        yield from _requests(f"POST /transfers, {callers} callers", gauges, spec)
        if callers == max(_CALLERS):
            yield from _rows_left(sizes, gauges.sizes())
    yield from _requests(f"POST /batches, a transfer of {BATCH_SIZE}", gauges, batch, BATCH_SIZE)
    yield from _bytes(gauges.sizes())
    yield from _sockets(app, gauges, accounts)
    yield from _fan_out(gauges)


def _idle(gauges: Gauges) -> Iterator[Cost]:
    """What two workers and their servers take while nobody asks."""
    seconds = 5.0
    before = gauges.use()
    time.sleep(seconds)
    after = gauges.use()
    for server, cpu in after.cpu.items():
        yield Cost(f"idle: CPU of {server}", f"{(cpu - before.cpu[server]) / seconds * 100:.1f} %")
    yield Cost("idle: commands of redis", f"{(after.commands - before.commands) / seconds:.1f}/s")
    yield Cost("idle: commits of mongod", f"{(after.commits - before.commits) / seconds:.1f}/s")


def _requests(name: str, gauges: Gauges, spec: LoadSpec, items: int = 1) -> Iterator[Cost]:
    """CPU, commands and commits of one request, or of one of its `items`; without a warm-up, since all of it counts.

    Redis counts what its scripts do as commands, too; the round trips are fewer (`--only chain`).
    """
    before = gauges.use()
    result = run_load(replace(spec, warmup=0.0)).require_clean(name)
    after = gauges.use()
    count = result.count * items
    yield Cost(f"{name}: a second", f"{count / result.seconds:,.0f}")
    for server, cpu in after.cpu.items():
        yield Cost(f"{name}: CPU of {server}", f"{(cpu - before.cpu[server]) / count * 1e6:,.0f} us")
    yield Cost(f"{name}: commands of redis", f"{(after.commands - before.commands) / count:.2f}")
    if spec.kind != "get":
        yield Cost(f"{name}: in one commit", f"{count / (after.commits - before.commits):.1f}")


def _rows_left(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> Iterator[Cost]:
    """How many documents one transfer leaves behind, by collection."""
    left = {name: now[0] - before.get(name, (0,))[0] for name, now in sorted(after.items())}
    for name, rows in left.items():
        if rows:
            yield Cost(f"a transfer leaves in {name}", f"{rows / left['transactions']:.2f} rows")


def _bytes(sizes: Mapping[str, tuple[int, ...]]) -> Iterator[Cost]:
    """What a document takes in a collection of some size, compressed as it lies on disk."""
    for name, (count, document, disk, indexes) in sorted(sizes.items()):
        if count >= _ENOUGH:
            each = f"{document / count:,.0f} B of BSON, {disk / count:,.0f} B on disk, {indexes / count:,.0f} B of indexes"
            yield Cost(f"a document of {name}", f"{each} ({count:,} of them)")


def _names(gauges: Gauges) -> Iterator[Cost]:
    """Names in Redis by their first part, and what one of them takes."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for name in gauges.redis.scan_iter(count=1000):
        kind = name.decode(errors="replace").partition(":")[0]
        count[kind] += 1
        size[kind] += gauges.redis.memory_usage(name)
    for kind, number in count.most_common():
        yield Cost(f"redis: a name {kind}:", f"{size[kind] / number:,.0f} B ({number:,} of them)")


def _sockets(app: RunningApp, gauges: Gauges, accounts: Accounts) -> Iterator[Cost]:
    """Sockets that are open, and then each in one room of 100."""
    redis_before, workers_before = gauges.redis_bytes(), gauges.worker_bytes()
    links = [_open(app.port, accounts.tokens[number % len(accounts.tokens)]) for number in range(SOCKETS)]
    time.sleep(1)
    redis_open, workers_open = gauges.redis_bytes(), gauges.worker_bytes()
    yield Cost("a socket: redis", f"{(redis_open - redis_before) / SOCKETS:,.0f} B")
    yield Cost("a socket: worker", f"{(workers_open - workers_before) / SOCKETS / 1000:,.1f} kB")
    for number, link in enumerate(links):
        link.send("421" + json.dumps(["join_room", {"room": f"costs-{number % 2}"}]))
        _until(link, lambda received: b"431[" in received)
    yield from _names(gauges)
    before = gauges.use()
    time.sleep(5)
    yield Cost(f"{SOCKETS} idle sockets: commands of redis", f"{(gauges.use().commands - before.commands) / 5:.1f}/s")
    for link in links:
        link.sock.close()


def _fan_out(gauges: Gauges) -> Iterator[Cost]:
    """What Redis takes to hand one message to one more worker."""
    listeners = [gauges.redis.pubsub() for _ in range(_WORKERS)]
    for listener in listeners:
        listener.subscribe(_CHANNEL)
        listener.get_message(timeout=5)
    before = gauges.use()
    for _ in range(_MESSAGES):
        gauges.redis.publish(_CHANNEL, b"x" * 500)
    after = gauges.use()
    for listener in listeners:
        listener.close()
    each = (after.cpu["redis-server"] - before.cpu["redis-server"]) / _MESSAGES * 1e6
    yield Cost(f"a message to {_WORKERS} workers: CPU of redis-server", f"{each:,.0f} us")


def _open(port: int, token: str) -> Link:
    link = Link(port, token)
    link.sock.settimeout(10)
    while not link.enter():
        pass
    return link


def _until(link: Link, done: Callable[[bytes], bool]) -> None:
    received = b""
    while not done(received):
        piece = link.sock.recv(65536)
        if not piece or b'"ok":false' in received:
            raise BenchBroken(f"a socket was refused: {received[-300:]!r}")
        received += piece


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
