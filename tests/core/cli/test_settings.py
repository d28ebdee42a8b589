"""`flask settings`: what operators see of the settings, also while servers are down or secrets are missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.cli.settings import settings
from tests.support.app_server import ROOT
from tools.local_stack import LocalStack
from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.openbao import ROLE
from utils.config.config import MASK, SETTINGS


@pytest.fixture
def secrets(stack: LocalStack, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stack.secrets.directory, tmp_path / "own-secrets"))


def environ_of(secrets: Path, **environ: str) -> dict[str, str]:
    """With the servers at addresses where nobody is."""
    nobody = {"MONGODB_URI": "mongodb://127.0.0.1:1/", "REDIS_URL": "redis://127.0.0.1:1/0", "LOG_DIR": str(secrets.parent / "logs")}
    return {**nobody, "SECRETS_DIR": str(secrets), **environ}


def flask(*arguments: str, secrets: Path, **environ: str) -> Result:
    """The command in this process, which saves the imports."""
    return CliRunner().invoke(settings, arguments, env=environ_of(secrets, **environ))


def rows(result: Result) -> dict[str, tuple[str, str]]:
    return {key: (row["value"], row["origin"]) for key, row in json.loads(result.stdout).items()}


def test_every_setting_has_a_line_with_its_value_and_the_source_that_won(secrets: Path) -> None:
    command, environ = [str(ROOT / ".venv/bin/flask"), "settings"], {**os.environ, **environ_of(secrets, PORT="5001")}
    shown = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert [line.split(" = ")[0] for line in lines] == [setting.key for setting in SETTINGS]
    assert {"PORT = 5001 (environment)", "HOST = 127.0.0.1 (default)", f"JWT_SECRET = {MASK} (secret file)"} <= set(lines)
    assert f"SECRETS_DIR = {secrets} (environment)" in lines
    files = SecretFiles(secrets)
    assert not [value for path in secrets.iterdir() if len(value := files[path.name]) > 20 and value in shown.stdout + shown.stderr]


def test_vault_then_files_then_environment_then_default(stack: LocalStack, secrets: Path, tmp_path: Path) -> None:
    assert stack.openbao is not None
    held = stack.openbao.client().secrets.kv.v2
    held.create_or_update_secret("credit-system/other/app", secret={"jwt_issuer": "from-vault", "jwt_secret": "v" * 40})
    config_file = tmp_path / "settings.toml"
    config_file.write_text('JWT_ISSUER = "from-file"\nJWT_AUDIENCE = "from-file"\n')
    environ = dict.fromkeys(("JWT_ISSUER", "JWT_AUDIENCE", "MONGODB_DATABASE"), "from-environment")
    where = {"VAULT_ADDR": stack.environ["VAULT_ADDR"], "VAULT_PATH": "credit-system/other", "CONFIG_FILE": str(config_file)}
    shown = flask("--json", secrets=secrets, **environ, **where)
    assert shown.exit_code == 0, shown.stderr
    found = rows(shown)
    assert found["JWT_ISSUER"] == ("from-vault", "vault")
    assert found["JWT_AUDIENCE"] == ("from-file", "config file")
    assert found["MONGODB_DATABASE"] == ("from-environment", "environment")
    assert found["LOG_LEVEL"] == ("INFO", "default")
    assert found["JWT_SECRET"] == (MASK, "vault")
    assert found["ENCRYPTION_KEY"] == (MASK, "secret file")


def test_what_is_missing_or_unusable_is_named_and_the_rest_is_shown(secrets: Path) -> None:
    (secrets / "jwt_secret").unlink()
    (secrets / "encryption_key").write_text("short")
    shown = flask("--json", secrets=secrets, PORT="many")
    assert shown.exit_code == 3
    wrong = shown.stderr.splitlines()
    assert wrong[0] == "PORT: expected integer"
    assert wrong[1] == "secret encryption_key: shorter than 32 characters"
    assert wrong[2].startswith("missing secret jwt_secret: ")
    assert len(wrong) == 3
    found = rows(shown)
    assert found["JWT_SECRET"] == ("", "default")
    assert (found["PORT"], found["ENCRYPTION_KEY"]) == (("", "unusable"), ("", "unusable"))
    assert found["REDIS_PASSWORD"] == (MASK, "secret file")


def test_a_vault_that_is_away_is_named_and_the_rest_is_shown(secrets: Path) -> None:
    shown = flask("--json", secrets=secrets, VAULT_ADDR="http://127.0.0.1:1")
    assert shown.exit_code == 3
    assert shown.stderr.splitlines() == ["vault at http://127.0.0.1:1: does not answer"]
    assert rows(shown)["JWT_SECRET"] == (MASK, "secret file")


def test_looking_does_not_use_a_wrapped_secret_id_up(stack: LocalStack, secrets: Path) -> None:
    assert stack.openbao is not None
    client = stack.openbao.client()
    wrapped = client.auth.approle.generate_secret_id(ROLE, wrap_ttl="60s")["wrap_info"]["token"]
    (secrets / "vault_secret_id").unlink()
    (secrets / "vault_wrapped_secret_id").write_text(wrapped)
    shown = flask(secrets=secrets, VAULT_ADDR=stack.environ["VAULT_ADDR"])
    assert shown.exit_code == 3
    assert "wrapped secret id" in shown.stderr
    assert client.sys.unwrap(wrapped)["data"]["secret_id"]


def test_missing_ids_and_a_broken_config_file_are_named_too(secrets: Path, tmp_path: Path) -> None:
    (secrets / "vault_role_id").unlink()
    shown = flask(secrets=secrets, VAULT_ADDR="http://127.0.0.1:1")
    assert shown.exit_code == 3
    assert shown.stderr.count("missing secret vault_role_id") == 1
    shown = flask(secrets=secrets, CONFIG_FILE=str(tmp_path / "nowhere.toml"))
    assert shown.exit_code == 3
    assert shown.stderr.splitlines() == [f"CONFIG_FILE: cannot read {tmp_path / 'nowhere.toml'} (FileNotFoundError)"]
    assert f"JWT_SECRET = {MASK} (secret file)" in shown.stdout.splitlines()
