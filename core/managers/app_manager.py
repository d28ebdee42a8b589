"""AppManager: starts the managers in their fixed order, mounts the modules' routes, and stops everything in reverse."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Flask
from jinja2 import ChoiceLoader
from pydantic import BaseModel
from werkzeug.middleware.proxy_fix import ProxyFix

from core import metrics
from core.disposal import dispose_in_reverse
from core.health import HealthChecks
from core.managers.base import BootError, Manager
from core.managers.database_manager import DatabaseManager
from core.managers.encryption_manager import EncryptionManager
from core.managers.hooks_manager import HooksManager
from core.managers.jwt_manager import JWTManager
from core.managers.module_manager import ModuleManager
from core.managers.plugin_manager import PluginManager
from core.managers.rate_limiter_manager import RateLimiterManager
from core.managers.redis_manager import RedisManager
from core.managers.services_manager import ServicesManager
from core.managers.vault_manager import VaultManager
from core.managers.websocket_manager import WebSocketManager
from core.plugin_sources import PluginSet, find_plugins
from core.settings_refresh import SettingsRefresh
from core.vitals import Vitals
from core.web.docs_routes import DocumentationRoutes
from core.web.flask_app import configure_flask_app
from core.web.request_chain import RequestChain
from core.web.security_headers import SecurityHeaders
from core.web.socket_events import SERVER_EVENTS
from core.web.system_routes import SystemRoutes
from tools.error_handling.error_handler import ErrorHandler
from tools.logger.custom_logger import configure_logging, custom_log
from utils import green
from utils.clock import rfc3339, utc_now
from utils.config.config import Config, ConfigError, Setting, check_settings, load_bootstrap, load_config, load_one, load_plain, survey

# The only place where the order of the boot is written down; the stop is its reverse.
BOOT_ORDER: tuple[type[Manager], ...] = (
    VaultManager,
    DatabaseManager,
    RedisManager,
    JWTManager,
    EncryptionManager,
    RateLimiterManager,
    HooksManager,
    ServicesManager,
    WebSocketManager,
    PluginManager,
    ModuleManager,
)
# Without these no request can be served, so readiness asks them.
_NEEDED = ("database", "redis")
# With its last good secrets a degraded Vault does, until they are too old.
_NEEDED_IF_ENABLED = "vault"
_HEALTH_CACHE_SECONDS = 2.0
_HEALTH_CHECK_SECONDS = 2.0


class AppManager:
    """The application: its managers as attributes (`database_manager`, ...), its Flask app, its health."""

    vault_manager: VaultManager
    database_manager: DatabaseManager
    redis_manager: RedisManager
    jwt_manager: JWTManager
    encryption_manager: EncryptionManager
    rate_limiter_manager: RateLimiterManager
    hooks_manager: HooksManager
    services_manager: ServicesManager
    websocket_manager: WebSocketManager
    plugin_manager: PluginManager
    module_manager: ModuleManager

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """`environ` stands in for the process's environment."""
        self.config: Config
        self._environ = () if environ is None else (environ,)
        self.error_handler = ErrorHandler(metrics.count_error)
        self.app: Flask | None = None
        self.chain: RequestChain
        self.plugins: PluginSet
        self.draining = False
        self._started: list[Manager] = []
        self._health_lock = threading.Lock()
        self._health: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._checks = HealthChecks(_HEALTH_CHECK_SECONDS)
        self.settings_refresh = SettingsRefresh(self, lambda: self._read_settings(self.vault_manager.fresh_settings()))
        self._vitals = Vitals(self)
        for manager_class in BOOT_ORDER:
            setattr(self, f"{manager_class.name}_manager", manager_class(self))

    # Boot

    def initialize(self, app: Flask | None = None) -> bool:
        """Start everything, on `app` or on a Flask app of its own. True, or BootError after all that had started is undone."""
        try:
            self._load_settings(lambda: load_bootstrap(*self._environ))
            configure_logging(load_plain(*self._environ))
            self._boot(app)
            self.settings_refresh.start()
            self._vitals.start()
            self.hooks_manager.trigger("after_boot")
        except BaseException as error:
            self.dispose()
            if isinstance(error, BootError) or not isinstance(error, Exception):
                raise
            raise BootError.at("during the boot", error) from error
        return True

    def run(self) -> None:
        """Serve on HOST and PORT in this process until SIGTERM or Ctrl-C; one worker, for development."""
        assert self.app is not None
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.prepare()
            custom_log("listening", address=f"http://{self.config['HOST']}:{self.config['PORT']}", mode=self.websocket_manager.mode)
            self.websocket_manager.socketio.run(self.app, host=self.config["HOST"], port=self.config["PORT"], allow_unsafe_werkzeug=True)
        except KeyboardInterrupt:
            custom_log("stopping")
        finally:
            self.dispose()

    def prepare(self) -> None:
        """What is done once a start, before any worker: collections, indexes, the modules' first records."""
        for line in self.config.describe():
            custom_log(f"setting {line}")
        self.database_manager.prepare()
        self.plugin_manager.prepare()
        self.module_manager.prepare()

    def dispose(self) -> None:
        """Stop the managers in reverse; every one is told, whatever the others do. Safe to call twice."""
        self.settings_refresh.stop()
        self._vitals.stop()
        if self.hooks_manager.initialized:
            self.hooks_manager.announce_stop()
        self._checks.stop()
        self._health = (float("-inf"), {})
        started, self._started = self._started, []
        dispose_in_reverse({manager.name: manager for manager in started}, "manager")
        green.end_native()

    def managers(self) -> list[Manager]:
        """Those that run, in the order of their start."""
        return list(self._started)

    def spare_wrapped_secret_id(self) -> None:
        """For commands: raises BootError where a wrapped secret id opens Vault, since the server could not start with a used one."""
        self._load_settings(lambda: load_bootstrap(*self._environ))
        if self.config["VAULT_ADDR"] and self.config["VAULT_WRAPPED_SECRET_ID"]:
            own = "give commands a SECRETS_DIR of their own, with vault_role_id and a vault_secret_id"
            raise BootError(f"vault: not asked, since the wrapped secret id opens it only once, for the server; {own}")

    def survey_settings(self) -> tuple[Config, list[str]]:
        """For people: every setting as far as it can be told, and what is wrong; asks nobody but Vault."""
        held, wrong = self._held_by_vault()
        config, unusable = survey(held, *self._environ, more=self._declared_by_plugins(held))
        return config, [*wrong, *(line for line in unusable if line not in wrong)]

    def _declared_by_plugins(self, vault: Mapping[str, str]) -> list[Setting]:
        try:
            return find_plugins(load_one("PLUGINS", vault, *self._environ), all_optional=True).settings
        except (BootError, ConfigError):
            return []

    # For modules and plugins, as the seeds have it

    def register_template_dir(self, directory: Any) -> None:
        """Let Jinja find templates in `directory` too."""
        self.plugin_manager.register_template_dir(directory)
        if self.app is not None:
            self._find_templates(self.app)

    def register_hook(self, name: str, callback: Any, priority: int = 100, context: str | None = None) -> None:
        """The hooks manager's `register_hook`."""
        self.hooks_manager.register_hook(name, callback, priority, context)

    def trigger_hook(self, name: str, data: Any = None, context: str | None = None) -> list[Any]:
        """The hooks manager's `trigger`."""
        return self.hooks_manager.trigger(name, data, context)

    # Health

    def health(self) -> dict[str, Any]:
        """`{status, managers, modules, last_check}`; asked anew at most every two seconds, all managers at once."""
        with self._health_lock:
            asked_at, report = self._health
            if time.monotonic() - asked_at >= _HEALTH_CACHE_SECONDS:
                report = self._ask_everyone()
                self._health = (time.monotonic(), report)
            return report

    def readiness(self) -> dict[str, Any]:
        """`{status: ready | draining | unavailable, ...}` with the state of what no request can do without."""
        report = self.health()
        managers = report["managers"]
        checks = {name: managers.get(name, {}).get("status", "unhealthy") for name in _NEEDED}
        ready = all(state == "healthy" for state in checks.values())
        if managers.get(_NEEDED_IF_ENABLED, {}).get("enabled"):
            checks[_NEEDED_IF_ENABLED] = managers[_NEEDED_IF_ENABLED]["status"]
            ready = ready and checks[_NEEDED_IF_ENABLED] != "unhealthy"
        if self.draining:
            status = "draining"
        else:
            status = "ready" if ready else "unavailable"
        return {"status": status, "checks": checks, "last_check": report["last_check"]}

    def _ask_everyone(self) -> dict[str, Any]:
        managers = self.managers()
        modules = {module.NAME: module.NAME.removesuffix("_module") for module in self.module_manager.all_modules()}
        ask_managers = {manager.name: partial(_health_of, manager) for manager in managers}
        ask_modules = {f"module {key}": partial(self.module_manager.get_module_health, key) for key in modules}
        answers = self._checks.ask({**ask_managers, **ask_modules})
        states = {manager.name: answers[manager.name] or _too_late(manager) for manager in managers}
        of_modules = {name: answers[f"module {key}"] or _module_too_late(key) for key, name in modules.items()}
        return {
            "status": _overall(managers, states, of_modules),
            "managers": states,
            "modules": of_modules,
            "last_check": rfc3339(utc_now()),
        }

    # The stages of the boot

    def _boot(self, app: Flask | None) -> None:
        total = len(BOOT_ORDER)
        for number, manager_class in enumerate(BOOT_ORDER, start=1):
            manager: Manager = getattr(self, f"{manager_class.name}_manager")
            began = time.perf_counter()
            # Listed before it starts, so that a half-started one is disposed too.
            self._started.append(manager)
            try:
                started = manager.initialize()
            except Exception as error:
                raise BootError.at(f"{number:02d}/{total} {manager.name}", error) from error
            if not started:
                raise BootError(f"{number:02d}/{total} {manager.name}: did not start")
            elapsed = (time.perf_counter() - began) * 1000
            custom_log(f"{number:02d}/{total} {manager.name} ready {elapsed:.0f} ms")
            if manager is self.vault_manager:
                self._load_settings(self._find_plugins)
                configure_logging(self.config)
        self._mount(app if app is not None else Flask("credit_system", static_folder=None))

    def _find_plugins(self) -> Config:
        """Second pass: which plugins are enabled, then all settings, theirs too."""
        vault = self.vault_manager.settings()
        self.plugins = find_plugins(load_one("PLUGINS", vault, *self._environ))
        for plugin in self.plugins.on:
            try:
                check_settings(plugin.plugin_class.SETTINGS, vault, *self._environ)
            except ConfigError as error:
                plugin.fail(error)
        return self._read_settings(vault)

    def _read_settings(self, vault: Mapping[str, str]) -> Config:
        return load_config(vault, *self._environ, more=self.plugins.settings, left_out=self.plugins.missing_prefixes)

    def _load_settings(self, load: Any) -> None:
        try:
            self.config = load()
        except ConfigError as error:
            raise BootError(f"settings: {error}") from error

    def _held_by_vault(self) -> tuple[dict[str, str], list[str]]:
        """What Vault holds for us (nothing without one), and why that cannot be told."""
        try:
            self.spare_wrapped_secret_id()
            self.vault_manager.initialize()
            return self.vault_manager.settings(), []
        except BootError as error:
            return {}, [str(error).removeprefix("settings: ")]
        finally:
            self.vault_manager.dispose()

    def _mount(self, app: Flask) -> None:
        configure_flask_app(app, self.config)
        self.chain = RequestChain(app, self)
        self.chain.mount(SystemRoutes(self).routes())
        for module in self.module_manager.all_modules():
            self.chain.mount(module.routes)
        self.chain.mount(self.plugin_manager.routes)
        # The last: it describes all that is mounted.
        self.chain.mount(DocumentationRoutes(self.chain.routes, self.websocket_manager.events, self._sent_events()).routes)
        self._own_templates = app.jinja_loader
        self._find_templates(app)
        self.websocket_manager.attach(app)
        app.wsgi_app = SecurityHeaders(app.wsgi_app)  # type: ignore[method-assign]
        if self.config["PROXY_COUNT"]:
            hops = self.config["PROXY_COUNT"]
            # After Socket.IO has wrapped the app, or its requests would be seen as coming from the proxy.
            app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
        app.extensions["app_manager"] = self
        self.app = app

    def _sent_events(self) -> dict[str, type[BaseModel]]:
        """What sockets are told, by the core and by all modules."""
        of_modules = (module.SENDS for module in self.module_manager.all_modules())
        return {name: model for sends in (SERVER_EVENTS, *of_modules) for name, model in sends.items()}

    def _find_templates(self, app: Flask) -> None:
        """In the folders of modules and plugins first, then where the app itself has them."""
        own = [] if self._own_templates is None else [self._own_templates]
        app.jinja_loader = ChoiceLoader([self.plugin_manager.template_loader(), *own])


