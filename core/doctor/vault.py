"""Vault or OpenBao: whether its door opens for us, for how long, and no wider than it must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from core.doctor.finding import Finding, fail, ok, warn
from core.managers.vault_session import VAULT_ERRORS, VaultSession

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_SHORT = 60
_ROOT = "root"


def vault(app_manager: AppManager) -> Iterator[Finding]:
    """Nothing where there is none; a wrapped secret id is left for the server, which it opens Vault for once."""
    config = app_manager.config
    if not config["VAULT_ADDR"]:
        return
    if config["VAULT_WRAPPED_SECRET_ID"]:
        yield ok("vault.login", "not tried: the wrapped secret id is for the server")
        return
    session = VaultSession(app_manager)
    with closing(session):
        try:
            if session.health().get("sealed"):
                yield fail("vault.seal", "is sealed", "Unseal it.")
                return
            session.sign_in()
            token = session.call(lambda client: client.auth.token.lookup_self())["data"]
        except VAULT_ERRORS as error:
            yield fail("vault.login", f"does not work ({type(error).__name__})", "Look at VAULT_ADDR, vault_role_id and vault_secret_id.")
            return
        yield ok("vault.login", "by AppRole")
        policies = sorted(token.get("policies", ()))
        if _ROOT in policies:
            yield fail("vault.policies", "our token may do everything", "Bind the AppRole to a policy that reads our path alone.")
        else:
            yield ok("vault.policies", ", ".join(policies))
        lives, renewable = token.get("ttl", 0), token.get("renewable", False)
        said = f"a token lives {lives} s and is {'renewable' if renewable else 'not renewable'}"
        if lives and lives < _SHORT:
            yield warn("vault.token", said, "Give the AppRole a token_ttl of some minutes at least.")
        else:
            yield ok("vault.token", said)
