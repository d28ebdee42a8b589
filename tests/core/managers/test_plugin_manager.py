"""Plugins: which start, in which order, what they may bring, and what is left of those that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Environment, TemplateNotFound
from prometheus_client import REGISTRY
from pydantic import BaseModel

from core.contracts import Kind
from core.managers.base import BootError
from core.managers.module_manager import ModuleManager
from core.managers.plugin_manager import PluginManager
from core.web.routing import EVERYONE, PUBLIC, Answer, Route
from core.web.socket_events import Event
from tests.core.conftest import Factory
from tests.support.in_process import Managers
from tests.support.plugins import Installer, Plugin, bring, module, plugin
from utils.config.config import Setting


class AppManager(SimpleNamespace):
    """For plugins that bring nothing for which a manager is needed."""


Enable = Callable[..., PluginManager]


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path, monkeypatch)


@pytest.fixture
def enable(installer: Installer) -> Enable:
    """A manager of these plugins, on an application without other managers."""
    return lambda *plugins, enabled=(): installer.enable(AppManager(config={}), *plugins, enabled=enabled)


@pytest.fixture(scope="module")
def application(app_manager_factory: Factory) -> Managers:
    """Every manager that plugins bring something for."""
    return app_manager_factory("database", "redis", "jwt", "encryption", "rate_limiter", "hooks", "services", "websocket")


def state_of(manager: PluginManager, key: str) -> dict[str, str]:
    state: dict[str, str] = manager.health_check()["plugins"][key]
    return state


# Start and end


def test_plugins_start_after_what_they_need_and_end_in_reverse(enable: Enable) -> None:
    manager = enable(plugin("shop", "mail"), plugin("mail", "users"), plugin("users"))
    assert manager.initialize() is True
    assert manager.health_check()["status"] == "healthy"
    assert state_of(manager, "mail") == {"status": "healthy", "version": "1.2"}
    manager.dispose()
    manager.dispose()
    assert Plugin.log == ["+users", "+mail", "+shop", "-shop", "-mail", "-users"]


def test_register_plugins_calls_each_plugins_initialize_with_the_app_manager(enable: Enable) -> None:
    seen: list[Any] = []
    manager = enable(plugin("shop", work=seen.append))
    manager.app_manager.config = {"PORT": 5000}  # type: ignore[assignment]
    manager.initialize()
    assert seen[0].config["PORT"] == 5000


def test_only_what_is_enabled_starts(enable: Enable) -> None:
    enable(plugin("one"), plugin("two"), enabled=("two",)).initialize()
    assert Plugin.log == ["+two"]


@pytest.mark.parametrize(
    ("plugins", "enabled", "reason"),
    [
        ([plugin("shop", "mail")], ("shop",), "^plugin shop: needs mail, which is not there$"),
        ([plugin("shop", "mail"), plugin("mail")], ("shop",), "^plugin shop: needs mail, which is not there$"),
        ([plugin("a", start=False)], ("a",), "^plugin a: did not start$"),
        ([plugin("a", start=RuntimeError("canary"))], ("a",), "^plugin a: RuntimeError; server.log has the details$"),
        ([plugin("shop", "mail"), plugin("mail", start=False)], ("shop", "?mail"), "^plugin shop: needs mail, which is (not there|off)$"),
    ],
)
def test_a_required_plugin_that_cannot_start_stops_the_boot_by_name(
    plugins: list[type[Plugin]], enabled: tuple[str, ...], reason: str, enable: Enable
) -> None:
    manager = enable(*plugins, enabled=enabled)
    with pytest.raises(BootError, match=reason):
        manager.initialize()
    assert not manager.initialized


def test_what_had_started_before_a_failure_is_disposed_the_failed_one_too(enable: Enable) -> None:
    manager = enable(plugin("first"), plugin("second", "first", start=False))
    with pytest.raises(BootError):
        manager.initialize()
    manager.dispose()
    assert Plugin.log == ["+first", "+second", "-second", "-first"]


def test_one_that_fails_to_end_does_not_stop_the_others(enable: Enable) -> None:
    manager = enable(plugin("a"), plugin("b", end=RuntimeError("stuck")), plugin("c"))
    manager.initialize()
    Plugin.log.clear()
    manager.dispose()
    assert Plugin.log == ["-c", "-b", "-a"]


def test_a_module_that_is_registered_already_is_kept(enable: Enable) -> None:
    shop = module("shop")
    manager = enable(plugin("shop", work=bring(shop, shop)))
    manager.initialize()
    assert manager.modules == {"shop": shop}


# Optional ones


@pytest.mark.parametrize("start", [False, RuntimeError("canary"), KeyError("canary")], ids=repr)
def test_an_optional_plugin_that_fails_is_off_and_the_rest_goes_on(start: Any, enable: Enable) -> None:
    manager = enable(plugin("users"), plugin("mail", start=start), enabled=("users", "?mail"))
    assert manager.initialize() is True
    answer = manager.health_check()
    assert answer["status"] == "degraded"
    error = type(start).__name__ if isinstance(start, Exception) else "BootError"
    assert answer["plugins"] == {
        "users": {"status": "healthy", "version": "1.2"},
        "mail": {"status": "off", "version": "1.2", "error": error},
    }
    assert "canary" not in str(answer)
    assert Plugin.log == ["+users", "+mail", "-mail"]


def test_a_plugin_whose_dependency_is_off_is_off_too(enable: Enable) -> None:
    manager = enable(
        plugin("users", start=False), plugin("mail", "users"), plugin("shop", "mail"), enabled=("?users", "?mail", "?shop", "?nothing")
    )
    manager.initialize()
    assert Plugin.log == ["+users", "-users"]
    states = {key: state_of(manager, key)["error"] for key in ("users", "mail", "shop", "nothing")}
    assert states == {"users": "BootError", "mail": "DependencyOff", "shop": "DependencyOff", "nothing": "NotInstalled"}


class Payload(BaseModel):
    text: str


def everything(tmp_path: Path) -> Callable[[Any], None]:
    """Registers one of each kind."""

    def work(app: Any) -> None:
        app.plugin_manager.register_template_dir(tmp_path)
        app.plugin_manager.register_routes([Route("GET", "/plugins/shop", lambda call: Answer(), PUBLIC, "Shop")])
        app.plugin_manager.register_module("shop_module", module("shop_module"))
        app.hooks_manager.declare_hook("shop.sold", Kind.NOTICE)
        app.register_hook("after_request", print)
        app.websocket_manager.register_event(Event("shop:buy", Payload, lambda connection, body: {}))
        app.services_manager.register_service("shop_prices", object())
        app.metrics.counter("sales", "Things sold.")

    return work


def is_declared(hooks: Any, name: str) -> bool:
    try:
        hooks.trigger(name)
    except ValueError:
        return False
    return True


def traces(application: Managers) -> set[str]:
    """What of `everything` is there."""
    manager, hooks = application.plugin_manager, application.hooks_manager
    found = {
        "template": "shop" in str(manager.template_loader().loaders[0].mapping),
        "route": bool(manager.routes),
        "module": "shop_module" in manager.modules,
        "hook": is_declared(hooks, "shop.sold"),
        "callback": hooks.has_callbacks("after_request"),
        "event": "shop:buy" in application.websocket_manager._events,
        "service": "shop_prices" in application.services_manager._services,
        "metric": "credit_plugin_shop_sales" in {family.name for family in REGISTRY.collect()},
        "collection": "shop_things" in application.database_manager._of_plugins,
    }
    return {name for name, present in found.items() if present}


ALL = {"template", "route", "module", "hook", "callback", "event", "service", "metric", "collection"}


def test_what_a_plugin_brought_goes_when_it_ends(application: Managers, installer: Installer, tmp_path: Path) -> None:
    shop = plugin("shop", COLLECTIONS={"shop_things": {}}, work=everything(tmp_path))
    manager = installer.enable(application, shop)
    manager.initialize()
    assert traces(application) == ALL
    manager.dispose()
    assert traces(application) == set()
    manager.initialize()
    assert traces(application) == ALL
    manager.dispose()


def test_what_a_failed_optional_plugin_brought_is_taken_back(application: Managers, installer: Installer, tmp_path: Path) -> None:
    shop = plugin("shop", COLLECTIONS={"shop_things": {}}, work=everything(tmp_path), start=RuntimeError("half-way"))
    manager = installer.enable(application, shop, enabled=("?shop",))
    manager.initialize()
    assert traces(application) == set()
    assert state_of(manager, "shop")["status"] == "off"
    manager.dispose()


def test_a_module_that_fails_takes_its_optional_plugin_along_and_those_that_need_it(
    application: Managers, installer: Installer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.managers.module_manager.discover", lambda: {"core": module("core")})

    def work(app: Any) -> None:
        everything(tmp_path)(app)
        bring(module("shop", "shop_module", "core", start=RuntimeError("canary")))(app)

    manager = installer.enable(
        application,
        plugin("shop", COLLECTIONS={"shop_things": {}}, work=work),
        plugin("till", "shop", work=bring(module("till"))),
        plugin("aside", work=bring(module("aside"), module("aside_2", "shop_module"))),
        plugin("users", work=bring(module("users"))),
        enabled=("?shop", "?till", "?aside", "users"),
    )
    manager.initialize()
    application.module_manager = ModuleManager(application)  # type: ignore[arg-type]
    application.module_manager.initialize()
    assert [running.NAME for running in application.module_manager.all_modules()] in (["core", "users"], ["users", "core"])
    assert traces(application) == set()
    assert {key: state_of(manager, key).get("error") for key in ("shop", "till", "aside", "users")} == {
        "shop": "RuntimeError",
        "till": "DependencyOff",
        "aside": "BootError",
        "users": None,
    }
    started, ended = {e[1:] for e in Plugin.log if e[0] == "+"}, {e[1:] for e in Plugin.log if e[0] == "-"}
    assert ended == started - {"core", "users"}
    application.module_manager.dispose()
    manager.dispose()
    assert len([entry for entry in Plugin.log if entry.startswith("-")]) == len([entry for entry in Plugin.log if entry.startswith("+")])


def test_a_module_of_a_required_plugin_that_fails_stops_the_boot_and_names_both(
    application: Managers, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.managers.module_manager.discover", dict)
    manager = installer.enable(application, plugin("shop", work=bring(module("shop", start=RuntimeError("canary")))))
    manager.initialize()
    modules = ModuleManager(application)  # type: ignore[arg-type]
    with pytest.raises(BootError, match=r"^plugin shop: module shop: RuntimeError; server.log has the details$"):
        modules.initialize()
    modules.dispose()
    manager.dispose()


# Name spaces


def routed(method: str = "GET", path: str = "/plugins/shop", **more: Any) -> Callable[[Any], None]:
    return lambda app: app.plugin_manager.register_routes([Route(method, path, lambda call: Answer(), EVERYONE, "Shop", **more)])


FOREIGN: list[tuple[Any, str]] = [
    (routed(path="/auth/login"), r"route GET /auth/login is outside of its name space: a route of shop lies under /plugins/shop"),
    (routed(path="/"), r"route GET / is outside of its name space"),
    (routed(path="/plugins/shopping"), r"route GET /plugins/shopping is outside of its name space"),
    (routed(path="/plugins/other/x"), r"route GET /plugins/other/x is outside of its name space"),
    (routed(path="/plugins/shop/../../auth"), r"is no method with a path"),
    (routed(path="/plugins/shop/<path:x>"), r"is no method with a path"),
    (routed(path="/plugins/shop/{x}/{x}"), r"is no method with a path"),
    (routed(method="TRACE"), r"is no method with a path"),
    (routed(unlimited=True), r"route GET /plugins/shop: its roles are some of .*, and it is limited"),
    (routed(limit="nothing"), r"route GET /plugins/shop: no limit is named nothing; known are api_key, auth, ip, money, user"),
    (lambda app: [routed(path=f"/plugins/shop/{{{name}}}")(app) for name in "ab"], r"route GET /plugins/shop/{b} is registered already"),
    (bring(module("wallet_module")), r"module wallet_module is outside of its name space: a module of shop is shop or begins with shop_"),
    (bring(module("shopping")), r"module shopping is outside of its name space"),
    (bring(module("shop_a"), module("shop_a")), r"module shop_a is registered already, with another class"),
    (bring(module("shop_a", "shop_b"), module("shop_b", "shop_a")), r"modules: circular dependency: "),
    (lambda app: app.plugin_manager.register_module("shop_a", module("shop_b")), r"module shop_a calls itself shop_b"),
    (lambda app: app.module_manager.register_module("wallet_module", module("wallet_module"), app), r"is outside of its name space"),
    (lambda app: app.hooks_manager.declare_hook("user_created"), r"hook user_created is outside of its name space: .* begins with shop\."),
    (lambda app: app.hooks_manager.declare_hook("other.sold"), r"hook other.sold is outside of its name space"),
    (lambda app: app.hooks_manager.trigger("session_revoked", []), r"hook session_revoked is outside of its name space"),
    (lambda app: app.trigger_hook("session_revoked", []), r"hook session_revoked is outside of its name space"),
    (
        lambda app: app.websocket_manager.register_event(Event("join_room", Payload, lambda c, b: {})),
        r"socket event join_room is outside of its name space: .* begins with shop:",
    ),
    (
        lambda app: app.websocket_manager.register_event(Event("shop:x", Payload, lambda c, b: {}, limit="nothing")),
        r"socket event shop:x: no limit is named nothing",
    ),
    (
        lambda app: app.websocket_manager.emit_to_user("u", "wallet_updated", {}),
        r"socket event wallet_updated is outside of its name space",
    ),
    (lambda app: app.services_manager.register_service("user_directory", 1), r"service user_directory is outside of its name space"),
    (lambda app: app.database_manager.find_one("users", {}), r"users is none of the COLLECTIONS that it declares"),
    (lambda app: app.database_manager.collection("wallets"), r"wallets is none of the COLLECTIONS that it declares"),
    (lambda app: app.database_manager.insert_rows("entries", [], None), r"entries is none of the COLLECTIONS that it declares"),
    (lambda app: app.database_manager.on_collection("users", list), r"users is none of the COLLECTIONS that it declares"),
    (lambda app: app.database_manager.declare_cached("users"), r"users is none of the COLLECTIONS that it declares"),
    (
        lambda app: app.database_manager.declare_plugin_collections({"users": {}}),
        r"declare_plugin_collections of the database manager is not for plugins",
    ),
    (lambda app: app.database_manager.forget_plugin_collections(["other"]), r"forget_plugin_collections of the database manager"),
    (lambda app: app.database_manager.prepare_plugin_collections({"users": {}}), r"prepare_plugin_collections of the database manager"),
    (lambda app: app.database_manager.dispose(), r"dispose of the database manager is not for plugins"),
    (lambda app: [app.plugin_manager.register_template_dir(Path("/")) for _ in "ab"], r"has a template directory already"),
    (lambda app: app.metrics.counter("x{}", "X."), r"metric 'x{}': small letters, digits and _ make a name"),
    (lambda app: app.metrics.gauge("x", "X.", "all"), r"metric x: the mode is one of livesum, "),
    (lambda app: [app.metrics.counter("twice", "X.") for _ in "ab"], r"metric twice: Duplicated timeseries"),
]


@pytest.mark.parametrize(("work", "reason"), FOREIGN, ids=[reason for _, reason in FOREIGN])
def test_a_name_of_another_is_refused_and_names_the_plugin(work: Any, reason: str, application: Managers, installer: Installer) -> None:
    manager = installer.enable(application, plugin("shop", work=work))
    with pytest.raises(BootError, match=f"^plugin shop: .*{reason}"):
        manager.initialize()
    manager.dispose()


def test_plugins_use_the_database_within_their_collections(application: Managers, installer: Installer) -> None:
    kept: list[Any] = []
    manager = installer.enable(application, plugin("shop", COLLECTIONS={"shop_books": {}}, work=kept.append))
    manager.initialize()
    database = kept[0].database_manager
    database.declare_cached("shop_books")
    book = database.transaction(lambda session: database.insert_one("shop_books", {"_id": "a-book"}, session))
    assert database.on_collection("shop_books", lambda books: books.find_one({"_id": book})) == {"_id": "a-book"}
    assert database.delete_one("shop_books", {"_id": book}).deleted_count == 1
    manager.dispose()


def test_plugins_cache_queries_under_keys_of_their_own(application: Managers, installer: Installer) -> None:
    kept: list[Any] = []
    manager = installer.enable(application, plugin("shop", work=kept.append), plugin("mail", work=kept.append))
    manager.initialize()
    found = [app.database_manager.get_cached_query("top10", lambda app=app: app.key) for app in kept]
    assert found == [app.database_manager.get_cached_query("top10", dict) for app in kept] == [app.key for app in kept]
    manager.dispose()


def test_a_route_of_a_module_is_held_to_the_same(application: Managers, installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.managers.module_manager.discover", dict)
    stolen = [Route("GET", "/users", lambda call: Answer(), PUBLIC, "All users")]
    manager = installer.enable(application, plugin("shop", work=bring(module("shop", routes=stolen))))
    manager.initialize()
    modules = ModuleManager(application)  # type: ignore[arg-type]
    with pytest.raises(BootError, match=r"^plugin shop: route GET /users is outside of its name space"):
        modules.initialize()
    modules.dispose()
    manager.dispose()


def test_a_module_of_the_core_cannot_be_replaced(application: Managers, installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.managers.module_manager.discover", lambda: {"shop_module": module("shop_module")})
    manager = installer.enable(application, plugin("shop", work=bring(module("shop_module"))), enabled=("?shop",))
    manager.initialize()
    modules = ModuleManager(application)  # type: ignore[arg-type]
    modules.initialize()
    assert state_of(manager, "shop")["status"] == "off"
    assert [running.NAME for running in modules.all_modules()] == ["shop_module"]
    modules.dispose()
    manager.dispose()


def test_each_finds_its_own_templates_under_its_own_name(enable: Enable, tmp_path: Path) -> None:
    def with_page(name: str) -> type[Plugin]:
        folder = tmp_path / name
        (folder / "main").mkdir(parents=True)
        (folder / "page.html").write_text(name)
        # The attempt to bring a page of another one.
        (folder / "main" / "page.html").write_text("stolen")
        return plugin(name, work=lambda app: app.register_template_dir(folder))

    (tmp_path / "loose.html").write_text("loose")
    manager = enable(with_page("shop"), with_page("main"))
    manager.initialize()
    manager.register_template_dir(tmp_path)
    jinja = Environment(loader=manager.template_loader(), autoescape=True)
    assert [jinja.get_template(f"{name}/page.html").render() for name in ("shop", "main")] == ["shop", "main"]
    assert jinja.get_template("loose.html").render() == "loose"
    with pytest.raises(TemplateNotFound):
        jinja.get_template("page.html")


def test_a_label_that_was_not_declared_counts_as_other(application: Managers, installer: Installer) -> None:
    made: list[Any] = []

    def work(app: Any) -> None:
        made.append(app.metrics.counter("sales", "Sales.", labels={"kind": ("book",)}))
        made.append(app.metrics.histogram("size", "Sizes.", buckets=(1, 2)))

    manager = installer.enable(application, plugin("shop", work=work))
    manager.initialize()
    for kind in ("book", "made up by a client", "another"):
        made[0].labels(kind=kind).inc()
    made[1].observe(1)
    for kind, count in (("book", 1), ("other", 2)):
        assert REGISTRY.get_sample_value("credit_plugin_shop_sales_total", {"kind": kind}) == count
    assert REGISTRY.get_sample_value("credit_plugin_shop_size_count") == 1
    manager.dispose()


# Once a start


def test_its_collections_are_made_once_a_start(application: Managers, installer: Installer) -> None:
    index = {"name": "of_x", "key": {"x": 1}}
    manager = installer.enable(application, plugin("shop", COLLECTIONS={"shop_prepared": {"indexes": [index]}}))
    manager.initialize()
    manager.prepare()
    manager.prepare()
    assert "of_x" in application.database_manager.collection("shop_prepared").index_information()
    manager.dispose()


def test_what_cannot_be_prepared_stops_the_boot_unless_it_is_optional(application: Managers, installer: Installer) -> None:
    broken = plugin("shop", COLLECTIONS={"shop_broken": {"indexes": [{"name": "none", "key": {}}]}})
    manager = installer.enable(application, broken)
    manager.initialize()
    with pytest.raises(BootError, match=r"^plugin shop: collections shop_broken: MongoDB refuses them \(\d+\)$"):
        manager.prepare()
    manager.dispose()
    manager = installer.enable(application, enabled=("?shop",))
    manager.initialize()
    manager.prepare()
    manager.dispose()


def test_a_plugins_settings_are_part_of_all_settings(installer: Installer) -> None:
    setting = Setting("SHOP_TITLE", str, "Shop", "The title.")
    manager = installer.enable(AppManager(config={}), plugin("shop", SETTINGS=(setting,)))
    assert manager.app_manager.plugins.settings == [setting]
