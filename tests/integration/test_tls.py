"""TLS to MongoDB and Redis, by setting, with certificates of an authority of our own: real servers that speak nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from core.managers.base import BootError
from tests.support.app_server import AppServer
from tests.support.certificates import Certificates
from tests.support.client import Client
from tests.support.in_process import Managers
from tools.local_stack import dev_secrets
from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.mongod import Mongod
from tools.local_stack.ports import LOOPBACK
from tools.local_stack.redis_server import RedisServer

Settings = dict[str, Any]


class TlsRedis(RedisServer):
    """A Redis of Debian's, which has TLS (in the package redis-tools, under another name), and listens for nothing else."""

    def __init__(self, folder: Path, secrets: SecretFiles, certificates: Certificates) -> None:
        super().__init__(folder, secrets)
        self._certificates = certificates

    def command(self) -> list[str | Path]:
        program = shutil.which("redis-check-rdb")
        if program is None:
            pytest.skip("needs a Redis with TLS: apt-get install redis-tools")
        named = self.home / "redis-server"
        named.unlink(missing_ok=True)
        named.symlink_to(program)
        made = self._certificates
        options = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", made.server, "--tls-key-file", made.server]
        return [named, super().command()[-1], *options, "--tls-ca-cert-file", made.authority]

    def client(self) -> Redis:
        made = self._certificates
        files = {"ssl_ca_certs": str(made.authority), "ssl_certfile": str(made.client), "ssl_keyfile": str(made.client)}
        return Redis(host=LOOPBACK, port=self.port, password=self._secrets["redis_password"], ssl=True, **files)


class TlsMongod(Mongod):
    """A mongod that goes on with TLS alone once it is set up."""

    certificates: Certificates | None = None

    def command(self) -> list[str | Path]:
        made = self.certificates
        more: Sequence[str | Path] = (
            ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", made.server, "--tlsCAFile", made.authority) if made else ()
        )
        return [*super().command(), *more]

    def set_up(self) -> None:
        if self.certificates is None:
            super().set_up()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def over_tls(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that lead to both servers; each wants a certificate of its clients too."""
    folder = tmp_path_factory.mktemp("tls")
    secrets = SecretFiles(folder / "secrets")
    secrets.create_missing(dev_secrets.MAKERS)
    redis = TlsRedis(folder, secrets, certificates)
    mongod = TlsMongod(folder, secrets, database="credit_system", cache_gb="0.25")
    try:
        redis.start()
        mongod.start()
        mongod.stop()
        mongod.certificates = certificates
        mongod.start()
        yield {
            "SECRETS_DIR": str(secrets.directory),
            "DATA_DIR": str(folder),
            "MONGODB_URI": mongod.uri,
            "MONGODB_CONNECT_SECONDS": "20",
            "REDIS_URL": redis.url.replace("redis://", "rediss://"),
            **{f"{server}_CA_FILE": str(certificates.authority) for server in ("MONGODB", "REDIS")},
            **{f"{server}_CERTIFICATE_FILE": str(certificates.client) for server in ("MONGODB", "REDIS")},
        }
    finally:
        redis.stop()
        mongod.stop()


@pytest.mark.parametrize("mode", ["eventlet", pytest.param("gevent", marks=pytest.mark.soak)])
def test_credits_are_moved_over_tls(over_tls: Settings, tmp_path: Path, mode: str) -> None:
    with AppServer(over_tls, tmp_path, WORKERS=1, ASYNC_MODE=mode) as server:
        admin = Client.admin(server.url, Path(over_tls["SECRETS_DIR"]))
        alice, bob = Client.register(server.url), Client.register(server.url)
        admin.grant(alice.wallet()["id"], 100)
        transfer = {"source": alice.wallet()["id"], "destination": bob.wallet()["id"], "amount": 1}
        with tls_client(over_tls) as redis:
            before = redis.info("stats")["total_connections_received"]
            for number in range(20):
                assert alice.call("POST", "/transfers", transfer, key=f"{number}").status_code == 201
            # Connections are kept: what TLS itself sends on them is no sign that one was closed.
            assert redis.info("stats")["total_connections_received"] - before < 10
        assert bob.wallet()["available"] == 20


@pytest.mark.parametrize(
    ("manager", "changes", "why"),
    [
        ("redis", {"REDIS_CA_FILE": "stranger"}, r"its certificate is not trusted \(REDIS_CA_FILE\)"),
        ("database", {"MONGODB_CA_FILE": "stranger"}, r"its certificate is not trusted \(MONGODB_CA_FILE\)"),
        ("redis", {"REDIS_CA_FILE": "nowhere"}, "REDIS_CA_FILE: cannot use .*FileNotFoundError"),
        ("database", {"MONGODB_CERTIFICATE_FILE": "authority"}, "MONGODB_CERTIFICATE_FILE: cannot use .*SSLError"),
        ("redis", {"REDIS_CERTIFICATE_FILE": ""}, "redis at .*: "),
    ],
)
def test_without_the_right_files_nothing_starts(
    over_tls: Settings, certificates: Certificates, manager: str, changes: dict[str, str], why: str
) -> None:
    paths = {key: str(certificates.authority.with_name(f"{name}.pem")) if name else "" for key, name in changes.items()}
    with pytest.raises(BootError, match=why):
        Managers({**over_tls, "MONGODB_CONNECT_SECONDS": "0", **paths}, "encryption", manager)


def test_an_address_without_tls_is_refused_where_certificates_are_given(over_tls: Settings) -> None:
    plain = over_tls["REDIS_URL"].replace("rediss://", "redis://")
    with pytest.raises(BootError, match="REDIS_CA_FILE is only of use with a REDIS_URL that begins with rediss://"):
        Managers({**over_tls, "REDIS_URL": plain}, "redis")


def tls_client(settings: Settings) -> Redis:
    secrets = SecretFiles(Path(settings["SECRETS_DIR"]))
    own = settings["REDIS_CERTIFICATE_FILE"]
    options = {"ssl_ca_certs": settings["REDIS_CA_FILE"], "ssl_certfile": own, "ssl_keyfile": own}
    return Redis.from_url(settings["REDIS_URL"], password=secrets["redis_password"], **options)
