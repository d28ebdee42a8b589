"""Development secrets: made once, for their owner only."""

from __future__ import annotations

import secrets
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.local_stack.dev_secrets import MAKERS, SecretFiles

ROOT = Path(__file__).parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path / "secrets")
    assert files.create_missing(MAKERS) == list(MAKERS)
    assert mode(files.directory) == 0o700
    assert {mode(files.directory / name) for name in MAKERS} == {0o600}


def test_a_secret_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    (tmp_path / "jwt_secret").write_text("mine")
    files.create_missing(MAKERS)
    first = {name: files[name] for name in MAKERS}
    assert files.create_missing(MAKERS) == []
    assert {name: files[name] for name in MAKERS} == first
    assert first["jwt_secret"] == "mine"


def test_stacks_that_start_together_agree_on_the_secrets(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: SecretFiles(tmp_path).create_missing(MAKERS), range(8)))
    assert sorted(name for names in made for name in names) == sorted(MAKERS)


def test_two_folders_get_different_keys(tmp_path: Path) -> None:
    one, other = SecretFiles(tmp_path / "one"), SecretFiles(tmp_path / "other")
    for files in (one, other):
        files.create_missing(MAKERS)
    public = {"mongodb_user", "mongodb_analytics_user", "mongodb_admin_user", "admin_email"}
    assert {name for name in MAKERS if one[name] == other[name]} == public


def test_vault_gets_the_secrets_of_the_application_only(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    files.create_missing(MAKERS)
    (tmp_path / ".gitkeep").touch()
    (tmp_path / "encryption_key_previous").write_text("older")
    kept_back = {"mongodb_root_password", "mongodb_keyfile", "vault_role_id", "vault_secret_id"}
    kept_back |= {"admin_email", "admin_password"}
    assert set(files.for_vault()) == (set(MAKERS) - kept_back) | {"encryption_key_previous"}


def test_the_folder_named_secrets_does_not_hide_the_standard_library() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import tools.local_stack, secrets; print(secrets.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == secrets.__file__
