"""Development secrets: those of the list of secret files that `make run` needs, made once and never overwritten."""

from __future__ import annotations

import re

from utils.secret_files import APPLICATION, MONGODB, MONGODB_SERVER, REDIS, VAULT, SecretFolder

MAKERS = {**MONGODB, **MONGODB_SERVER, **REDIS, **APPLICATION, **VAULT}

_NOT_IN_VAULT = re.compile(r"vault_.*|admin_.*|" + "|".join(MONGODB_SERVER))
_SECRET_NAME = re.compile(r"[a-z][a-z0-9_]*")


class SecretFiles(SecretFolder):
    """A folder of them."""

    def for_vault(self) -> dict[str, str]:
        """Every secret of the application that a secrets server should keep, by name."""
        return {name: self[name] for name in self.names() if _SECRET_NAME.fullmatch(name) and not _NOT_IN_VAULT.fullmatch(name)}
