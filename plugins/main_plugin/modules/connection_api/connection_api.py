"""ConnectionAPI: accounts, sessions and tokens, as a module that the main plugin brings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from core.contracts import Kind
from core.modules.base_module import BaseModule
from core.web.paging import Pager
from core.web.routing import ADMIN, Route
from plugins.main_plugin.modules.connection_api.passwords import Passwords
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from plugins.main_plugin.modules.connection_api.routes import connection_routes
from plugins.main_plugin.modules.connection_api.sessions import Sessions
from plugins.main_plugin.modules.connection_api.users import Users
from tools.error_handling.errors import Conflict
from tools.logger.custom_logger import custom_log, log_function

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_FIRST_ADMIN = "admin"


class ConnectionAPI(BaseModule):
    """Wires users, sessions and routes, and registers the directory in which others look users up."""

    NAME = "connection_api"

    def initialize(self, app_manager: AppManager) -> bool:
        self._config = config = app_manager.config
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))
        self._repository = ConnectionRepository(app_manager.database_manager, app_manager.encryption_manager)
        passwords = Passwords(config["ARGON2_TIME_COST"], config["ARGON2_MEMORY_KIB"], config["ARGON2_CONCURRENCY"], config["ARGON2_QUEUE"])
        self.sessions = Sessions(self._repository, passwords, app_manager.jwt_manager, config["JWT_REFRESH_TTL"], pager)
        self.users = Users(self._repository, passwords, self.sessions, app_manager.hooks_manager, pager)
        self._routes = connection_routes(self.users, self.sessions)
        for hook in ("user_created", "user_erased"):
            app_manager.hooks_manager.declare_hook(hook, Kind.GATE)
        app_manager.services_manager.register_service("user_directory", self.users)
        return True

    @log_function
    def prepare(self) -> None:
        """Make the first admin from the secrets `admin_email` and `admin_password`, while there is none."""
        email, password = self._config["ADMIN_EMAIL"], self._config["ADMIN_PASSWORD"]
        if not (email and password) or self._repository.has_role(ADMIN):
            return
        try:
            user = self.users.create(_FIRST_ADMIN, email, password, ADMIN, trusted=True)
        except Conflict as error:
            # Another copy of us that starts at the same moment, or someone who has this name or address by now.
            if not self._repository.has_role(ADMIN):
                custom_log("there is no admin, and none could be made", level="ERROR", code=error.code)
        else:
            custom_log("first admin made", user_id=user["_id"])

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes
