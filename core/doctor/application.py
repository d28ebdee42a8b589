"""The application itself, started once for a moment: whether it boots, and what it says of itself then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.contracts import USER_DIRECTORY
from core.doctor.finding import Finding, fail, ok, warn
from core.managers.base import BootError
from core.migrations import runner
from tools.error_handling.errors import NotFound

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


def application(app_manager: AppManager) -> Iterator[Finding]:
    """`app_manager` has not been started yet."""
    try:
        app_manager.spare_wrapped_secret_id()
        app_manager.initialize()
    except BootError as error:
        yield fail("application.boot", str(error), "Mend that; nothing starts before.")
        return
    try:
        yield ok("application.boot", f"{len(app_manager.managers())} managers, {len(app_manager.chain.routes)} routes")
        yield from _plugins(app_manager)
        yield from _migrations(app_manager)
        yield from _first_admin(app_manager)
    finally:
        app_manager.dispose()


def _plugins(app_manager: AppManager) -> Iterator[Finding]:
    off = [f"{plugin.key} ({plugin.error})" for plugin in app_manager.plugins if plugin.is_off]
    if off:
        yield warn("application.plugins", f"off: {', '.join(off)}", "Install what they need, or take them out of PLUGINS.")
    else:
        yield ok("application.plugins", ", ".join(plugin.key for plugin in app_manager.plugins) or "none")


def _migrations(app_manager: AppManager) -> Iterator[Finding]:
    found = runner.status(app_manager.database_manager)
    changed = [each.migration.id for each in found if each.state == runner.CHANGED]
    pending = [each.migration.id for each in found if each.state == runner.PENDING and each.documents]
    if changed:
        yield fail(
            "application.migrations", f"changed after they were applied: {', '.join(changed)}", "Deploy the release that applied them."
        )
    elif pending:
        yield warn("application.migrations", f"pending: {', '.join(pending)}", "flask migrations run")
    else:
        yield ok("application.migrations", "none is pending")


def _first_admin(app_manager: AppManager) -> Iterator[Finding]:
    """Whether whoever could read the secrets at the first start still gets in."""
    config, name = app_manager.config, "application.first_admin"
    try:
        directory = app_manager.services_manager.get_service(USER_DIRECTORY)
    except KeyError:
        return
    email, password = config["ADMIN_EMAIL"], config["ADMIN_PASSWORD"]
    try:
        if email and password and directory.has_password(email, password):
            advice = "Set another (PUT /auth/password), and remove the secrets admin_email and admin_password."
            yield warn(name, "still has the password of the secret admin_password", advice)
            return
    except NotFound:
        yield ok(name, "not made yet, or of another address by now")
        return
    yield ok(name, "does not have the password of the secrets")
