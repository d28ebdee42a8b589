"""More members for the embedded MongoDB: a real replica set, whose elections take about a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.mongod import Mongod
from tools.local_stack.ports import LOOPBACK
from tools.local_stack.process import ServerFailed
from tools.local_stack.replica_set import REPLICA_SET, ROOT_USER, join, wait_for_member

CACHE_GB = "0.3"


class Member(Mongod):
    """A further member of `first`'s set, which it joins at its first start; it has all data when it is ready."""

    def __init__(
        self,
        first: Mongod,
        number: int,
        data_dir: Path,
        secrets: SecretFiles,
        *,
        database: str,
        test_commands: bool = False,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.name = f"mongodb-{number}"
        self.program = f"mongod-{number}"
        super().__init__(data_dir, secrets, database=database, cache_gb=CACHE_GB, test_commands=test_commands, keep_open=keep_open)
        self._first = first
        self._number = number

    def set_up(self) -> None:
        password = self._secrets["mongodb_root_password"]
        joined = self.home / "joined"
        if not joined.exists():
            join(self._first.port, self.port, self._number, password)
            joined.touch()
        wait_for_member(self.port)


class ReplicaSet:
    """The members of a set together, to find out who is primary, and to make it somebody else."""

    def __init__(self, members: Sequence[Mongod], secrets: SecretFiles) -> None:
        self.members = members
        self._secrets = secrets

    @property
    def uri(self) -> str:
        """The address for applications; it holds no credentials."""
        hosts = ",".join(f"{LOOPBACK}:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={REPLICA_SET}"

    def client(self) -> MongoClient[dict[str, Any]]:
        """A client of the all-powerful root user, which follows the primary; to be closed by the caller."""
        password = self._secrets["mongodb_root_password"]
        return MongoClient(self.uri, username=ROOT_USER, password=password, serverSelectionTimeoutMS=20_000)

    def primary(self) -> Mongod:
        """The member that is primary, as soon as there is one."""
        with self.client() as client:
            client.admin.command("ping")
            port = client.address[1] if client.address is not None else 0
        for member in self.members:
            if member.port == port:
                return member
        raise ServerFailed("the primary is none of the set's members")

    def step_down(self) -> None:
        """Have the primary hand over to another member, at once and whatever runs on it."""
        with self.primary().client() as client:
            client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=1, force=True)
