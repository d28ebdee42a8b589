"""A closed-loop HTTP/1.1 load generator: keep-alive raw sockets on one epoll, cheap enough to run beside the servers.

`python -m bench.load SPEC.json` (or `-` for standard input) prints a Result; SPEC holds the fields of LoadSpec.
"""

from __future__ import annotations

import gc
import json
import random
import re
import select
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import repeat
from pathlib import Path

from bench.result import BenchBroken, Result, summarize

CONNECT_PAUSE = 0.005  # in one burst, a greedy worker would accept nearly all of them
SILENCE_LIMIT = 10.0  # seconds without any answer after which the server counts as hung
BATCH_SIZE, BATCH_BODIES = 100, 64
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LoadSpec:
    """One connection for each token, which all send requests of `kind` to `path`.

    `get` repeats one request; `transfer` posts with a fresh Idempotency-Key to a random one of `destinations`, `batch` to
    BATCH_SIZE of them, all or none.
    """

    port: int
    path: str
    tokens: Sequence[str]
    kind: str = "get"
    destinations: Sequence[str] = ()
    seconds: float = 4.0
    warmup: float = 1.0
    host: str = "127.0.0.1"


def run_load(spec: LoadSpec) -> Result:
    """Run the generator in a process of its own; returns its Result, raises BenchBroken when it fails."""
    limit = spec.warmup + spec.seconds + 3 * SILENCE_LIMIT
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", "-"],
        input=json.dumps(asdict(spec)),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    if done.returncode:
        raise BenchBroken(f"load generator failed: {done.stderr[-500:]}")
    return Result.from_json(done.stdout)


def get_requests(spec: LoadSpec, token: str) -> Iterator[bytes]:
    """The same GET for ever."""
    head = f"GET {spec.path} HTTP/1.1\r\nHost: {spec.host}\r\nAuthorization: Bearer {token}\r\n\r\n"
    return repeat(head.encode())


def transfer_requests(spec: LoadSpec, token: str) -> Iterator[bytes]:
    """Transfers of 1 with fresh keys; everything but the key is rendered ahead."""
    return _posts(spec, token, _transfer_tails(tuple(spec.destinations)))


def batch_requests(spec: LoadSpec, token: str) -> Iterator[bytes]:
    """The same in batches."""
    return _posts(spec, token, _batch_tails(tuple(spec.destinations)))


def _posts(spec: LoadSpec, token: str, tails: list[bytes]) -> Iterator[bytes]:
    head = (
        f"POST {spec.path} HTTP/1.1\r\nHost: {spec.host}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nIdempotency-Key: "
    ).encode()
    head += uuid.uuid4().hex[:20].encode()
    number, count, pick = 0, len(tails), random.random
    while True:
        number += 1
        yield b"%b%012x%b" % (head, number, tails[int(pick() * count)])


@cache
def _transfer_tails(destinations: tuple[str, ...]) -> list[bytes]:
    """What follows the key, for each destination; rendered once for all connections."""
    return _tails({"destination": destination, "amount": 1} for destination in destinations)


@cache
def _batch_tails(destinations: tuple[str, ...]) -> list[bytes]:
    """The same for batches, each to a random choice of destinations."""
    chosen = (random.choices(destinations, k=BATCH_SIZE) for _ in range(BATCH_BODIES))
    items = ([{"op": "transfer", "destination": destination, "amount": 1} for destination in each] for each in chosen)
    return _tails({"atomic": True, "items": each} for each in items)


