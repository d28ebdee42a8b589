"""The routes of the system itself: health, metrics, modules, and the operators' view of the rate limiter."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST

from core import metrics
from core.contracts import IDENTIFIER_TYPES, IP, Identifier
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import ADMIN_SCOPE, ADMINS, PUBLIC, Answer, Call, Route
from tools.error_handling.errors import NotFound, Unprocessable
from utils.addresses import is_address
from utils.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")


class SystemRoutes:
    """Handlers that only ask the app manager and its managers."""

    def __init__(self, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self.health, PUBLIC, "Health of all managers and modules", unlimited=True),
            Route("GET", "/health/live", self.live, PUBLIC, "Whether this process runs", unlimited=True),
            Route("GET", "/health/ready", self.ready, PUBLIC, "Whether requests can be served", unlimited=True),
            Route("GET", "/metrics", self.metrics, PUBLIC, "Prometheus metrics", unlimited=True),
            Route("GET", "/.well-known/jwks.json", self.token_keys, PUBLIC, "Public keys of access tokens"),
            Route("GET", "/modules/status", self.modules, ADMINS, "Status of all modules", scope=ADMIN_SCOPE),
            Route("GET", "/modules/{name}/health", self.module, ADMINS, "Health of one module", scope=ADMIN_SCOPE),
            Route("GET", "/rate-limits", self.policies, ADMINS, "All policies of the rate limiter", scope=ADMIN_SCOPE),
            Route("GET", "/rate-limits/{type}/{id}", self.limits, ADMINS, "Rate limit status of an identifier", scope=ADMIN_SCOPE),
            Route("DELETE", "/rate-limits/{type}/{id}", self.clear, ADMINS, "Reset an identifier's counters", scope=ADMIN_SCOPE),
            Route("GET", "/bans", self.bans, ADMINS, "Bans that run", query=PageQuery, scope=ADMIN_SCOPE),
            Route("DELETE", "/bans/{type}/{id}", self.unban, ADMINS, "Lift an identifier's ban", scope=ADMIN_SCOPE),
        ]

    def health(self, call: Call) -> Answer:
        report = self._app_manager.health()
        return Answer(report, 503 if report["status"] == "unhealthy" else 200)

    def live(self, call: Call) -> Answer:
        return Answer({"status": "alive", "last_check": rfc3339(utc_now())})

    def ready(self, call: Call) -> Answer:
        report = self._app_manager.readiness()
        return Answer(report, 200 if report["status"] == "ready" else 503, {} if report["status"] == "ready" else {"Retry-After": "1"})

    def metrics(self, call: Call) -> Answer:
        return Answer(content=metrics.exposition(), content_type=CONTENT_TYPE_LATEST)

    def token_keys(self, call: Call) -> Answer:
        return Answer({"keys": self._app_manager.jwt_manager.public_keys()}, headers={"Cache-Control": "public, max-age=60"})

    def modules(self, call: Call) -> Answer:
        return Answer({"modules": self._app_manager.module_manager.get_module_status()})

    def module(self, call: Call) -> Answer:
        try:
            return Answer(self._app_manager.module_manager.get_module_health(call.params["name"]))
        except KeyError as error:
            raise NotFound("There is no such module.") from error

    def policies(self, call: Call) -> Answer:
        return Answer(self._app_manager.rate_limiter_manager.get_limits())

    def limits(self, call: Call) -> Answer:
        return Answer(self._app_manager.rate_limiter_manager.get_limits(_identifier(call)))

    def clear(self, call: Call) -> Answer:
        self._app_manager.rate_limiter_manager.clear_limits(_identifier(call))
        return Answer(status=204)

    def bans(self, call: Call) -> Answer:
        """A page of the bans that run, in no telling order: by the keyed hash of whom they are for."""
        binding = f"bans:{call.caller.user_id}"
        after = self._pager.position(call.query.cursor, binding)
        rows = self._app_manager.rate_limiter_manager.get_bans(after, call.query.limit + 1)
        return Answer(self._pager.page(rows, call.query.limit, binding, key="name"))

    def unban(self, call: Call) -> Answer:
        self._app_manager.rate_limiter_manager.unban(_identifier(call))
        return Answer(status=204)


def _identifier(call: Call) -> Identifier:
    kind, value = call.params["type"], call.params["id"]
    if kind not in IDENTIFIER_TYPES:
        raise NotFound(f"The type is one of {', '.join(IDENTIFIER_TYPES)}.")
    if kind == IP and not is_address(value):
        raise Unprocessable.of_field("id", "not an IP address")
    if kind != IP and not _ID.fullmatch(value):
        raise Unprocessable.of_field("id", "1 to 128 letters, digits and . _ : @ -")
    return Identifier(kind, value)
