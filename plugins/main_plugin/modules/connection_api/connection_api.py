"""ConnectionAPI: accounts, sessions, tokens, API keys and cached queries, as a module that the main plugin brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from core.census import Census
from core.contracts import API_KEYS, Kind, UserEvent
from core.modules.base_module import BaseModule
from core.web.paging import Pager
from core.web.routing import ADMIN, Principal, Route
from plugins.main_plugin.modules.connection_api.api_keys import ApiKeys
from plugins.main_plugin.modules.connection_api.census import SessionCount
from plugins.main_plugin.modules.connection_api.key_repository import KeyRepository
from plugins.main_plugin.modules.connection_api.login_brake import LoginBrake
from plugins.main_plugin.modules.connection_api.passwords import Passwords
from plugins.main_plugin.modules.connection_api.queries import QUERY_SECONDS, Queries
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from plugins.main_plugin.modules.connection_api.routes import connection_routes
from plugins.main_plugin.modules.connection_api.schemas import CreateUserBody, user_view
from plugins.main_plugin.modules.connection_api.sessions import Sessions
from plugins.main_plugin.modules.connection_api.users import Users
from tools.error_handling.error_handler import from_validation
from tools.error_handling.errors import Conflict
from tools.logger.custom_logger import custom_log, log_function

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_FIRST_ADMIN = "admin"
# Modules and plugins are trusted: what they ask for is asked as an admin.
_OURSELVES = Principal("system", ADMIN, "")


class ConnectionAPI(BaseModule):
    """For other modules and plugins: `app_manager.module_manager.get_module("connection_api")`.

    Its methods raise the same typed errors that the routes answer with.
    """

    NAME = "connection_api"

    def initialize(self, app_manager: AppManager) -> bool:
        self._config = config = app_manager.config
        self._jwt = app_manager.jwt_manager
        database, services = app_manager.database_manager, app_manager.services_manager
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))
        self._queries = Queries(database, app_manager.redis_manager)
        self._repository = ConnectionRepository(database, app_manager.encryption_manager)
        passwords = Passwords(config["ARGON2_TIME_COST"], config["ARGON2_MEMORY_KIB"], config["ARGON2_CONCURRENCY"], config["ARGON2_QUEUE"])
        brake = LoginBrake(app_manager.redis_manager, partial(app_manager.encryption_manager.derive_keys, "login-brake"))
        self.sessions = Sessions(self._repository, passwords, self._jwt, brake, refresh_ttl=config["JWT_REFRESH_TTL"], pager=pager)
        self.api_keys = ApiKeys(KeyRepository(database), self._repository, self._jwt, pager, lambda: _scopes(app_manager))
        self.users = Users(
            self._repository, passwords, self.sessions, self.api_keys, queries=self._queries, hooks=app_manager.hooks_manager, pager=pager
        )
        self._routes = connection_routes(self.users, self.sessions, self.api_keys)
        for hook in ("user_created", "user_erased"):
            app_manager.hooks_manager.declare_hook(hook, Kind.GATE, UserEvent, doc="In the transaction in which it happens.")
        services.register_service("user_directory", self.users)
        services.register_service(API_KEYS, self.api_keys)
        self.api_keys.uses.start()
        count = SessionCount(self._repository)
        self._census = Census(database, "sessions", config["METRICS_SECONDS"], count.count, count.show)
        self._census.start()
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

    def dispose(self) -> None:
        if hasattr(self, "_census"):
            self._census.stop()
        if hasattr(self, "api_keys"):
            self.api_keys.uses.stop()

    # Users: `{id, username, email, role, status, created_at}`

    def create_user(self, username: str, email: str, password: str, role: str = "user") -> dict[str, Any]:
        """Make an account with its default wallet, by the same rules as over HTTP. Conflict for a taken name."""
        try:
            body = CreateUserBody.model_validate({"username": username, "email": email, "password": password, "role": role})
        except ValidationError as error:
            raise from_validation(error) from None
        return user_view(self.users.create(body.username, body.email, body.password, body.role))

    def get_user(self, user_id: str) -> dict[str, Any]:
        """The account; NotFound."""
        return user_view(self.users.get(_OURSELVES, user_id))

    def delete_user(self, user_id: str) -> None:
        """Erase the personal data of an account and end its sessions and API keys; NotFound."""
        self.users.erase(_OURSELVES, user_id)

    # Sessions

    def create_session(self, user_id: str, *, user_agent: str = "", fingerprint: str = "") -> dict[str, Any]:
        """Sign an active user in without a password, for another way of proving who it is.

        `{session_id, user, access_token, refresh_token, token_type, expires_in}`; `fingerprint` as `fingerprint_of` makes it.
        """
        return self.sessions.open_for(user_id, user_agent, fingerprint)

    def remove_session(self, session_id: str) -> None:
        """End a session: all its tokens fail from now on."""
        self._jwt.revoke_session(session_id)

    def is_session_active(self, session_id: str) -> bool:
        """Whether the session lives, by the record."""
        return self._jwt.is_session_active(session_id)

    def check_active_sessions(self, session_ids: Sequence[str]) -> set[str]:
        """Which of `session_ids` live, by the record, in one query."""
        return self._jwt.active_sessions(session_ids)

    # Tokens

    def create_tokens(self, session_id: str, *, fingerprint: str = "") -> dict[str, Any]:
        """A new pair for a living session, whose refresh token until now is spent by it; shape as `create_session`."""
        return self.sessions.renew(session_id, fingerprint)

    def validate_token(self, token: str, *, fingerprint: str | None = None) -> dict[str, Any]:
        """The claims of an access token of a session that has not ended; Unauthenticated."""
        return self._jwt.validate_token(token, fingerprint=fingerprint)

    def refresh_token(self, refresh_token: str, *, fingerprint: str | None = None) -> dict[str, Any]:
        """A new pair for a refresh token, which is spent by it; Unauthenticated, also for one that was spent before."""
        return self.sessions.refresh(refresh_token, fingerprint)

    def revoke_token(self, token: str) -> None:
        """End the session of an access or refresh token, and with it all tokens of that log-in; Unauthenticated."""
        self._jwt.revoke_session(self.sessions.session_of(token))

    # Queries

    def execute_query(
        self,
        collection: str,
        query: Mapping[str, Any],
        projection: Sequence[str] | None = None,
        *,
        limit: int = 100,
        sort: Sequence[tuple[str, int]] = (("_id", 1),),
        ttl: int = QUERY_SECONDS,
    ) -> list[dict[str, Any]]:
        """Documents of a public collection or view, as the read-only user sees them, from a cache of up to `ttl` seconds.

        What the ConnectionAPI itself writes is seen at once; who else writes calls `invalidate_queries`. Never build
        `query` from what a client sent without checking it. Forbidden for a private collection.
        """
        return self._queries.execute(collection, query, projection, limit=limit, sort=sort, ttl=ttl)

    def invalidate_queries(self, *collections: str) -> None:
        """Forget what `execute_query` has cached of `collections`; to be called after the commit of a write."""
        self._queries.invalidate(*collections)


def _scopes(app_manager: AppManager) -> frozenset[str]:
    """All scopes that an API key can have: those that the mounted routes need."""
    return frozenset(route.scope for route in app_manager.chain.routes if route.scope is not None)
