"""Real servers for the tests of the local stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.local_stack import LocalStack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One MongoDB, Redis and OpenBao for all tests of a file, which put back what they change."""
    folder = tmp_path_factory.mktemp("stack")
    with LocalStack(folder / "data", folder / "secrets", vault=True, test_commands=True) as running:
        yield running


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A data folder and a secrets folder that do not exist yet."""
    return tmp_path / "data", tmp_path / "secrets"
