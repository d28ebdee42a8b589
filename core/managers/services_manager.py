"""ServicesManager: singletons by key, and calls to external HTTP services with time-outs and a breaker each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests

from core.disposal import dispose_in_reverse
from core.managers.base import Manager
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log
from utils import deadline
from utils.breaker import CircuitBreaker
from utils.green import TimeLimitReached, time_limit

_BREAKER_FAILURES = 5
_BREAKER_SECONDS = 10.0
_CLIENT_ERROR, _SERVER_ERROR = 400, 500


class ServiceRefused(Exception):
    """A service answered 4xx: it is well, and does not want what it was asked for."""

    def __init__(self, service: str, status: int) -> None:
        super().__init__(f"{service} answered {status}")
        self.status = status


@dataclass
class HttpService:
    """An external service: where it is, how long a call may take, and how its health is asked."""

    base_url: str
    timeout: float = 2.0
    health_path: str = "/health"
    breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(_BREAKER_FAILURES, _BREAKER_SECONDS))

    def __post_init__(self) -> None:
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ValueError("base_url must be an http or https address")


class ServicesManager(Manager):
    """A registry: local singletons are handed out, HttpServices are called."""

    name = "services"

    def initialize(self) -> bool:
        self._services: dict[str, Any] = {}
        self._http = requests.Session()
        # Credentials for external services come from our settings, never from a stray .netrc or proxy variable.
        self._http.trust_env = False
        self.initialized = True
        return True

    def register_service(self, key: str, instance: Any) -> None:
        """Keep `instance` under `key` and call its `initialize()` if it has one; raises ValueError for a taken key."""
        if key in self._services:
            raise ValueError(f"service {key!r} is registered already")
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

    def call(self, service: str, method: str, path: str, data: Any = None) -> Any:
        """Call an HttpService with JSON `data`; its JSON answer.

        Raises ServiceRefused for a 4xx, which says something about the call, and Unavailable when the service fails or
        is cut off.
        """
        target: HttpService = self._services[service]
        if not target.breaker.allows():
            raise Unavailable(f"The service {service} is away.", retry_after=int(_BREAKER_SECONDS))
        started = time.perf_counter()
        seconds = min(target.timeout, deadline.remaining(target.timeout))
        address = target.base_url.rstrip("/") + path
        try:
            # The client's own time-out is for each read: a server that drips would be waited for without end.
            with time_limit(seconds):
                response = self._http.request(method, address, json=data, timeout=seconds, allow_redirects=False)
            if response.status_code >= _SERVER_ERROR:
                response.raise_for_status()
            refused = response.status_code >= _CLIENT_ERROR
            answer = response.json() if response.content and not refused else None
        except (requests.RequestException, TimeLimitReached, ValueError) as error:
            target.breaker.failed()
            custom_log("service call failed", level="WARNING", service=service, method=method, error=type(error).__name__)
            raise Unavailable(f"The service {service} does not answer.") from error
        target.breaker.succeeded()
        elapsed = round((time.perf_counter() - started) * 1000, 1)
        custom_log("service call", service=service, method=method, status=response.status_code, duration_ms=elapsed)
        if refused:
            raise ServiceRefused(service, response.status_code)
        return answer

    def service_health(self, service: str) -> dict[str, Any]:
        """`{service, status}` of one service: its own health answer, or that of a registered singleton."""
        instance = self._services[service]
        if not isinstance(instance, HttpService):
            return {"service": service, "status": "healthy"}
        try:
            self.call(service, "GET", instance.health_path)
        except (Unavailable, ServiceRefused):
            return {"service": service, "status": "unhealthy"}
        return {"service": service, "status": "healthy"}

    def health_check(self, service: str | None = None) -> dict[str, Any]:
        """With a name: that service's health. Without: this manager's own, like every manager's."""
        return super().health_check() if service is None else self.service_health(service)

    def check(self) -> tuple[str, dict[str, Any]]:
        away = [k for k, s in self._services.items() if isinstance(s, HttpService) and s.breaker.is_open]
        return ("degraded" if away else "healthy"), {"services": len(self._services), "away": away}

    def dispose(self) -> None:
        services, self._services = getattr(self, "_services", {}), {}
        dispose_in_reverse(services, "service")
        if hasattr(self, "_http"):
            self._http.close()
        self.initialized = False
