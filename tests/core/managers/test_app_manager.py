"""The orchestrator: the order of the boot, what a failing stage leaves behind, and the health of everyone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flask import Flask, render_template

from core.managers import app_manager as app_manager_module
from core.managers.app_manager import BOOT_ORDER, AppManager
from core.managers.base import BootError, Manager
from core.vitals import Vitals
from tests.core.conftest import Factory
from tests.support.in_process import booted
from tests.support.logs import kept_logging
from tests.support.plugins import Installer, plugin
from tests.support.polling import eventually
from tools.error_handling.errors import Forbidden, Unavailable
from utils.config.config import Setting
from utils.green import TimeLimitReached


def test_the_order_of_the_boot_is_the_one_of_the_design() -> None:
    wanted = "Vault Database Redis JWT Encryption RateLimiter Hooks Services WebSocket Plugin Module"
    assert [manager_class.__name__ for manager_class in BOOT_ORDER] == [f"{name}Manager" for name in wanted.split()]


# With fakes: what happens when a stage fails


class Fake(Manager):
    """Notes when it starts and ends; `fails` says what goes wrong."""

    log: ClassVar[list[str]] = []
    start: ClassVar[Any] = True
    end: ClassVar[BaseException | None] = None
    state: ClassVar[Any] = "healthy"

    def initialize(self) -> bool:
        self.log.append(f"+{self.name}")
        if isinstance(self.start, BaseException):
            raise self.start
        self.initialized = bool(self.start)
        return self.initialized

    def check(self) -> tuple[str, dict[str, Any]]:
        if isinstance(self.state, BaseException):
            raise self.state
        return self.state, {}

    def dispose(self) -> None:
        self.log.append(f"-{self.name}")
        self.initialized = False
        if self.end is not None:
            raise self.end


def fake(name: str, **traits: Any) -> type[Fake]:
    return type(name, (Fake,), {"name": name, **traits})


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The managers of these tests are no real ones: nobody measures them in the background."""
    monkeypatch.setattr(Vitals, "start", lambda self: None)


@pytest.fixture
def log() -> list[str]:
    Fake.log.clear()
    return Fake.log


