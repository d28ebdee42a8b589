"""Passwords of MongoDB and Redis, replaced while clients use them: for a time the old and the new one are both good."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import pymongo
import redis
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from core.managers.base import BootError
from core.managers.database_clients import tls_options
from core.managers.redis_connections import connection_options
from utils.secret_files import SecretFolder, password

_ROOT = "root"
_SECONDS = 10
_REPLACES = "replaces"


class RedisPassword:
    """That of Redis' one user. Redis keeps several for it; its own configuration is read at its next start. Raises RedisError."""

    def __init__(self, config: Mapping[str, Any], folder: SecretFolder) -> None:
        self._config = config
        self._folder = folder

    def begin(self) -> None:
        """Have a new one besides the old one, and write it into the file."""
        fresh = password()
        self._tell(f">{fresh}")
        self._folder.replace({"redis_password": fresh})

    def finish(self) -> None:
        """Leave only the one of the file."""
        self._tell("resetpass", f">{self._folder['redis_password']}")

    def _tell(self, *rules: str) -> None:
        options = connection_options({**self._config, "REDIS_PASSWORD": self._folder["redis_password"]})
        with redis.Redis.from_url(self._config["REDIS_URL"], **options) as client:
            client.execute_command("ACL", "SETUSER", "default", *rules)


class MongoUsers:
    """Users of MongoDB, which have one password each: a second user takes the place of the first. Raises BootError."""

    def __init__(self, config: Mapping[str, Any], folder: SecretFolder) -> None:
        self._config = config
        self._folder = folder

    def begin(self, kind: str) -> str:
        """Make a user like that of the file `<kind>_user`, and write name and password into the files; its name."""
        old, fresh = self._folder[f"{kind}_user"], password()
        name = f"{old.rsplit('-', 1)[0]}-{secrets.token_hex(4)}"
        with self._root() as root:
            roles = _described(root, old)["roles"]
            custom = {_REPLACES: old}
            root.admin.command("createUser", name, pwd=fresh, roles=roles, mechanisms=["SCRAM-SHA-256"], customData=custom)
        self._folder.replace({f"{kind}_user": name, f"{kind}_password": fresh})
        return name

    def finish(self, kind: str) -> str:
        """Drop the user that the one of the file replaces; its name."""
        name = self._folder[f"{kind}_user"]
        with self._root() as root:
            old = _described(root, name).get("customData", {}).get(_REPLACES)
            if old is None:
                raise BootError(f"mongodb: {name} replaces nobody")
            root.admin.command("dropUser", old)
            root.admin.command("updateUser", name, customData={})
        return str(old)

    def _root(self) -> _Root:
        return _Root(self._config, self._folder["mongodb_root_password"])


class _Root:
    """A client of the all-powerful user for the time of a block; its failures become BootError, without the driver's text."""

    def __init__(self, config: Mapping[str, Any], root_password: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            config["MONGODB_URI"],
            username=_ROOT,
            password=root_password,
            timeoutMS=_SECONDS * 1000,
            w="majority",
            **tls_options(config),
        )

    def __enter__(self) -> MongoClient[dict[str, Any]]:
        return self._client

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._client.close()
        if isinstance(error, PyMongoError):
            raise BootError(f"mongodb: {type(error).__name__}{_code(error)}, as root (mongodb_root_password)") from error


def _described(root: MongoClient[dict[str, Any]], name: str) -> dict[str, Any]:
    found = root.admin.command("usersInfo", name)["users"]
    if not found:
        raise BootError(f"mongodb: there is no user {name}")
    user: dict[str, Any] = found[0]
    return user


def _code(error: PyMongoError) -> str:
    return f" {error.code}" if isinstance(error, pymongo.errors.OperationFailure) else ""
