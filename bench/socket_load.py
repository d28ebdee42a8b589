"""A room full of WebSockets on one epoll, cheap enough to run beside the server.

`python -m bench.socket_load -` reads a SocketSpec as JSON from standard input and prints a SocketResult.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

import psutil

from bench.result import BenchBroken

_NUMBER = re.compile(rb'"n":\s?(\d+)')
_ACK = re.compile(rb"43(\d+)\[")
_ROOM = "bench"
_SILENCE_SECONDS = 30.0
_AT_ONCE = 16


@dataclass(frozen=True)
class SocketSpec:
    """`sockets` connect to `port`, join one room and hear `rate` messages a second for `seconds`; then one sends alone.

    At last more of them come, until there are `held`.
    """

    port: int
    pid: int
    tokens: Sequence[str]
    sockets: int
    rate: float
    seconds: float
    held: int


@dataclass(frozen=True)
class SocketResult:
    """Connections a second, kB of the worker for each, ms until all of the room have a message, ms until an ack (p50, p99).

    `held`: how many are open together and answered; `held_ack_ms`: the p99 of an ack then.
    """

    connects: float
    kilobytes: float
    fan_out_ms: float
    fan_out_cpu_ms: float
    ack_p50_ms: float
    ack_p99_ms: float
    held: int
    held_ack_ms: float
    extra: dict[str, float] = field(default_factory=dict)


def run_sockets(spec: SocketSpec) -> SocketResult:
    """Run the load in a process of its own; raises BenchBroken when it fails."""
    command = [sys.executable, "-m", "bench.socket_load", "-"]
    limit = 4 * spec.seconds + 6 * _SILENCE_SECONDS
    done = subprocess.run(command, input=json.dumps(asdict(spec)), capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise BenchBroken(f"socket load failed: {done.stderr[-800:]}")
    return SocketResult(**json.loads(done.stdout))


class Link:
    """One connection, from the handshake on; frames are masked with zeros, as a client may."""

    def __init__(self, port: int, token: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._signed_in = False
        self._token = token
        self.received = b""

    def send(self, text: str) -> None:
        payload = text.encode()
        size = struct.pack("!B", 0x80 | len(payload)) if len(payload) < 126 else struct.pack("!BH", 0xFE, len(payload))
        self.sock.sendall(b"\x81" + size + bytes(4) + payload)

    def enter(self) -> bool:
        """Read what is there, and take the next step; whether the socket is in the room."""
        piece = self.sock.recv(65536)
        if not piece:
            raise BenchBroken("the server has closed a connection")
        self.received += piece
        if not self._signed_in and b'0{"sid"' in self.received:
            self._signed_in, self.received = True, b""
            self.send("40" + json.dumps({"token": self._token}))
        if self._signed_in and b'40{"sid"' in self.received:
            self.received = b""
            return True
        return False


class Load:
    """What is done, in this order."""

    def __init__(self, spec: SocketSpec) -> None:
        self._spec = spec
        self._links: dict[int, Link] = {}
        self._epoll = select.epoll()
        self._worker = psutil.Process(spec.pid)

    def run(self) -> SocketResult:
        before = self._worker.memory_info().rss
        connects = self._connect(self._spec.sockets)
        time.sleep(1)
        grown = self._worker.memory_info().rss - before
        self._join()
        fan_out, cpu, missing = self._fan_out()
        p50, p99 = self._acks()
        held, held_ack = self._hold()
        extra = {"missing": float(missing)}
        return SocketResult(connects, grown / 1000 / self._spec.sockets, fan_out, cpu, p50, p99, held, held_ack, extra)

    def _connect(self, count: int) -> float:
        """Open so many sockets, some at a time; how many a second."""
        began = time.perf_counter()
        waiting, opened = 0, 0
        while opened < count or waiting:
            while waiting < _AT_ONCE and opened < count:
                link = Link(self._spec.port, self._spec.tokens[opened % len(self._spec.tokens)])
                self._links[link.sock.fileno()] = link
                self._epoll.register(link.sock, select.EPOLLIN)
                waiting, opened = waiting + 1, opened + 1
            for link in self._ready():
                waiting -= link.enter()
        return count / (time.perf_counter() - began)

    def _join(self) -> None:
        body = json.dumps(["join_room", {"room": _ROOM}])
        waiting = 0
        for link in self._links.values():
            link.send(f"421{body}")
            waiting += 1
            while waiting >= _AT_ONCE:
                waiting -= self._count(_ACK, _SILENCE_SECONDS)
        while waiting > 0:
            waiting -= self._count(_ACK, _SILENCE_SECONDS)
        # What the rooms are shown of each other.
        while self._count(_ACK, 3.0):
            pass
        self._drain(3.0)

    def _fan_out(self) -> tuple[float, float, int]:
        """Median of the ms until the whole room has a message, and the worker's CPU ms for each message."""
        senders, everybody = list(self._links.values())[: len(self._spec.tokens)], self._spec.sockets
        total = int(self._spec.rate * self._spec.seconds)
        sent: list[float] = []
        heard, done = [0] * total, [0.0] * total
        cpu = self._cpu()
        began = time.perf_counter()
        left = total * everybody
        while left > 0:
            now = time.perf_counter()
            if len(sent) < total and now >= began + len(sent) / self._spec.rate:
                senders[len(sent) % len(senders)].send(_message(len(sent)))
                sent.append(now)
                continue
            pause = began + len(sent) / self._spec.rate - now if len(sent) < total else 5.0
            links = self._ready(max(0.0, pause))
            if not links and len(sent) == total:
                break
            for link in links:
                numbers = self._numbers(link)
                now = time.perf_counter()
                left -= len(numbers)
                for number in numbers:
                    heard[number] += 1
                    done[number] = now
        complete = [(done[n] - sent[n]) * 1000 for n in range(total) if heard[n] == everybody]
        if len(complete) < 0.9 * total:
            raise BenchBroken(f"{total - len(complete)} of {total} messages did not reach the whole room")
        return median(complete), (self._cpu() - cpu) * 1000 / total, left

    def _acks(self) -> tuple[float, float]:
        """One socket outside of the room, alone in another, sends as fast as it is answered."""
        link = next(iter(self._links.values()))
        link.sock.setblocking(True)
        link.send('427["join_room",{"room":"alone"}]')
        _read_until(link, rb"437\[")
        time.sleep(1)
        return self._ask(link)

    def _hold(self) -> tuple[int, float]:
        """As many more as are wanted: how many of all answer, and the p99 of an ack then, in ms."""
        old = set(self._links)
        self._connect(self._spec.held - len(old))
        for fd, link in self._links.items():
            if fd not in old:
                link.sock.setblocking(True)
                link.send("426" + json.dumps(["join_room", {"room": f"few-{fd % 100}"}]))
                _read_until(link, rb'436\[\{"ok":\s?true')
        return len(self._links), self._ask(self._links[min(old)])[1]

    def _ask(self, link: Link) -> tuple[float, float]:
        times: list[float] = []
        end = time.perf_counter() + self._spec.seconds
        while (now := time.perf_counter()) < end:
            link.send('428["send_message",{"room":"alone","data":{"n":1}}]')
            _read_until(link, rb"438\[")
            times.append(time.perf_counter() - now)
        ordered = sorted(times)
        return ordered[len(ordered) // 2] * 1000, ordered[int(len(ordered) * 0.99)] * 1000

    def _numbers(self, link: Link) -> list[int]:
        """The messages that have arrived whole; a number that is cut in two waits for its rest."""
        data = link.received + link.sock.recv(262_144)
        found = list(_NUMBER.finditer(data))
        # The frame may go on after the number, never within it: JSON closes it.
        link.received = data[found[-1].end() :][-200:] if found else data[-200:]
        if found and found[-1].end() == len(data):
            last = found.pop()
            link.received = data[last.start() :]
        return [int(match[1]) for match in found]

    def _count(self, pattern: re.Pattern[bytes], seconds: float) -> int:
        count = 0
        for link in self._ready(seconds):
            received = link.sock.recv(262_144)
            if b'"ok":false' in received:
                raise BenchBroken(f"refused: {received[:300]!r}")
            count += len(pattern.findall(received))
        return count

    def _drain(self, seconds: float) -> None:
        while links := self._ready(seconds):
            for link in links:
                link.sock.recv(262_144)

    def _ready(self, seconds: float = _SILENCE_SECONDS) -> list[Link]:
        return [self._links[fd] for fd, _ in self._epoll.poll(seconds)]

    def _cpu(self) -> float:
        times = self._worker.cpu_times()
        return float(times.user + times.system)


def _message(number: int) -> str:
    return "429" + json.dumps(["send_message", {"room": _ROOM, "data": {"n": number, "text": "x" * 40}}])


def _read_until(link: Link, pattern: bytes) -> None:
    received = b""
    wanted: Callable[[bytes], object] = re.compile(pattern).search
    while not wanted(received):
        piece = link.sock.recv(65536)
        if not piece:
            raise BenchBroken("the server has closed a connection")
        received += piece


def main() -> None:
    """Read a spec, run it, print the result."""
    print(json.dumps(asdict(Load(SocketSpec(**json.loads(sys.stdin.read()))).run())))


if __name__ == "__main__":
    main()