@pytest.fixture
def environment(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    own = {"LOG_DIR": tmp_path, "LOG_CONSOLE": "ERROR", "DATA_DIR": tmp_path}
    for key, value in {**environ, **own}.items():
        monkeypatch.setenv(key, str(value))
    with kept_logging():
        yield


@pytest.fixture
def boot(environment: None, log: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Boot with fakes in the places of the managers; those that are not given are harmless ones."""
    made: list[AppManager] = []

    def boot(**given: type[Fake]) -> AppManager:
        order = tuple(given.get(name, fake(name)) for name in (manager_class.name for manager_class in BOOT_ORDER))
        monkeypatch.setattr(app_manager_module, "BOOT_ORDER", order)
        monkeypatch.setattr(app_manager_module.AppManager, "_mount", lambda self, app: None)
        manager = AppManager()
        manager.vault_manager.settings = dict  # type: ignore[method-assign]
        # What the AppManager itself asks of some of them.
        manager.module_manager.all_modules = list  # type: ignore[method-assign,assignment]
        manager.plugin_manager.prepare = manager.module_manager.prepare = lambda: None  # type: ignore[method-assign]
        manager.hooks_manager.trigger = lambda name: []  # type: ignore[method-assign,assignment,misc]
        manager.hooks_manager.announce_stop = lambda: None  # type: ignore[method-assign]
        made.append(manager)
        return manager

    yield boot
    for manager in made:
        manager.settings_refresh.stop()


def test_everyone_starts_in_order_and_ends_in_reverse(boot: Any, log: list[str]) -> None:
    manager = boot()
    assert manager.initialize() is True
    started = [f"+{manager_class.name}" for manager_class in BOOT_ORDER]
    assert log == started
    manager.dispose()
    manager.dispose()
    assert log == started + [f"-{manager_class.name}" for manager_class in reversed(BOOT_ORDER)]


@pytest.mark.parametrize("start", [False, BootError("no disk"), RuntimeError("canary"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_a_stage_that_fails_disposes_what_had_started_in_reverse(start: Any, boot: Any, log: list[str]) -> None:
    manager = boot(redis=fake("redis", start=start))
    with pytest.raises(BaseException) as failure:
        manager.initialize()
    assert log == ["+vault", "+database", "+redis", "-redis", "-database", "-vault"]
    assert isinstance(failure.value, BootError if isinstance(start, (bool, Exception)) else type(start))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (False, "03/11 redis: did not start"),
        (BootError("redis at x: not reachable"), "03/11 redis: redis at x: not reachable"),
        (Unavailable("The store is away."), "03/11 redis: The store is away."),
        (RuntimeError("canary"), "03/11 redis: RuntimeError; server.log has the details"),
    ],
    ids=repr,
)
def test_the_failure_names_its_stage_in_one_line_without_a_strangers_words(start: Any, message: str, boot: Any) -> None:
    with pytest.raises(BootError) as failure:
        boot(redis=fake("redis", start=start)).initialize()
    assert str(failure.value) == message


# Settings of plugins


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed plugin with a setting."""
    Installer(tmp_path, monkeypatch).install("shop", plugin("shop", SETTINGS=(Setting("SHOP_SIZE", int, 3, "The size."),)))


def test_plugins_settings_are_settings(shop: None, boot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGINS", "main_plugin,shop")
    manager = boot()
    manager.vault_manager.settings = lambda: {"shop_size": "7"}
    manager.initialize()
    assert (manager.config["SHOP_SIZE"], manager.config.origin("SHOP_SIZE")) == (7, "vault")


def test_a_bad_setting_of_a_plugin_stops_the_boot_unless_it_is_optional(shop: None, boot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SIZE", "large")
    monkeypatch.setenv("PLUGINS", "main_plugin,shop")
    with pytest.raises(BootError, match=r"^plugin shop: SHOP_SIZE: expected integer$"):
        boot().initialize()
    monkeypatch.setenv("PLUGINS", "main_plugin,?shop")
    manager = boot()
    manager.initialize()
    assert manager.plugins["shop"].error == "ConfigError"
    assert "SHOP_SIZE" not in manager.config


def test_the_cause_of_a_failure_is_chained(boot: Any) -> None:
    cause = RuntimeError("the real reason")
    for start in (cause, BootError("told")):
        with pytest.raises(BootError) as failure:
            boot(redis=fake("redis", start=start)).initialize()
        assert failure.value is not start
        assert failure.value.__cause__ is start


def test_one_that_fails_to_end_does_not_stop_the_others(boot: Any, log: list[str]) -> None:
    manager = boot(hooks=fake("hooks", end=RuntimeError("stuck")), redis=fake("redis", end=ValueError("stuck too")))
    manager.initialize()
    log.clear()
    manager.dispose()
    assert log == [f"-{manager_class.name}" for manager_class in reversed(BOOT_ORDER)]


def test_a_failing_boot_with_failing_ends_still_tells_the_first_failure(boot: Any, log: list[str]) -> None:
    manager = boot(database=fake("database", end=RuntimeError("stuck")), redis=fake("redis", start=BootError("first")))
    with pytest.raises(BootError, match="first"):
        manager.initialize()
    assert log[-3:] == ["-redis", "-database", "-vault"]


def test_missing_secrets_stop_the_boot_before_anyone_starts(
    boot: Any, log: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    with pytest.raises(BootError, match="settings: missing secret vault_role_id, vault_secret_id"):
        boot().initialize()
    assert log == []
    monkeypatch.delenv("VAULT_ADDR")
    with pytest.raises(BootError, match="missing secret mongodb_user, "):
        boot().initialize()
    assert log == ["+vault", "-vault"]


# Health


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, "healthy"),
        ({"hooks": {"state": "degraded"}}, "degraded"),
        ({"hooks": {"state": "unhealthy", "critical": False}}, "degraded"),
        ({"hooks": {"state": "unhealthy"}}, "unhealthy"),
        ({"hooks": {"state": RuntimeError("canary")}}, "unhealthy"),
    ],
    ids=str,
)
def test_the_whole_is_as_healthy_as_its_critical_parts(given: dict[str, dict[str, Any]], status: str, boot: Any) -> None:
    manager = boot(**{name: fake(name, **traits) for name, traits in given.items()})
    manager.initialize()
    report = manager.health()
    assert report["status"] == status
    assert set(report) == {"status", "managers", "modules", "last_check"}
    assert set(report["managers"]) == {manager_class.name for manager_class in BOOT_ORDER}
    assert "canary" not in json.dumps(report)


def test_health_asks_all_managers_at_once(boot: Any) -> None:
    class Slow(Fake):
        def check(self) -> tuple[str, dict[str, Any]]:
            time.sleep(0.5)
            return "healthy", {}

    names = [manager_class.name for manager_class in BOOT_ORDER]
    manager = boot(**{name: type(name, (Slow,), {"name": name}) for name in names})
    manager.initialize()
    began = time.monotonic()
    manager.health()
    assert time.monotonic() - began < len(names) * 0.5


def test_readiness_follows_what_no_request_can_do_without(boot: Any) -> None:
    manager = boot(redis=fake("redis", state="unhealthy"))
    manager.initialize()
    assert manager.readiness()["status"] == "unavailable"
    assert manager.readiness()["checks"]["redis"] == "unhealthy"
    manager = boot(hooks=fake("hooks", state="degraded"))
    manager.initialize()
    assert manager.readiness()["status"] == "ready"
    manager.draining = True
    assert manager.readiness()["status"] == "draining"


@pytest.mark.parametrize(("state", "ready"), [("healthy", True), ("degraded", True), ("unhealthy", False)])
def test_readiness_asks_vault_where_it_is_in_use(state: str, ready: bool, boot: Any) -> None:
    class InUse(Fake):
        def check(self) -> tuple[str, dict[str, Any]]:
            return state, {"enabled": True}

    manager = boot(vault=type("vault", (InUse,), {"name": "vault"}))
    manager.initialize()
    readiness = manager.readiness()
    assert readiness["status"] == ("ready" if ready else "unavailable")
    assert readiness["checks"] == {"database": "healthy", "redis": "healthy", "vault": state}


def test_readiness_does_not_ask_a_vault_that_is_not_in_use(boot: Any) -> None:
    manager = boot()
    manager.initialize()
    assert set(manager.readiness()["checks"]) == {"database", "redis"}


def test_every_manager_says_whether_it_is_critical_and_when_it_was_asked(boot: Any) -> None:
    manager = boot(redis=fake("redis", critical=False, state=RuntimeError("canary")))
    manager.initialize()
    answers = manager.health()["managers"]
    assert {name for name, answer in answers.items() if not answer["critical"]} == {"redis"}
    assert all(answer["last_check"].endswith("Z") for answer in answers.values())


def test_health_is_asked_anew_after_a_few_seconds_only(boot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = boot()
    manager.initialize()
    assert manager.health() is manager.health()
    monkeypatch.setattr(app_manager_module, "_HEALTH_CACHE_SECONDS", 0.0)
    assert manager.health() is not manager.health()


def test_a_manager_whose_check_hangs_does_not_hang_health(boot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hanging(Fake):
        def check(self) -> tuple[str, dict[str, Any]]:
            release.wait(30)
            return "healthy", {}

    monkeypatch.setattr(app_manager_module, "_HEALTH_CHECK_SECONDS", 0.2)
    monkeypatch.setattr(app_manager_module, "_HEALTH_CACHE_SECONDS", 0.0)
    manager = boot(redis=type("redis", (Hanging,), {"name": "redis"}))
    manager.initialize()
    try:
        for _ in range(3):
            report = manager.health()
        answer = report["managers"]["redis"]
        assert (answer["status"], answer["error"], answer["critical"]) == ("unhealthy", "timeout", True)
        assert report["status"] == "unhealthy"
        assert report["managers"]["database"]["status"] == "healthy"
        assert len([thread for thread in threading.enumerate() if thread.name == "health-redis"]) == 1
    finally:
        release.set()
    eventually(lambda: manager.health()["managers"]["redis"]["status"] == "healthy", 5)
    manager.dispose()


def test_a_green_check_that_takes_too_long_is_a_timeout_as_a_native_one_is(boot: Any) -> None:
    manager = boot(redis=fake("redis", state=TimeLimitReached()))
    manager.initialize()
    answer = manager.health()["managers"]["redis"]
    assert (answer["status"], answer["error"]) == ("unhealthy", "timeout")


def test_one_that_has_ended_is_neither_healthy_nor_ready(boot: Any) -> None:
    manager = boot()
    manager.initialize()
    manager.dispose()
    assert manager.health()["status"] == "unhealthy"
    assert manager.readiness()["status"] == "unavailable"


# With the real managers


@pytest.fixture(scope="module")
def application(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    with booted(environ, tmp_path_factory.mktemp("booted")) as manager:
        yield manager


def test_the_application_boots_and_answers(application: AppManager) -> None:
    assert isinstance(application.app, Flask)
    assert application.app.extensions["app_manager"] is application
    answer = application.app.test_client().get("/health")
    assert answer.status_code == 200
    report = answer.get_json()
    assert report["status"] == "healthy"
    assert set(report["managers"]) == {manager_class.name for manager_class in BOOT_ORDER}
    assert {"wallet", "transactions", "connection_api"} <= set(report["modules"])


@pytest.mark.parametrize("state", ["degraded", "unhealthy", "hangs"])
def test_a_module_that_is_not_healthy_makes_the_whole_degraded_and_no_more(
    state: str, application: AppManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def check() -> dict[str, Any]:
        if state == "hangs":
            release.wait(30)
        return {"module": "wallet_module", "status": state}

    monkeypatch.setattr(application, "_health", (float("-inf"), {}))
    monkeypatch.setattr(application.module_manager.get_module("wallet_module"), "health_check", check)
    try:
        report = application.health()
    finally:
        release.set()
    assert report["modules"]["wallet"]["status"] == ("unhealthy" if state == "hangs" else state)
    assert report["managers"]["module"]["status"] == "healthy"
    assert report["status"] == "degraded"
    assert application.readiness()["status"] == "ready"


def test_every_manager_is_an_attribute(application: AppManager) -> None:
    for manager_class in BOOT_ORDER:
        assert isinstance(getattr(application, f"{manager_class.name}_manager"), manager_class)


def test_the_boot_leaves_one_line_a_stage(environ: dict[str, str], tmp_path: Path) -> None:
    with booted(environ, tmp_path):
        lines = [json.loads(line)["message"] for line in (tmp_path / "logs" / "server.log").read_text().splitlines()]
    stages = [line for line in lines if " ready " in line]
    assert [line.rsplit(" ", 2)[0] for line in stages] == [f"{n:02d}/11 {m.name} ready" for n, m in enumerate(BOOT_ORDER, start=1)]


def test_an_app_of_ones_own_is_used(environ: dict[str, str], tmp_path: Path, environment: None) -> None:
    app, manager = Flask("mine"), AppManager()
    try:
        assert manager.initialize(app) is True
        assert manager.app is app
        assert app.test_client().get("/health/live").status_code == 200
    finally:
        manager.dispose()


def test_a_hook_of_a_request_is_triggered_through_the_app_manager(application: AppManager) -> None:
    seen: list[Any] = []
    application.register_hook("after_request", seen.append, context="/health/live")
    assert application.app is not None
    application.app.test_client().get("/health/live")
    application.app.test_client().get("/health/ready")
    assert [fields["route"] for fields in seen] == ["/health/live"]
    assert application.trigger_hook("session_revoked", []) == application.trigger_hook("session_revoked", [])


class Noted(Manager):
    """Notes what it has taken over."""

    name = "noted"
    live_settings = frozenset({"JWT_SECRET"})
    has: str = ""

    def initialize(self) -> bool:
        self.has = self.app_manager.config["JWT_SECRET"]
        self.initialized = True
        return True

    def reload(self) -> None:
        self.initialize()

    def dispose(self) -> None:
        """Nothing to release."""


def test_a_rotated_secret_reaches_its_manager_without_a_restart(
    environ: dict[str, str], copied_secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_manager_module, "BOOT_ORDER", (*BOOT_ORDER, Noted))
    with booted({**environ, "SECRETS_DIR": str(copied_secrets)}, tmp_path, SETTINGS_REFRESH=0.1) as manager:
        noted: Noted = manager.noted_manager  # type: ignore[attr-defined]
        (copied_secrets / "jwt_secret").write_text("short")
        (copied_secrets / "jwt_secret").write_text("rotated " * 8)
        eventually(lambda: noted.has == ("rotated " * 8).strip() == manager.config["JWT_SECRET"], 5)
        assert manager.health()["status"] == "healthy"


def test_templates_of_a_registered_directory_are_found(application: AppManager, tmp_path: Path) -> None:
    assert application.app is not None
    (tmp_path / "late.html").write_text("found {{ what }}")
    application.register_template_dir(tmp_path)
    with application.app.app_context():
        assert render_template("late.html", what="late") == "found late"


def test_the_templates_of_an_app_of_ones_own_are_found_too(environment: None, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "mine.html").write_text("mine")
    app, manager = Flask("mine", root_path=str(tmp_path)), AppManager()
    try:
        manager.initialize(app)
        with app.app_context():
            assert render_template("mine.html") == "mine"
    finally:
        manager.dispose()


def test_a_gate_before_a_request_can_refuse_it_and_its_answer_is_the_one_that_was_raised(application: AppManager) -> None:
    def validate_auth(principal: Any) -> None:
        raise Forbidden("Not today.", code="closed-on-sundays")

    assert application.app is not None
    client = application.app.test_client()
    application.register_hook("before_request", validate_auth, context="/")
    try:
        answer = client.get("/", headers={"Accept": "application/json"})
    finally:
        application.hooks_manager.unregister_hook("before_request", validate_auth)
    assert answer.status_code == 403
    assert (answer.mimetype, json.loads(answer.data)["code"]) == ("application/problem+json", "closed-on-sundays")
    assert client.get("/", headers={"Accept": "application/json"}).status_code == 200


def test_the_stop_is_announced_and_queued_notices_are_heard_while_everything_still_runs(environment: None) -> None:
    manager, heard = AppManager(), []
    manager.initialize()
    hooks = manager.hooks_manager
    hooks.declare_hook("later", asynchronous=True)
    hooks.register_hook("later", lambda data: heard.append((data, manager.redis_manager.health_check()["status"])))
    hooks.register_hook("before_stop", lambda data: hooks.trigger("later", "at the stop"))
    hooks.trigger("later", "before")
    manager.dispose()
    assert heard == [("before", "healthy"), ("at the stop", "healthy")]


def test_what_waits_for_the_boot_hears_of_it(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bool] = []
    manager = AppManager()
    mount = manager._mount

    def mount_and_register(app: Flask) -> None:
        manager.register_hook("after_boot", lambda data: heard.append(manager.app is not None))
        mount(app)

    monkeypatch.setattr(manager, "_mount", mount_and_register)
    try:
        manager.initialize()
        assert heard == [True]
    finally:
        manager.dispose()


def test_hooks_and_events_go_through_the_app_manager(application: AppManager) -> None:
    seen: list[str] = []
    application.hooks_manager.declare_hook("custom_event")
    application.register_hook("custom_event", lambda data: seen.append(f"late {data}"), priority=200)
    application.register_hook("custom_event", lambda data: seen.append(f"early {data}"), priority=1)
    application.register_hook("custom_event", lambda data: seen.append(f"elsewhere {data}"), context="elsewhere")
    application.trigger_hook("custom_event", data="one")
    application.trigger_hook("custom_event", data="two", context="elsewhere")
    assert seen[:2] == ["early one", "late one"]
    assert sorted(seen[2:]) == ["early two", "elsewhere two", "late two"]


def test_a_boot_that_fails_on_a_real_server_leaves_no_connection(app_manager_factory: Factory, environment: None, monkeypatch: Any) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    manager = AppManager()
    with pytest.raises(BootError, match=r"03/11 redis: redis at 127.0.0.1:1/0: not reachable"):
        manager.initialize()
    assert manager.database_manager._roles == {}
    assert not any(getattr(manager, f"{m.name}_manager").initialized for m in BOOT_ORDER)
