"""New keys reach the workers of a running application, as an operator brings them: new, promote, rotate, retire."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import jwt
import pytest
import requests
from click.testing import CliRunner

from core.cli.keys import keys
from tests.support.app_server import AppServer
from tests.support.client import Client
from tests.support.logs import kept_logging
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tools.local_stack import LocalStack


def kid(client: Client) -> str:
    found: str = jwt.get_unverified_header(client.token)["kid"]
    return found


@pytest.mark.parametrize("mode", ["eventlet", pytest.param("gevent", marks=pytest.mark.gevent)])
def test_keys_are_exchanged_without_a_restart(mode: str, servers: LocalStack, secrets_dir: Path, tmp_path: Path) -> None:
    secrets = copytree(secrets_dir, tmp_path / "secrets")
    with own_database(servers, f"exchanged_{mode}") as database:
        environ = {**servers.environ, "SECRETS_DIR": str(secrets), "MONGODB_DATABASE": database.name}

        def run(*words: str) -> str:
            env = {**environ, "LOG_DIR": str(tmp_path / "logs"), "DATA_DIR": str(tmp_path)}
            with kept_logging():
                done = CliRunner().invoke(keys, words, env=env)
            assert done.exit_code == 0, done.output
            return done.stdout

        with AppServer(environ, tmp_path / "app", ASYNC_MODE=mode, SETTINGS_REFRESH=0.3) as server:

            def loaded(ring: str, count: int) -> bool:
                return f'credit_keys_loaded{{ring="{ring}"}} {count}.0' in requests.get(f"{server.url}/metrics", timeout=10).text

            first = Client.register(server.url)
            made = {}
            for ring in ("jwt", "encryption"):
                made[ring] = run("new", ring, "--write").split()[-1]
                eventually(lambda ring=ring: loaded(ring, 2), 20)
            assert kid(Client.login(server.url, first.user["username"])) == kid(first), "the new key only verifies"
            for ring, fingerprint in made.items():
                run("promote", ring, fingerprint, "--now")
            # All workers sign with it soon; meanwhile whatever one of them signs or writes, the others take.
            newest = eventually(lambda: [c for c in [Client.login(server.url, first.user["username"])] if kid(c) != kid(first)], 20)[0]
            for client in (first, newest) * 5:
                assert client.get("/auth/me")["email"] == first.user["email"]
            run("rotate")
            # A worker that heard of the promotion late may have written under the old key since: retire would refuse.
            eventually(lambda: server.log_text().count("setting ENCRYPTION_KEY has changed and is in use") >= 8, 20)
            run("rotate")
            run("retire", "encryption", "--now")
            run("retire", "jwt", "--now")
            # On connections of their own, so that both workers are asked.
            old, new = ({"Authorization": f"Bearer {client.token}"} for client in (first, newest))

            def answers(headers: dict[str, str]) -> set[int]:
                return {requests.get(f"{server.url}/auth/me", headers=headers, timeout=10).status_code for _ in range(8)}

            eventually(lambda: answers(old) == {401}, 20)
            assert answers(new) == {200}
            assert Client.login(server.url, first.user["email"]).get("/auth/me")["id"] == first.user["id"]
