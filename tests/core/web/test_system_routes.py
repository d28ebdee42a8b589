"""The routes of the system: what of them can be shown without a request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.web.system_routes import SystemRoutes
from tests.core.conftest import Factory
from tests.support.in_process import Managers
from tools.error_handling.errors import MalformedRequest

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
BANS = [{"name": f"ip:{number}"} for number in range(4)]


class Limiter:
    """As much of the rate limiter as the list of bans asks for."""

    def get_bans(self, after: str | None, limit: int) -> list[dict[str, Any]]:
        return [ban for ban in BANS if after is None or ban["name"] > after][:limit]


def routes(managers: Managers) -> SystemRoutes:
    managers.rate_limiter_manager = Limiter()
    return SystemRoutes(managers)  # type: ignore[arg-type]


def bans(of: SystemRoutes, cursor: str | None) -> Any:
    """A page with one ban, for an admin."""
    query, caller = SimpleNamespace(cursor=cursor, limit=1), SimpleNamespace(user_id="u_admin")
    return of.bans(SimpleNamespace(query=query, caller=caller)).body  # type: ignore[arg-type]


def test_cursors_follow_the_keys_of_now(app_manager_factory: Factory, rings: Callable[[list[str]], Path]) -> None:
    secrets = rings([OLD])
    managers = app_manager_factory("encryption", SECRETS_DIR=secrets)
    worker = routes(managers)
    promoted, retired = (routes(app_manager_factory("encryption", SECRETS_DIR=rings(ring))) for ring in ([NEW, OLD], [NEW]))
    before = bans(worker, None)
    (secrets / "encryption_key").write_text(f"{NEW}\n{OLD}\n")
    managers.reload("encryption")
    after = bans(worker, before["next_cursor"])
    assert (before["data"], after["data"]) == (BANS[:1], BANS[1:2])
    assert bans(retired, after["next_cursor"])["data"] == BANS[2:3]
    assert bans(worker, bans(promoted, None)["next_cursor"])["data"] == BANS[1:2]
    with pytest.raises(MalformedRequest):
        bans(retired, before["next_cursor"])
