"""A real OpenBao for the tests of everything that has to do with Vault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.managers import vault_manager
from core.managers.vault_manager import VaultManager
from tests.core.conftest import Factory
from tools.local_stack import LocalStack
from tools.local_stack.openbao import LIFETIMES, POLICY, ROLE, OpenBao

MakeVault = Callable[..., VaultManager]


@pytest.fixture
def bao(stack: LocalStack) -> Iterator[OpenBao]:
    """It may be sealed, killed and written to; afterwards it is as it was."""
    assert stack.openbao is not None
    yield stack.openbao
    if not stack.openbao.process.running:
        stack.openbao.start()
    if stack.openbao.client().sys.is_sealed():
        stack.openbao.unseal()


@pytest.fixture
def make(stack: LocalStack, app_manager_factory: Factory) -> Iterator[MakeVault]:
    """A manager that has logged in."""
    made: list[VaultManager] = []

    def make(**settings: object) -> VaultManager:
        own = {"VAULT_ADDR": stack.environ["VAULT_ADDR"], "SECRETS_DIR": stack.environ["SECRETS_DIR"], **settings}
        made.append(app_manager_factory("vault", **own).vault_manager)
        return made[-1]

    yield make
    for each in made:
        each.dispose()


@pytest.fixture
def role(bao: OpenBao) -> Iterator[Callable[..., None]]:
    """Change our AppRole: `role(token_ttl="1s")`; afterwards it is as it was."""

    def change(**traits: Any) -> None:
        bao.client().auth.approle.create_or_update_approle(ROLE, **{"token_policies": [POLICY], **LIFETIMES, **traits})

    yield change
    if bao.process.running and not bao.client().sys.is_sealed():
        change(token_type="service")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The background looks often enough for lives of a second."""
    monkeypatch.setattr(vault_manager, "_LOOK_SECONDS", 0.05)