def _health_of(manager: Manager) -> dict[str, Any]:
    try:
        return manager.health_check()
    except green.TimeLimitReached:
        # Who asks has stopped to wait: no failure of the check.
        raise
    except Exception as error:  # noqa: BLE001  a broken check is a finding, not a failure of who asks
        return _unanswered(manager, type(error).__name__)


def _too_late(manager: Manager) -> dict[str, Any]:
    return _unanswered(manager, "timeout")


def _unanswered(manager: Manager, error: str) -> dict[str, Any]:
    answer = {"manager": f"{manager.name}_manager", "status": "unhealthy", "initialized": manager.initialized}
    return {**answer, "critical": manager.critical, "error": error, "last_check": rfc3339(utc_now())}


def _module_too_late(key: str) -> dict[str, Any]:
    return {"module": key, "status": "unhealthy", "error": "timeout"}


def _overall(managers: list[Manager], states: dict[str, dict[str, Any]], modules: dict[str, dict[str, Any]]) -> str:
    """What is critical makes the whole unhealthy; any other manager, and any module, degraded."""
    if not managers or any(manager.critical and states[manager.name]["status"] == "unhealthy" for manager in managers):
        return "unhealthy"
    return "healthy" if all(answer["status"] == "healthy" for answer in (*states.values(), *modules.values())) else "degraded"