def _tails(bodies: Iterable[object]) -> list[bytes]:
    texts = [json.dumps(body).encode() for body in bodies]
    return [b"\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text) for text in texts]


KINDS = {"get": get_requests, "transfer": transfer_requests, "batch": batch_requests}


class Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("_address", "_received", "_request", "_requests", "sent_at", "sock")

    def __init__(self, address: tuple[str, int], requests: Iterator[bytes]) -> None:
        self._address = address
        self._requests = requests
        self._request = b""
        self._received = b""
        self.sent_at = 0.0
        self.connect()

    def connect(self) -> None:
        # Blocking on purpose: with one request in flight, an epoll event means that recv has something to give.
        self.sock = socket.create_connection(self._address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_next(self, now: float) -> None:
        self._request = next(self._requests)
        self.sent_at = now
        self.sock.sendall(self._request)

    def send_again(self) -> None:
        """Repeat the last request on a new connection; its key makes that safe."""
        self._received = b""
        self.sock.sendall(self._request)

    def receive(self) -> bytes | None:
        """The whole answer, b"" while it is incomplete, None when the server closed the connection."""
        try:
            chunk = self.sock.recv(65536)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            return None
        received = self._received + chunk if self._received else chunk
        if len(received) < answer_length(received):
            self._received = received
            return b""
        self._received = b""
        return received


def answer_length(received: bytes) -> float:
    """Bytes of the whole answer that starts `received`; infinite while its head is incomplete.

    Raises ValueError where the head does not say; chunked answers are not read here.
    """
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return float("inf")
    match = CONTENT_LENGTH.search(received, 0, head_end)
    if match is None:
        raise ValueError("an answer without Content-Length")
    return head_end + 4 + int(match[1])


@dataclass
class Generator:
    """The loop over all connections, and what it has seen."""

    spec: LoadSpec
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    sample: str = ""
    reconnects: int = 0

    def run(self) -> Result:
        """Load for warm-up and window, then wait for the last answers."""
        connections = self._connect()
        begin = time.perf_counter() + self.spec.warmup
        for connection in connections.values():
            connection.send_next(time.perf_counter())
        cpu_begin = time.process_time()
        answers = self._loop(connections, begin, begin + self.spec.seconds)
        cpu = time.process_time() - cpu_begin
        return summarize(self.latencies, self.spec.seconds, dict(self.errors), self._extra(cpu, answers))

    def _connect(self) -> dict[int, Connection]:
        address, render = (self.spec.host, self.spec.port), KINDS[self.spec.kind]
        opened = []
        for token in self.spec.tokens:
            opened.append(Connection(address, render(self.spec, token)))
            time.sleep(CONNECT_PAUSE)
        self._epoll = select.epoll()
        for connection in opened:
            self._epoll.register(connection.sock, select.EPOLLIN)
        return {connection.sock.fileno(): connection for connection in opened}

    def _loop(self, connections: dict[int, Connection], begin: float, end: float) -> int:
        """Answer every event with the next request; returns how many answers came. The hot path: kept flat."""
        now, poll, note = time.perf_counter, self._epoll.poll, self.latencies.append
        in_flight, answers = len(connections), 0
        while in_flight:
            events = poll(SILENCE_LIMIT)
            if not events:
                self.errors["timeout"] += in_flight
                break
            for fd, _ in events:
                connection = connections[fd]
                answer = connection.receive()
                if answer is None:
                    self._reconnect(connections, fd)
                    continue
                if not answer:
                    continue
                finished = now()
                answers += 1
                if begin <= finished <= end:
                    note(finished - connection.sent_at)
                if answer[9:10] != b"2":
                    self._note_error(answer)
                if finished < end:
                    connection.send_next(finished)
                else:
                    in_flight -= 1
        return answers

    def _reconnect(self, connections: dict[int, Connection], fd: int) -> None:
        """A server may close an idle keep-alive connection at any time; more often than that it is broken."""
        self.reconnects += 1
        if self.reconnects > 2 * len(connections):
            raise ConnectionError("the server keeps closing connections")
        connection = connections.pop(fd)
        connection.sock.close()  # which also takes it out of the epoll set
        connection.connect()
        connections[connection.sock.fileno()] = connection
        self._epoll.register(connection.sock, select.EPOLLIN)
        connection.send_again()

    def _note_error(self, answer: bytes) -> None:
        self.errors[answer[9:12].decode()] += 1
        self.sample = self.sample or answer[-300:].decode(errors="replace")

    def _extra(self, cpu: float, answers: int) -> dict[str, float | str]:
        extra: dict[str, float | str] = {"cpu_us": round(cpu / max(1, answers) * 1e6, 1), "reconnects": self.reconnects}
        return extra | {"sample": self.sample} if self.sample else extra


def main() -> None:
    """Read a spec, run it, print the Result."""
    text = sys.stdin.read() if sys.argv[1] == "-" else Path(sys.argv[1]).read_text(encoding="utf-8")
    gc.disable()  # no cycles are made here, and a collection would show up as latency
    print(Generator(LoadSpec(**json.loads(text))).run().to_json())


if __name__ == "__main__":
    main()
