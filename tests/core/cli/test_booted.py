"""The managers for one command: on a Vault that the server's ids open only once, a command takes nothing away from the server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.cli.hooks import hooks
from tests.support.logs import kept_logging
from tools.local_stack import LocalStack
from tools.local_stack.openbao import ROLE, OpenBao

Command = Callable[[Path], Result]


@pytest.fixture
def bao(stack: LocalStack) -> OpenBao:
    assert stack.openbao is not None
    return stack.openbao


@pytest.fixture
def command(stack: LocalStack, tmp_path: Path) -> Command:
    """A command that boots, with these secrets."""

    def command(secrets: Path) -> Result:
        folders = {"SECRETS_DIR": str(secrets), "LOG_DIR": str(tmp_path / "logs"), "DATA_DIR": str(tmp_path)}
        with kept_logging():
            return CliRunner().invoke(hooks, env={**stack.environ, **folders})

    return command


def test_a_command_does_not_use_a_wrapped_secret_id_up(command: Command, stack: LocalStack, bao: OpenBao, tmp_path: Path) -> None:
    secrets = Path(shutil.copytree(stack.secrets.directory, tmp_path / "of-the-server"))
    wrapped = bao.client().auth.approle.generate_secret_id(ROLE, wrap_ttl="60s")["wrap_info"]["token"]
    (secrets / "vault_secret_id").unlink()
    (secrets / "vault_wrapped_secret_id").write_text(wrapped)
    ended = command(secrets)
    assert ended.exit_code == 3
    assert ended.stderr.splitlines() == [
        "boot failed: vault: not asked, since the wrapped secret id opens it only once, for the server; "
        "give commands a SECRETS_DIR of their own, with vault_role_id and a vault_secret_id"
    ]
    assert bao.client().sys.unwrap(wrapped)["data"]["secret_id"]


def test_a_secret_id_of_its_own_in_a_folder_of_its_own_is_enough_for_a_command(
    command: Command, stack: LocalStack, bao: OpenBao, tmp_path: Path
) -> None:
    secrets = tmp_path / "of-the-operator"
    secrets.mkdir()
    shutil.copy(stack.secrets.directory / "vault_role_id", secrets)
    (secrets / "vault_secret_id").write_text(bao.client().auth.approle.generate_secret_id(ROLE)["data"]["secret_id"])
    ended = command(secrets)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "user_created" in ended.stdout
