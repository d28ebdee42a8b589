"""Services: singletons by key, those of the settings, and what operators see of calls to real HTTP servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from core.managers.base import BootError
from core.managers.services_manager import ServicesManager
from core.services.http_service import HttpService
from core.services.messages import ServiceRefused
from tests.core.conftest import Factory
from tests.support.http_services import HttpServer
from tests.support.logs import logging_to
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from utils.breaker import CircuitBreaker
from utils.config.config import BY_KEY, example_environment

DEFAULTS = {key: setting.default for key, setting in BY_KEY.items() if key.startswith("SERVICE")}
Make = Callable[..., ServicesManager]


@pytest.fixture
def http() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def make() -> Iterator[Make]:
    """A manager with these settings; it uses no other manager."""
    with ExitStack() as stack:

        def made(**settings: Any) -> ServicesManager:
            manager = ServicesManager(SimpleNamespace(config={**DEFAULTS, **settings}))  # type: ignore[arg-type]
            stack.callback(manager.dispose)
            manager.initialize()
            return manager

        yield made


@pytest.fixture
def services(make: Make) -> ServicesManager:
    return make()


def here(*servers: HttpServer, **options: Any) -> HttpService:
    """A service on this machine."""
    return HttpService([server.url for server in servers], private=True, **options)


class Singleton:
    def __init__(self, name: str = "", log: list[str] | None = None, fails: bool = False) -> None:
        self.name, self.log, self.fails, self.initialized = name, log if log is not None else [], fails, False

    def initialize(self) -> None:
        self.initialized = True

    def dispose(self) -> None:
        self.log.append(self.name)
        if self.fails:
            raise RuntimeError("cannot end")


# Singletons


def test_a_service_is_initialised_and_handed_out(services: ServicesManager) -> None:
    one, plain = Singleton(), object()
    services.register_service("one", one)
    services.register_service("plain", plain)
    assert one.initialized
    assert services.get_service("one") is one
    assert services.get_service("plain") is plain
    assert services.health_check("plain") == {"service": "plain", "status": "healthy"}


def test_a_singleton_speaks_for_its_own_health(services: ServicesManager) -> None:
    services.register_service("cache", SimpleNamespace(health_check=lambda: {"status": "degraded", "size": 3}))
    assert services.health_check("cache") == {"service": "cache", "status": "degraded", "size": 3}


def test_a_key_is_taken_once_and_an_unknown_one_is_an_error(services: ServicesManager) -> None:
    services.register_service("one", object())
    with pytest.raises(ValueError, match="service 'one' is registered already"):
        services.register_service("one", object())
    for use in (services.get_service, services.service_health, lambda key: services.call(key, "GET", "/")):
        with pytest.raises(KeyError):
            use("two")
    with pytest.raises(ValueError, match="not called over HTTP"):
        services.call("one", "GET", "/")


def test_services_end_in_reverse_and_one_that_fails_does_not_keep_the_others(services: ServicesManager) -> None:
    log: list[str] = []
    for name in ("a", "b", "c"):
        services.register_service(name, Singleton(name, log, fails=name == "b"))
    services.dispose()
    services.dispose()
    assert log == ["c", "b", "a"]


# Calls


def test_the_calls_of_the_seeds_work_as_written(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("payment_service", here(http))
    services.register_service("notification_service", here(http))
    payment_data = {"amount": 5}
    response = services.call("payment_service", "POST", "/process/echo", data=payment_data)
    assert (response["method"], response["data"]) == ("POST", payment_data)
    health = services.health_check("notification_service")
    assert (health["service"], health["status"]) == ("notification_service", "healthy")
    assert http.seen == ["/process/echo", "/health"]


def test_a_call_sends_json_and_answers_json(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", here(http))
    assert services.call("shop", "get", "/echo")["data"] is None
    assert services.call("shop", "GET", "/empty") is None
    assert services.call("shop", "HEAD", "/echo") is None
    services.call("shop", "POST", "/echo", {"a": 1}, idempotency_key="key-1")
    assert http.headers[-1]["Idempotency-Key"] == "key-1"


@pytest.mark.parametrize("status", [302, 400, 404, 409, 429])
def test_a_refusal_by_the_service_is_no_outage(status: int, services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", here(http))
    for _ in range(6):
        with pytest.raises(ServiceRefused) as refusal:
            services.call("shop", "POST", f"/status/{status}")
        assert (refusal.value.status, refusal.value.answer) == (status, {"reason": "so"})
    assert services.call("shop", "GET", "/echo")["method"] == "GET"


def test_the_breaker_opens_after_failures_and_closes_after_a_success(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", here(http, breaker=CircuitBreaker(3, 0.2), attempts=1))
    for _ in range(3):
        with pytest.raises(Unavailable):
            services.call("shop", "GET", "/status/500")
    with pytest.raises(Unavailable, match="is away"):
        services.call("shop", "GET", "/echo")
    assert len(http.seen) == 3, "an open breaker asks nobody"
    assert services.health_check()["status"] == "degraded"
    assert services.health_check()["away"] == 1
    assert sample("credit_service_breaker_open", service="shop") == 1

    def answered() -> bool:
        try:
            return services.call("shop", "GET", "/echo") is not None
        except Unavailable:
            return False

    assert eventually(answered, 5)
    assert services.health_check()["away"] == 0
    assert sample("credit_service_breaker_open", service="shop") == 0


def test_each_service_has_a_breaker_of_its_own(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", here(http))
    services.register_service("mail", here(http, attempts=1))
    for _ in range(5):
        with pytest.raises(Unavailable):
            services.call("mail", "GET", "/status/500")
    assert services.health_check()["away"] == 1
    assert services.call("shop", "GET", "/echo")


def test_an_address_that_is_out_of_use_shows_in_the_managers_health(services: ServicesManager, http: HttpServer, other: HttpServer) -> None:
    services.register_service("shop", here(http, other, eject_seconds=60))
    http.broken = True
    for _ in range(6):
        services.call("shop", "GET", "/echo")
    assert services.health_check()["ejected_addresses"] == 1
    assert services.health_check()["status"] == "degraded"
    states = {each["address"]: each["status"] for each in services.health_check("shop")["addresses"]}
    assert states == {http.url.removeprefix("http://"): "unhealthy", other.url.removeprefix("http://"): "healthy"}


# What is seen of them


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def test_calls_are_counted_by_service_kind_and_outcome(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("counted", here(http, breaker=CircuitBreaker(2, 60)))
    services.call("counted", "GET", "/echo")
    with pytest.raises(ServiceRefused):
        services.call("counted", "POST", "/status/404")
    for _ in range(3):
        with pytest.raises(Unavailable):
            services.call("counted", "GET", "/status/503")
    counted = {
        (kind, outcome): sample("credit_service_calls_total", service="counted", kind=kind, outcome=outcome)
        for kind, outcome in [("safe", "answered"), ("unsafe", "refused"), ("safe", "failed"), ("safe", "not_tried")]
    }
    assert list(counted.values()) == [1, 1, 2, 1]
    assert sample("credit_service_retries_total", service="counted") == 4
    assert sample("credit_service_ejections_total", service="counted") == 1
    assert sample("credit_service_call_duration_seconds_count", service="counted") == 5


def test_no_log_line_tells_what_was_called_or_with_what(services: ServicesManager, http: HttpServer, tmp_path: Path) -> None:
    word = "canary7f3a"
    services.register_service("shop", here(http, headers={"Authorization": f"Token {word}"}, timeout=0.2, attempts=1))
    with logging_to(tmp_path, level="DEBUG") as logs:
        services.call("shop", "POST", f"/{word}/echo?token={word}", {"password": word}, idempotency_key=word)
        with pytest.raises(ServiceRefused):
            services.call("shop", "POST", f"/status/404?{word}")
        for path in (f"/slow/{word}", f"/closing/{word}", f"/html/{word}"):
            with pytest.raises(Unavailable) as refusal:
                services.call("shop", "POST", path, {"password": word})
            assert word not in json.dumps(refusal.value.problem())
        assert len(logs.lines()) >= 5
        assert word not in logs.text()
        assert {line["service"] for line in logs.lines()} == {"shop"}


# The services of the settings


def test_services_of_the_settings_are_registered(make: Make, http: HttpServer, other: HttpServer) -> None:
    entries = (f"shop={http.url}", f" shop = {other.url}", f"mail={http.url}")
    services = make(SERVICES=entries, SERVICES_PRIVATE=("shop", "mail"), SERVICE_TIMEOUT=0.7, SERVICE_BALANCE="least_pending")
    for _ in range(2):
        services.call("shop", "GET", "/echo")
    assert (http.seen, other.seen) == (["/echo"], ["/echo"])
    assert services.get_service("mail").timeout == 0.7
    assert services.get_service("shop").balance == "least_pending"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SERVICES": ("https://example.com",)}, "SERVICES: "),
        ({"SERVICES": ("=https://example.com",)}, "SERVICES: expected name=url"),
        ({"SERVICES": ("shop=https://user:canary@example.com",)}, "SERVICES: shop: base_url must have neither credentials"),
        ({"SERVICES": ("shop=http://10.0.0.1",)}, "SERVICES: shop: base_url: 10.0.0.1 is no address of the public network"),
        ({"SERVICES_PRIVATE": ("shop",)}, "SERVICES_PRIVATE: shop is not in SERVICES"),
    ],
)
def test_a_service_that_cannot_be_stops_the_boot_by_name(settings: dict[str, Any], message: str, make: Make) -> None:
    with pytest.raises(BootError) as refusal:
        make(**settings)
    assert str(refusal.value).startswith(message)
    assert "canary" not in str(refusal.value)


def test_they_come_from_the_environment_and_from_the_config_file(app_manager_factory: Factory, http: HttpServer, tmp_path: Path) -> None:
    from_environment = app_manager_factory("services", SERVICES=f"shop={http.url},mail={http.url}", SERVICES_PRIVATE="shop,mail")
    assert from_environment.services_manager.call("mail", "GET", "/echo")
    file = tmp_path / "settings.toml"
    file.write_text(f'SERVICES = ["shop={http.url}"]\nSERVICES_PRIVATE = ["shop"]\n')
    from_file = app_manager_factory("services", CONFIG_FILE=file)
    assert from_file.services_manager.call("shop", "GET", "/echo")
    assert "#SERVICES=" in example_environment()
