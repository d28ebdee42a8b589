"""The clients of MongoDB, one a role: how they are made, waited for at the boot, and which servers they refuse."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError
from pymongo.server_description import ServerDescription

from core import metrics
from core.contracts import ADMIN, READ_ONLY, READ_WRITE
from core.managers.base import BootError
from core.managers.database_monitor import CommandMonitor, PoolMonitor, PrimaryMonitor
from tools.logger.custom_logger import custom_log
from utils.backoff import backoff
from utils.certificates import is_about_trust, refuse_unusable_pem
from utils.collections import plugin_database

CREDENTIALS = {
    READ_WRITE: ("MONGODB_USER", "MONGODB_PASSWORD"),
    READ_ONLY: ("MONGODB_ANALYTICS_USER", "MONGODB_ANALYTICS_PASSWORD"),
    ADMIN: ("MONGODB_ADMIN_USER", "MONGODB_ADMIN_PASSWORD"),
}
_SMALL_POOL = 4
# A server that answered "shutting down" once counts as unknown until the next heartbeat: five times as often as by default.
_HEARTBEAT_MS = 2000
_AUTHENTICATION_FAILED = 18
# What a caller waits for it at the most, whose time is over.
_FREE_SECONDS = 0.5
_FIRST_PAUSE, _LARGEST_PAUSE = 0.2, 5.0

Document = dict[str, Any]


class RoleClient:
    """One role's pool of connections, with what watches over it. The driver connects when it is first used."""

    def __init__(self, config: Mapping[str, Any], role: str) -> None:
        self.role = role
        self.pool = PoolMonitor(role)
        self.primary = PrimaryMonitor()
        self._config = config
        self.client = self._connect()
        self.database = self.client[config["MONGODB_DATABASE"]]
        self.plugin_database = self.client[plugin_database(config["MONGODB_DATABASE"])]

    def wait_until_usable(self, seconds: float) -> None:
        """Return when the server can be used by this role; while it is not reachable, ask again for `seconds`. BootError says why not."""
        pauses = backoff(_FIRST_PAUSE, _LARGEST_PAUSE, seconds)
        while True:
            try:
                return self._refuse_unusable()
            except PyMongoError as error:
                pause = next(pauses, None)
                if pause is None:
                    raise BootError(f"mongodb at {self._place}: {self._why_away()}") from error
                custom_log("mongodb does not answer yet", level="WARNING", reason=self._why_away(), pause=round(pause, 2))
                time.sleep(pause)

    def free(self, session: ClientSession) -> None:
        """End what a transaction without an answer may have left open: its documents are blocked until the server gives it up.

        The driver's own attempt has failed with the time that the transaction had.
        """
        with suppress(PyMongoError), pymongo.timeout(_FREE_SECONDS):
            self.client.admin.command("killSessions", [session.session_id])

    def members(self) -> dict[str, int]:
        """How many servers of the replica set are in which state, as the driver last saw them."""
        kinds = [server.server_type_name for server in self.client.topology_description.server_descriptions().values()]
        counts = {"primary": kinds.count("RSPrimary"), "secondary": kinds.count("RSSecondary")}
        return {**counts, "other": len(kinds) - sum(counts.values())}

    def publish_members(self) -> None:
        """Bring the metrics of the replica set up to date."""
        for state, number in self.members().items():
            metrics.MONGO_MEMBERS.labels(state).set(number)
        lag = self._lag()
        if lag is not None:
            metrics.MONGO_LAG.set(lag)

    def _lag(self) -> float | None:
        """Seconds that the slowest secondary is behind; None while there is no primary.

        As drivers estimate staleness (the server selection specification): from each member's own last write at its last
        heartbeat, which needs no right to ask for the set's status. It is right to about one heartbeat.
        """
        servers = [server for server in self.client.topology_description.server_descriptions().values() if server.last_write_date]
        primary = next((_unwritten(server) for server in servers if server.server_type_name == "RSPrimary"), None)
        if primary is None:
            return None
        return max([0.0, *(_unwritten(server) - primary for server in servers if server.server_type_name == "RSSecondary")])

    def close(self) -> None:
        """Close all connections."""
        self.primary.closing = True
        self.client.close()
        self.pool.publish()

    @property
    def _place(self) -> str:
        return str(self._config["MONGODB_URI"]).split("//")[-1].split("/", maxsplit=1)[0].rsplit("@", 1)[-1]

    def _why_away(self) -> str:
        # The driver drops servers that are no members of the set that the address names.
        known = self.client.topology_description.server_descriptions()
        if any(is_about_trust(server.error) for server in known.values()):
            return "its certificate is not trusted (MONGODB_CA_FILE)"
        return "not reachable" if known else "no member of the replica set answers there"

    def _connect(self) -> MongoClient[Document]:
        config = self._config
        user, password = CREDENTIALS[self.role]
        timeout_ms = int(config["MONGODB_TIMEOUT"] * 1000)
        try:
            refuse_unusable_pem(config, "MONGODB")
        except ValueError as error:
            raise BootError(str(error)) from error
        try:
            return MongoClient(
                config["MONGODB_URI"],
                username=config[user],
                password=config[password],
                appname=f"credit-system-{self.role}",
                tz_aware=True,
                w="majority",
                journal=True,
                readConcernLevel="majority",
                serverSelectionTimeoutMS=timeout_ms,
                connectTimeoutMS=timeout_ms,
                heartbeatFrequencyMS=_HEARTBEAT_MS,
                timeoutMS=int(config["REQUEST_TIMEOUT"] * 1000),
                maxPoolSize=config["MONGODB_POOL_SIZE"] if self.role == READ_WRITE else _SMALL_POOL,
                event_listeners=self._listeners(),
                **tls_options(config),
            )
        except (ConfigurationError, InvalidURI, ValueError) as error:
            raise BootError("MONGODB_URI cannot be used: it must be a mongodb:// address without credentials") from error

    def _listeners(self) -> list[Any]:
        commands = CommandMonitor(self.role, self._config["MONGODB_SLOW_MS"])
        # One of the three clients is enough to notice a new primary.
        return [commands, self.pool, *([self.primary] if self.role == READ_WRITE else [])]

    def _refuse_unusable(self) -> None:
        """Go on only with a replica set without arbiters that knows our user."""
        try:
            with pymongo.timeout(self._config["MONGODB_TIMEOUT"] + 1):
                hello = self.client.admin.command("hello")
                self.database.command("ping")
        except OperationFailure as error:
            if error.code == _AUTHENTICATION_FAILED:
                user = CREDENTIALS[self.role][0].lower()
                raise BootError(f"mongodb at {self._place}: log-in refused ({user} and its password)") from error
            raise BootError(f"mongodb at {self._place}: {type(error).__name__}") from error
        if "setName" not in hello:
            raise BootError(f"mongodb at {self._place}: not a replica set, so it has no transactions")
        if hello.get("arbiters"):
            raise BootError(f"mongodb at {self._place}: has an arbiter, with which acknowledged writes can be lost")


def tls_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Certificate and name of the server are always checked, unless MONGODB_URI says otherwise."""
    files = {"tlsCAFile": config["MONGODB_CA_FILE"], "tlsCertificateKeyFile": config["MONGODB_CERTIFICATE_FILE"]}
    given = {option: file for option, file in files.items() if file}
    return {"tls": True, **given} if given else {}


def _unwritten(server: ServerDescription) -> float:
    """From a member's last write to its last heartbeat: seconds, but for an offset that is the same for all members."""
    # Whoever asks has looked whether it has written.
    return server.last_update_time - (server.last_write_date or 0.0)
