"""What MongoDB's driver tells about its commands, pools and servers: durations, failures, slow commands, waits, new primaries.

The listeners run inside every command, those that move credits too: they count in plain numbers wherever they can, and
`publish` carries these over into the metrics now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Histogram
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
    ConnectionCheckedInEvent,
    ConnectionCheckedOutEvent,
    ConnectionCheckOutFailedEvent,
    ConnectionCheckOutStartedEvent,
    ConnectionClosedEvent,
    ConnectionCreatedEvent,
    ConnectionPoolListener,
    ConnectionReadyEvent,
    PoolClearedEvent,
    PoolClosedEvent,
    PoolCreatedEvent,
    PoolReadyEvent,
    TopologyClosedEvent,
    TopologyDescriptionChangedEvent,
    TopologyListener,
    TopologyOpenedEvent,
)

from core import metrics
from tools.logger.custom_logger import custom_log

# Each label costs a series in each worker: what else there is counts as "other".
_NAMED = (
    *("find", "getMore", "aggregate", "insert", "update", "delete", "findAndModify"),
    *("commitTransaction", "abortTransaction", "ping", "hello"),
)
_OTHER = "other"
# Where the criteria stand in the commands that have some.
_CRITERIA = ("filter", "query", "q")
_LISTS = ("updates", "deletes")
_SHAPE_DEPTH, _SHAPE_WIDTH = 6, 20


class CommandMonitor(CommandListener):
    """Durations and failures by command, and a log line for each slow one with the shape of its criteria."""

    def __init__(self, role: str, slow_ms: int) -> None:
        self._role = role
        self._slow_micros = slow_ms * 1000
        self._running: dict[int, Mapping[str, Any]] = {}
        self._seconds: dict[str, Histogram] = {name: metrics.MONGO_SECONDS.labels(name, role) for name in (*_NAMED, _OTHER)}
        self._failures: dict[str, Counter] = {name: metrics.MONGO_FAILURES.labels(name, role) for name in (*_NAMED, _OTHER)}

    def started(self, event: CommandStartedEvent) -> None:
        self._running[event.request_id] = event.command

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._finish(event)

    def failed(self, event: CommandFailedEvent) -> None:
        self._failures.get(event.command_name, self._failures[_OTHER]).inc()
        self._finish(event)

    def _finish(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
        command = self._running.pop(event.request_id, None)
        micros = event.duration_micros
        (self._seconds.get(event.command_name) or self._seconds[_OTHER]).observe(micros / 1e6)
        if micros >= self._slow_micros:
            self._report(event.command_name, command or {}, micros)

    def _report(self, name: str, command: Mapping[str, Any], micros: int) -> None:
        metrics.MONGO_SLOW.labels(self._role).inc()
        target = command.get(name)
        custom_log(
            "slow mongodb command",
            level="WARNING",
            command=name,
            role=self._role,
            collection=target if isinstance(target, str) else None,
            ms=round(micros / 1000, 1),
            shape=shape_of_command(command),
        )


def shape_of_command(command: Mapping[str, Any]) -> Any:
    """The criteria of a command with their values left out, or None: `{"owner_id": "?", "_id": {"$lt": "?"}}`."""
    for name in _CRITERIA:
        if name in command:
            return shape(command[name])
    if "pipeline" in command:
        return shape(command["pipeline"])
    for name in _LISTS:
        if command.get(name):
            return shape_of_command(command[name][0])
    return None


def shape(value: Any, depth: int = _SHAPE_DEPTH) -> Any:
    """`value` without its values: the names of fields and operators only."""
    if isinstance(value, Mapping):
        if not depth:
            return "..."
        return {str(name): shape(value[name], depth - 1) for name in list(value)[:_SHAPE_WIDTH]}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and any(isinstance(each, Mapping) for each in value):
        return [shape(each, depth - 1) for each in value[:_SHAPE_WIDTH]] if depth else "..."
    return "?"


class PoolMonitor(ConnectionPoolListener):
    """How many connections a client has and uses, and how long its callers waited for one."""

    def __init__(self, role: str) -> None:
        self.size = 0
        self.in_use = 0
        self.waits = 0
        self.wait_seconds = 0.0
        self._published = 0.0
        self._gauges = metrics.MONGO_POOL_SIZE.labels(role), metrics.MONGO_POOL_USED.labels(role)
        self._waited = metrics.MONGO_POOL_WAIT.labels(role)

    def figures(self) -> dict[str, Any]:
        """For the health report; a wait is one of more than a millisecond."""
        return {"size": self.size, "in_use": self.in_use, "waits": self.waits, "wait_seconds": round(self.wait_seconds, 3)}

    def publish(self) -> None:
        """Bring the metrics up to date."""
        self._gauges[0].set(self.size)
        self._gauges[1].set(self.in_use)
        waited, self._published = self.wait_seconds - self._published, self.wait_seconds
        self._waited.inc(waited)

    def connection_created(self, event: ConnectionCreatedEvent) -> None:
        self.size += 1

    def connection_closed(self, event: ConnectionClosedEvent) -> None:
        self.size -= 1

    def connection_checked_out(self, event: ConnectionCheckedOutEvent) -> None:
        self.in_use += 1
        self._wait(event.duration)

    def connection_checked_in(self, event: ConnectionCheckedInEvent) -> None:
        self.in_use -= 1

    def connection_check_out_failed(self, event: ConnectionCheckOutFailedEvent) -> None:
        self._wait(event.duration)

    def _wait(self, seconds: float | None) -> None:
        if seconds is not None and seconds > 0.001:
            self.waits += 1
            self.wait_seconds += seconds

    def connection_check_out_started(self, event: ConnectionCheckOutStartedEvent) -> None:
        """Its end tells how long it took."""

    def connection_ready(self, event: ConnectionReadyEvent) -> None:
        """Counted when it was created."""

    def pool_created(self, event: PoolCreatedEvent) -> None:
        """Connections are what counts."""

    def pool_ready(self, event: PoolReadyEvent) -> None:
        """Connections are what counts."""

    def pool_cleared(self, event: PoolClearedEvent) -> None:
        """Its connections are closed one by one."""

    def pool_closed(self, event: PoolClosedEvent) -> None:
        """Its connections are closed one by one."""


class PrimaryMonitor(TopologyListener):
    """Notices when the primary changes or vanishes."""

    def __init__(self) -> None:
        self.closing = False
        self._primary: Any = None
        self._was_known = False

    def description_changed(self, event: TopologyDescriptionChangedEvent) -> None:
        servers = event.new_description.server_descriptions()
        primary = next((address for address, server in servers.items() if server.server_type_name == "RSPrimary"), None)
        if primary == self._primary or self.closing:
            return
        if self._was_known:
            metrics.MONGO_PRIMARY_CHANGES.inc()
            custom_log("mongodb primary changed", level="WARNING", known=primary is not None)
        self._primary, self._was_known = primary, True

    def opened(self, event: TopologyOpenedEvent) -> None:
        """Nothing is known yet."""

    def closed(self, event: TopologyClosedEvent) -> None:
        """Nobody asks any more."""
