"""The routes of the system itself: health, metrics, modules, and the operators' view of the rate limiter."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST

from core import metrics
from core.contracts import IDENTIFIER_TYPES, IP, Identifier
from core.web.answers import NOTHING, Page
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import ADMIN_SCOPE, ADMINS, PUBLIC, Answer, Call, Route
from core.web.system_views import (
    AliveView,
    BanView,
    HealthView,
    LimitsView,
    ModulesView,
    PartHealth,
    PoliciesView,
    ReadinessView,
    WebKeys,
)
from tools.error_handling.errors import NotFound, Unprocessable
from utils.addresses import is_address
from utils.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_LIMITS = "/rate-limits/{type}/{id}"
_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")


class SystemRoutes:
    """Handlers that only ask the app manager and its managers."""

    def __init__(self, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))

    def routes(self) -> list[Route]:
        """All of them, with what they answer."""
        of_system: dict[str, Any] = {"roles": PUBLIC, "unlimited": True}
        of_metrics = {**of_system, "secret": "METRICS_TOKEN", "refuses": ("401 token-invalid",)}
        for_admins: dict[str, Any] = {"roles": ADMINS, "scope": ADMIN_SCOPE}
        health = {200: HealthView, 503: HealthView}
        ready = {200: ReadinessView, 503: ReadinessView}
        return [
            Route("GET", "/health", self.health, summary="Health of all managers and modules", answers=health, **of_system),
            Route("GET", "/health/live", self.live, summary="Whether this process runs", answers=AliveView, **of_system),
            Route("GET", "/health/ready", self.ready, summary="Whether requests can be served", answers=ready, **of_system),
            Route("GET", "/metrics", self.metrics, summary="Prometheus metrics", answers={200: "text/plain"}, **of_metrics),
            Route("GET", "/.well-known/jwks.json", self.token_keys, PUBLIC, "Public keys of access tokens", answers=WebKeys),
            Route("GET", "/modules/status", self.modules, summary="Status of all modules", answers=ModulesView, **for_admins),
            Route("GET", "/modules/{name}/health", self.module, summary="Health of one module", answers=PartHealth, **for_admins),
            Route("GET", "/rate-limits", self.policies, summary="All policies of the rate limiter", answers=PoliciesView, **for_admins),
            Route("GET", _LIMITS, self.limits, summary="Rate limit status of an identifier", answers=LimitsView, **for_admins),
            Route("DELETE", _LIMITS, self.clear, summary="Reset an identifier's counters", answers=NOTHING, **for_admins),
            Route("GET", "/bans", self.bans, summary="Bans that run", query=PageQuery, answers=Page[BanView], **for_admins),
            Route("DELETE", "/bans/{type}/{id}", self.unban, summary="Lift an identifier's ban", answers=NOTHING, **for_admins),
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
    return checked_identifier(call.params["type"], call.params["id"])


def checked_identifier(kind: str, value: str) -> Identifier:
    """Whom a path or an operator names; NotFound, Unprocessable."""
    if kind not in IDENTIFIER_TYPES:
        raise NotFound(f"The type is one of {', '.join(IDENTIFIER_TYPES)}.")
    if kind == IP and not is_address(value):
        raise Unprocessable.of_field("id", "not an IP address")
    if kind != IP and not _ID.fullmatch(value):
        raise Unprocessable.of_field("id", "1 to 128 letters, digits and . _ : @ -")
    return Identifier(kind, value)
