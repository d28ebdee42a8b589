"""The servers together: one folder, one lock, started in order and stopped in parallel."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.members import Member, ReplicaSet
from tools.local_stack.mongod import Mongod
from tools.local_stack.openbao import OpenBao
from tools.local_stack.process import ServerFailed
from tools.local_stack.redis_server import RedisServer
from tools.local_stack.server import Server
from utils.secret_files import APPLICATION, MONGODB, MONGODB_SERVER, REDIS, VAULT

DATABASE = "credit_system"
STOP_SECONDS = 3.0
# The lock is inherited by the servers, so after a SIGKILL of their stack it is free once the last of them is gone.
LOCK_SECONDS = 2.0


def _silent(_text: str) -> None:
    """Progress that nobody reads."""


class LocalStack:
    """MongoDB, Redis and, if wished, OpenBao: `with LocalStack(data_dir, secrets_dir) as stack: stack.environ`.

    A server whose address is given (`mongodb_uri`, `redis_url`) is somebody else's and not started: its attribute is
    None. `members`: of MongoDB's replica set; `mongod` is the first of them. `write` receives the progress as pieces of text.
    """

    def __init__(
        self,
        data_dir: Path,
        secrets_dir: Path,
        *,
        vault: bool = False,
        members: int = 1,
        test_commands: bool = False,
        mongodb_uri: str = "",
        redis_url: str = "",
        database: str = DATABASE,
        write: Callable[[str], object] = _silent,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.secrets = SecretFiles(secrets_dir.absolute())
        self.mongods: list[Mongod] = []
        self.redis: RedisServer | None = None
        self.openbao: OpenBao | None = None
        self._mongodb_uri = mongodb_uri
        self._redis_url = redis_url
        self._vault = vault
        self._members = members
        self._test_commands = test_commands
        self._database = database
        self._write = write
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def servers(self) -> list[Server]:
        """Those that this stack runs, in the order of their start."""
        return [*self.mongods, *(server for server in (self.redis, self.openbao) if server)]

    @property
    def mongod(self) -> Mongod | None:
        """The first member of MongoDB's replica set."""
        return self.mongods[0] if self.mongods else None

    @property
    def replica_set(self) -> ReplicaSet:
        """All members of MongoDB's replica set."""
        return ReplicaSet(self.mongods, self.secrets)

    @property
    def holds_folder(self) -> bool:
        """Whether this stack, and no other one, uses its folder."""
        return self._lock is not None

    @property
    def environ(self) -> dict[str, str]:
        """What the application needs to find the servers; credentials are in the files of SECRETS_DIR only."""
        environ = {
            "MONGODB_URI": self.replica_set.uri if self.mongods else self._mongodb_uri,
            "MONGODB_DATABASE": self._database,
            "REDIS_URL": self.redis.url if self.redis else self._redis_url,
            "SECRETS_DIR": str(self.secrets.directory),
            "DATA_DIR": str(self.data_dir),
        }
        return {**environ, "VAULT_ADDR": self.openbao.url} if self.openbao else environ

    def start(self) -> None:
        """Start every server, ready to use; ServerFailed (and nothing left running) where one cannot."""
        with ExitStack() as undo:
            undo.callback(self.stop)
            lock = self._take_lock()
            self._name_foreign_servers()
            self._create_secrets()
            self._choose_servers(lock)
            for server in self.servers:
                self._start_one(server)
            undo.pop_all()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop all servers side by side, by force after `timeout` seconds; safe to repeat."""
        deadline = time.monotonic() + timeout
        for server in self.servers:
            server.process.terminate()
        for server in self.servers:
            server.process.wait(deadline - time.monotonic())
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def raise_if_one_ended(self) -> None:
        """ServerFailed, by name, when a server is gone."""
        for server in self.servers:
            server.process.raise_if_ended()

    def _take_lock(self) -> int:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._lock
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{self.data_dir} is in use by another run; choose another DATA_DIR") from error
                time.sleep(0.05)

    def _name_foreign_servers(self) -> None:
        folder = self.secrets.directory
        if self._mongodb_uri:
            self._write(f"mongodb   yours, by MONGODB_URI; its users and passwords have to be in {folder}/mongodb_*\n")
        if self._redis_url:
            self._write(f"redis     yours, by REDIS_URL; its password has to be in {folder}/redis_password\n")

    def _create_secrets(self) -> None:
        mongodb = {} if self._mongodb_uri else {**MONGODB, **MONGODB_SERVER}
        redis = {} if self._redis_url else REDIS
        vault = VAULT if self._vault else {}
        made = self.secrets.create_missing({**mongodb, **redis, **APPLICATION, **vault})
        if made:
            self._write(f"secrets   created {len(made)} development secrets in {self.secrets.directory}\n")

    def _choose_servers(self, lock: int) -> None:
        keep = (lock,)
        if not self._mongodb_uri:
            self._choose_members(keep)
        if not self._redis_url:
            self.redis = RedisServer(self.data_dir, self.secrets, keep_open=keep)
        if self._vault:
            self.openbao = OpenBao(self.data_dir, self.secrets, keep_open=keep)

    def _choose_members(self, keep: tuple[int]) -> None:
        first = Mongod(self.data_dir, self.secrets, database=self._database, test_commands=self._test_commands, keep_open=keep)
        self.mongods = [first]
        for number in range(2, self._members + 1):
            more = Member(
                first, number, self.data_dir, self.secrets, database=self._database, test_commands=self._test_commands, keep_open=keep
            )
            self.mongods.append(more)

    def _start_one(self, server: Server) -> None:
        began = time.monotonic()
        self._write(f"{server.name:<9} starting ... ")
        server.start()
        self._write(f"ready {time.monotonic() - began:.1f} s on 127.0.0.1:{server.port}\n")
