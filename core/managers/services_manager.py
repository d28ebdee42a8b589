"""ServicesManager: singletons by key, and calls to external HTTP services, counted and logged."""

from __future__ import annotations

import time
from typing import Any

from core import metrics
from core.disposal import dispose_in_reverse
from core.managers.base import BootError, Manager
from core.services.http_service import HttpService
from core.services.messages import Reply, ServiceRefused, ServiceRequest
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log


class ServicesManager(Manager):
    """A registry: local singletons are handed out, HttpServices are called."""

    name = "services"

    def initialize(self) -> bool:
        self._services: dict[str, Any] = {}
        for key, service in self._declared().items():
            self.register_service(key, service)
        self.initialized = True
        return True

    def register_service(self, key: str, instance: Any) -> None:
        """Keep `instance` under `key` and call its `initialize()` if it has one; raises ValueError for a taken key."""
        if key in self._services:
            raise ValueError(f"service {key!r} is registered already")
        if isinstance(instance, HttpService):
            instance.name = key
        if hasattr(instance, "initialize"):
            instance.initialize()
        self._services[key] = instance

    def unregister_service(self, key: str) -> None:
        """Take back a `register_service`, and dispose what it kept."""
        if key in self._services:
            dispose_in_reverse({key: self._services.pop(key)}, "service")

    def get_service(self, key: str) -> Any:
        """The service under `key`; raises KeyError."""
        return self._services[key]

    def call(self, service: str, method: str, path: str, data: Any = None, *, idempotency_key: str | None = None) -> Any:
        """Call an HttpService with JSON `data`; its JSON answer.

        A call that is safe, or has an `idempotency_key` (sent as a header) that makes it so, is tried again where that helps.
        Raises ServiceRefused for a 3xx or 4xx, which says something about the call, Unavailable when the service fails or is
        cut off, ValueError for what cannot be sent, and KeyError for a service that nobody registered.
        """
        target = self._services[service]
        if not isinstance(target, HttpService):
            raise ValueError(f"service {service!r} is not called over HTTP")
        request = ServiceRequest.of(method, path, data, idempotency_key)
        started = time.perf_counter()
        try:
            reply = target.send(request)
        except Unavailable as error:
            self._failed(service, request, error, time.perf_counter() - started)
            raise
        self._answered(service, request, reply, time.perf_counter() - started)
        if reply.is_refusal:
            raise ServiceRefused(service, reply.status, reply.answer)
        return reply.answer

    def service_health(self, service: str) -> dict[str, Any]:
        """`{service, status, ...}` of one service: what its own `health_check` says where it has one; raises KeyError."""
        instance = self._services[service]
        answer = instance.health_check() if hasattr(instance, "health_check") else {"status": "healthy"}
        return {"service": service, **answer}

    def health_check(self, service: str | None = None) -> dict[str, Any]:
        """With a name: that service's health. Without: this manager's own, like every manager's."""
        return super().health_check() if service is None else self.service_health(service)

    def check(self) -> tuple[str, dict[str, Any]]:
        http = {key: service for key, service in self._services.items() if isinstance(service, HttpService)}
        # Numbers only: everybody may read /health.
        away = sum(service.is_away for service in http.values())
        ejected = sum(len(service.ejected) for service in http.values())
        status = "degraded" if away or ejected else "healthy"
        return status, {"services": len(self._services), "away": away, "ejected_addresses": ejected}

    def dispose(self) -> None:
        services, self._services = getattr(self, "_services", {}), {}
        dispose_in_reverse(services, "service")
        self.initialized = False

    def _declared(self) -> dict[str, HttpService]:
        """The services of the settings: entries `name=url`, several of one name are its addresses."""
        config = self.app_manager.config
        urls: dict[str, list[str]] = {}
        for entry in config["SERVICES"]:
            key, _, url = entry.partition("=")
            urls.setdefault(key.strip(), []).append(url.strip())
        unknown = sorted(set(config["SERVICES_PRIVATE"]) - set(urls))
        if unknown or "" in urls:
            raise BootError(f"SERVICES_PRIVATE: {', '.join(unknown)} is not in SERVICES" if unknown else "SERVICES: expected name=url")
        options = {
            "timeout": config["SERVICE_TIMEOUT"],
            "balance": config["SERVICE_BALANCE"],
            "probe": config["SERVICE_PROBE"],
            "upkeep_seconds": config["SERVICE_UPKEEP_SECONDS"],
        }
        return {key: _declare(key, addresses, options, key in config["SERVICES_PRIVATE"]) for key, addresses in urls.items()}

    # What operators see: never a path (it may name someone), a query, a body or a header

    def _answered(self, service: str, request: ServiceRequest, reply: Reply, seconds: float) -> None:
        _count(service, request, "refused" if reply.is_refusal else "answered", seconds)
        custom_log("service call", service=service, method=request.method, status=reply.status, duration_ms=round(seconds * 1000, 1))

    def _failed(self, service: str, request: ServiceRequest, error: Unavailable, seconds: float) -> None:
        reason = type(error.__cause__).__name__ if error.__cause__ is not None else "breaker open"
        _count(service, request, "failed" if error.__cause__ is not None else "not_tried", seconds)
        elapsed = round(seconds * 1000, 1)
        custom_log("service call failed", level="WARNING", service=service, method=request.method, error=reason, duration_ms=elapsed)


def _declare(key: str, urls: list[str], options: dict[str, Any], private: bool) -> HttpService:
    try:
        return HttpService(urls, private=private, **options)
    except ValueError as error:
        raise BootError(f"SERVICES: {key}: {error}") from error


def _count(service: str, request: ServiceRequest, outcome: str, seconds: float) -> None:
    metrics.SERVICE_CALLS.labels(service, request.kind, outcome).inc()
    metrics.SERVICE_SECONDS.labels(service).observe(seconds)
