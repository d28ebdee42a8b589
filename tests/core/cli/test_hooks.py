"""`flask hooks`: one line for each event that can be listened to."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from core.cli.hooks import hooks
from tests.support.logs import kept_logging


def test_every_event_is_shown_with_its_kind_its_data_and_who_listens(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {**environ, "LOG_DIR": str(tmp_path), "DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    with kept_logging():
        done = CliRunner().invoke(hooks)
    assert done.exit_code == 0, done.output
    lines = {line.split(" ")[0]: line for line in done.output.splitlines()}
    principal = "core.web.routing.Principal | None"
    assert lines["before_request"] == f"before_request (gate; data: {principal}; callbacks: 0) A route is about to run; context: its path."
    assert lines["session_revoked"] == "session_revoked (notice; data: list[str]; callbacks: 1) Sessions have ended; their ids."
    assert lines["user_created"] == "user_created (gate; data: UserEvent; callbacks: 1) In the transaction in which it happens."
