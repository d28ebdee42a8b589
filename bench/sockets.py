"""The sockets bench: ours and a bare Flask-SocketIO app, one worker each, the same room full of clients."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import requests

from bench.comparison import Effort
from bench.servers import BARE_SOCKETS, OURS, App, running
from bench.socket_load import SocketResult, SocketSpec, run_sockets

ROOM, RATE, SENDERS = 500, 50.0, 8
# Open at one worker together.
HELD, HELD_QUICK = 5000, 1500


@dataclass(frozen=True)
class Figure:
    """One field of the results, and the largest ratio of ours to theirs (None: for information)."""

    name: str
    field: str
    unit: str
    target: float | None


FIGURES = [
    Figure("sockets: memory of one", "kilobytes", "kB", 1.3),
    Figure("sockets: to all of a room of 500", "fan_out_ms", "ms", 1.15),
    Figure("sockets: CPU of a message to 500", "fan_out_cpu_ms", "ms", 1.15),
    Figure("sockets: ack p50", "ack_p50_ms", "ms", None),
    Figure("sockets: ack p99", "ack_p99_ms", "ms", 1.15),
    Figure("sockets: held by one worker", "held", "", None),
    Figure("sockets: ack p99 beside those", "held_ack_ms", "ms", None),
    Figure("sockets: connects", "connects", "/s", None),
]


@dataclass(frozen=True)
class SocketRow:
    """A figure of all rounds."""

    figure: Figure
    rounds: list[tuple[SocketResult, SocketResult]]

    def _pairs(self) -> list[tuple[float, float]]:
        return [(getattr(ours, self.figure.field), getattr(theirs, self.figure.field)) for ours, theirs in self.rounds]

    @property
    def ratio(self) -> float:
        return median(ours / theirs for ours, theirs in self._pairs())

    @property
    def met(self) -> bool:
        return self.figure.target is None or self.ratio <= self.figure.target

    def row(self) -> list[str]:
        """The cells of the printed table."""
        sides = [f"{median(side):,.1f} {self.figure.unit}" for side in zip(*self._pairs(), strict=True)]
        target = "" if self.figure.target is None else f"<= {self.figure.target:g}x"
        return [self.figure.name, *sides, f"{self.ratio:.2f}x", target, ("yes" if self.met else "NO") if target else ""]

    def as_dict(self) -> dict[str, Any]:
        """Everything measured, for results.json."""
        rounds = [{"ours": asdict(ours), "theirs": asdict(theirs)} for ours, theirs in self.rounds]
        figure = {"name": self.figure.name, "unit": self.figure.unit, "target": self.figure.target}
        return {**figure, "ratio": self.ratio, "met": self.met, "rounds": rounds}


def compare_sockets(environ: Mapping[str, str], data_dir: Path, effort: Effort) -> Iterator[SocketRow]:
    """Each round starts both servers anew, since memory that a worker has had once it keeps."""
    rounds = [
        (_measure(OURS, environ, data_dir / f"ours-{number}", effort), _measure(BARE_SOCKETS, environ, data_dir / f"bare-{number}", effort))
        for number in range(2 if effort.quick else 3)
    ]
    return (SocketRow(figure, rounds) for figure in FIGURES)


def _measure(app: App, environ: Mapping[str, str], data_dir: Path, effort: Effort) -> SocketResult:
    # One sender stands for many; budgets stay on the path, their verdict is out of reach.
    held = HELD_QUICK if effort.quick else HELD
    own = {"WORKER_CONNECTIONS": str(2 * held), "SOCKET_EVENTS_PER_SECOND": "100000", "SOCKET_USER_EVENTS_PER_SECOND": "100000"}
    with running(app, data_dir, {**environ, **own}, workers=1) as server:
        tokens = ["none"] * SENDERS if app is BARE_SOCKETS else [_register(server.url) for _ in range(SENDERS)]
        [worker] = server.workers()
        result = run_sockets(SocketSpec(server.port, worker.pid, tokens, ROOM, RATE, effort.seconds, held))
    print(f"  sockets, {app.name}: {result}", flush=True)
    return result


def _register(url: str) -> str:
    name = secrets.token_hex(8)
    body = {"username": name, "email": f"{name}@example.com", "password": secrets.token_hex(16)}
    answer = requests.post(f"{url}/auth/register", json=body, timeout=30)
    answer.raise_for_status()
    token: str = answer.json()["access_token"]
    return token
