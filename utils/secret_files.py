"""The secret files of a deployment: the one list of them, how each is made, and the folder that holds them."""

from __future__ import annotations

import base64
import datetime
import fcntl
import ipaddress
import os
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PLACEHOLDER = "replace-me"
_CERTIFICATE_DAYS = 365

Maker = Callable[[], str]


def password() -> str:
    """256 bits of chance, in letters that need no quotes anywhere."""
    return secrets.token_urlsafe(32)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def always(value: str) -> Maker:
    """A maker of what is no secret in itself, such as a user's name."""
    return lambda: value


def own_certificate(host: str = "localhost") -> str:
    """A certificate for `host` that signs itself, and its key, as one PEM: to start with, until there is a real one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=_CERTIFICATE_DAYS)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (certificate.public_bytes(pem) + plain).decode()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


MONGODB: dict[str, Maker] = {
    "mongodb_user": always("credit_app"),
    "mongodb_password": password,
    "mongodb_analytics_user": always("credit_analytics"),
    "mongodb_analytics_password": password,
    "mongodb_admin_user": always("credit_admin"),
    "mongodb_admin_password": password,
}
# Known to the stack alone, never to the application.
MONGODB_SERVER: dict[str, Maker] = {
    "mongodb_root_password": password,
    "mongodb_keyfile": lambda: base64.b64encode(secrets.token_bytes(512)).decode(),
}
REDIS: dict[str, Maker] = {"redis_password": password}
APPLICATION: dict[str, Maker] = {
    "redis_encryption_key": _fernet_key,
    "encryption_key": _fernet_key,
    "jwt_secret": lambda: secrets.token_urlsafe(64),
    "admin_email": always("admin@example.com"),
    "admin_password": password,
}
VAULT: dict[str, Maker] = {
    "vault_role_id": lambda: str(uuid.uuid4()),
    "vault_secret_id": lambda: secrets.token_urlsafe(32),
}
# What stands around the application in the compose stack: the front, the dashboards, the ways of an alert.
AROUND: dict[str, Maker] = {
    "metrics_token": password,
    "tls_certificate": own_certificate,
    "grafana_admin_password": password,
    "smtp_password": always(PLACEHOLDER),
    "slack_webhook_url": always(PLACEHOLDER),
}
# Vault's ids come from Vault.
COMPOSE: dict[str, Maker] = {**MONGODB, **MONGODB_SERVER, **REDIS, **APPLICATION, **AROUND}
# Of those that are no settings; a setting says itself how long it must be.
MIN_LENGTHS = {"mongodb_root_password": 12, "mongodb_keyfile": 6, "grafana_admin_password": 12}


class SecretFolder:
    """A folder with one file a secret, readable by their owner only, or by one group besides."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __getitem__(self, name: str) -> str:
        return (self.directory / name).read_text(encoding="utf-8").strip()

    def names(self) -> list[str]:
        """Of all that lies there, but for hidden files."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_file() and not path.name.startswith("."))

    def create_missing(self, makers: Mapping[str, Maker]) -> list[str]:
        """Make those that have no file; returns their names. One that exists is never touched."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            self.directory.chmod(0o700)
            missing = [name for name in makers if not (self.directory / name).exists()]
            for name in missing:
                self._write(name, makers[name]())
        return missing

    def replace(self, values: Mapping[str, str]) -> None:
        """Write these values in place of what was there; owner and mode stay."""
        with self._locked():
            for name, value in values.items():
                self._write(name, value)

    def share(self, names: Collection[str], group: int) -> None:
        """Let the group read these files."""
        for name in names:
            os.chown(self.directory / name, -1, group)
            (self.directory / name).chmod(0o640)

    def _write(self, name: str, value: str) -> None:
        # Written aside and renamed: an interrupt never leaves half a key under its name.
        path, aside = self.directory / name, self.directory / f".{name}.new"
        aside.unlink(missing_ok=True)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(value)
            file.flush()
            if path.exists():
                was = path.stat()
                if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fchmod(file.fileno(), was.st_mode & 0o777)
            os.fsync(file.fileno())
        aside.rename(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Several may share one folder and start together; one at a time makes what is missing."""
        folder = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
