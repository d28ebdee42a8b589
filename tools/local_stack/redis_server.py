"""The embedded Redis: a password, an append-only file, and no eviction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.ports import LOOPBACK
from tools.local_stack.programs import find_program, in_scripts, on_path
from tools.local_stack.server import Server

OLDEST = (6, 2)
CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir "{home}"
appendonly yes
save ""
maxmemory-policy noeviction
"""


class RedisServer(Server):
    """`redis-server` with its data in `data_dir/redis`."""

    name = "redis"
    program = "redis-server"

    def __init__(self, data_dir: Path, secrets: SecretFiles, *, keep_open: Sequence[int] = ()) -> None:
        super().__init__(data_dir, keep_open)
        self._secrets = secrets

    @property
    def url(self) -> str:
        """The address for applications; it holds no password."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def client(self) -> Redis:
        """A client with the password, to be closed by the caller."""
        return Redis.from_url(self.url, password=self._secrets["redis_password"], socket_timeout=5)

    def command(self) -> list[str | Path]:
        config = self.home / "redis.conf"
        config.unlink(missing_ok=True)
        with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            password = self._secrets["redis_password"]
            file.write(CONFIG.format(host=LOOPBACK, port=self.port, password=password, home=self.home))
        return [find_program("redis-server", [*on_path("redis-server"), *in_scripts("redis-server")], OLDEST), config]

    def is_ready(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except RedisConnectionError:  # also: it answers, and is still loading its file
                return False
