"""Development secrets: files that are made once, readable by their owner only, and never overwritten."""

from __future__ import annotations

import base64
import fcntl
import os
import re
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


def _password() -> str:
    return secrets.token_urlsafe(32)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _always(value: str) -> Callable[[], str]:
    return lambda: value


MONGODB: dict[str, Callable[[], str]] = {
    "mongodb_user": _always("credit_app"),
    "mongodb_password": _password,
    "mongodb_analytics_user": _always("credit_analytics"),
    "mongodb_analytics_password": _password,
    "mongodb_admin_user": _always("credit_admin"),
    "mongodb_admin_password": _password,
}
# Known to the stack alone, never to the application.
MONGODB_SERVER: dict[str, Callable[[], str]] = {
    "mongodb_root_password": _password,
    "mongodb_keyfile": lambda: base64.b64encode(secrets.token_bytes(512)).decode(),
}
REDIS: dict[str, Callable[[], str]] = {"redis_password": _password}
APPLICATION: dict[str, Callable[[], str]] = {
    "redis_encryption_key": _fernet_key,
    "encryption_key": _fernet_key,
    "jwt_secret": lambda: secrets.token_urlsafe(64),
    "admin_email": _always("admin@example.com"),
    "admin_password": _password,
}
VAULT: dict[str, Callable[[], str]] = {
    "vault_role_id": lambda: str(uuid.uuid4()),
    "vault_secret_id": lambda: secrets.token_urlsafe(32),
}
MAKERS = {**MONGODB, **MONGODB_SERVER, **REDIS, **APPLICATION, **VAULT}

_NOT_IN_VAULT = re.compile(r"vault_.*|admin_.*|" + "|".join(MONGODB_SERVER))
_SECRET_NAME = re.compile(r"[a-z][a-z0-9_]*")


class SecretFiles:
    """A folder with one file a secret."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __getitem__(self, name: str) -> str:
        return (self.directory / name).read_text().strip()

    def create_missing(self, names: Collection[str]) -> list[str]:
        """Make those of `names` that have no file; returns their names."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            missing = [name for name in names if not (self.directory / name).exists()]
            for name in missing:
                self._write(name, MAKERS[name]())
        return missing

    def for_vault(self) -> dict[str, str]:
        """Every secret of the application that a secrets server should keep, by name."""
        names = (path.name for path in sorted(self.directory.iterdir()) if path.is_file())
        return {name: self[name] for name in names if _SECRET_NAME.fullmatch(name) and not _NOT_IN_VAULT.fullmatch(name)}

    def _write(self, name: str, value: str) -> None:
        # Written aside and renamed: an interrupt never leaves half a key under its name.
        aside = self.directory / f".{name}.new"
        aside.unlink(missing_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(value)
        aside.rename(self.directory / name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Several stacks may share one folder and start together; one at a time makes what is missing."""
        folder = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self.directory.chmod(0o700)
            yield
        finally:
            os.close(folder)
