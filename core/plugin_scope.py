"""PluginScope: the application as one plugin sees it; names outside of its name space are refused, and all it registers is taken back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.managers.base import BootError
from core.plugin_metrics import PluginMetrics
from core.plugin_sources import Found
from core.web.assets import Assets
from core.web.routing import EVERYONE, Route
from core.web.socket_events import Event
from utils.ordering import dependency_order

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PATH = re.compile(r"/|(/(?!\.+(?:/|$))([A-Za-z0-9._~-]+|{[a-z_][a-z0-9_]*}))+")
_VARIABLE = re.compile(r"{\w+}")
# What plugins may call of the database manager; the first argument of most is a collection.
_COLLECTION_METHODS = frozenset(
    [
        "insert_one",
        "insert_many",
        "find_one",
        "find_many",
        "update_one",
        "update_many",
        "delete_one",
        "delete_many",
        "collection",
        "on_collection",
        "insert_rows",
        "update_rows",
        "declare_fields",
    ]
)
_OTHER_DATABASE_METHODS = frozenset(["transaction", "errors", "health_check"])


class NameSpaceError(BootError):
    """A plugin wants a name that is not its own."""


class View:
    """Stands in for a manager: what it does not define itself is asked of the real one."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class DeclaredModules(View):
    """The module manager as one module sees it: other modules are those that it names in DEPENDENCIES."""

    def __init__(self, real: Any, name: str, declared: Sequence[str]) -> None:
        super().__init__(real)
        self._name = name
        self._declared = declared

    def get_module(self, key: str) -> Any:
        """The module under `key`; raises LookupError for one that is not declared."""
        if key not in self._declared:
            raise LookupError(f"module {self._name} calls {key}, which it does not name in DEPENDENCIES")
        return self._real.get_module(key)


class ModuleScope(View):
    """The app manager as one module sees it."""

    def __init__(self, app_manager: Any, name: str, declared: Sequence[str]) -> None:
        super().__init__(app_manager)
        self._name = name
        self._declared = declared

    @property
    def module_manager(self) -> DeclaredModules:
        return DeclaredModules(self._real.module_manager, self._name, self._declared)


class PluginScope(View):
    """The app manager as one plugin and its modules see it; as `plugin_manager` it takes what the plugin brings.

    Raises NameSpaceError for names of others. Keeps plugins from getting in each other's way by mistake; it is no sandbox,
    for a plugin runs with all rights of the process.
    """

    def __init__(self, app_manager: AppManager, plugin: Found) -> None:
        super().__init__(app_manager)
        self.plugin = plugin
        self.key = plugin.key
        self.modules: dict[str, Any] = {}
        self.routes: list[Route] = []
        self.template_dir: Path | None = None
        self._undo = ExitStack()
        self._endpoints: set[str] = set()
        self.metrics = PluginMetrics(plugin.key, self.at_the_end)
        if plugin.plugin_class.COLLECTIONS:
            self._real.database_manager.declare_plugin_collections(plugin.plugin_class.COLLECTIONS)
            self.at_the_end(partial(self._real.database_manager.forget_plugin_collections, plugin.plugin_class.COLLECTIONS))

    # The managers, as this plugin may use them

    @property
    def plugin_manager(self) -> PluginScope:
        return self

    @property
    def hooks_manager(self) -> PluginHooks:
        return PluginHooks(self, self._real.hooks_manager)

    @property
    def websocket_manager(self) -> PluginSockets:
        return PluginSockets(self, self._real.websocket_manager)

    @property
    def services_manager(self) -> PluginServices:
        return PluginServices(self, self._real.services_manager)

    @property
    def database_manager(self) -> PluginDatabase:
        return PluginDatabase(self, self._real.database_manager)

    @property
    def rate_limiter_manager(self) -> PluginLimits:
        return PluginLimits(self, self._real.rate_limiter_manager)

    @property
    def redis_manager(self) -> Any:
        """Values of its own; the built-in ones use the whole manager."""
        redis = self._real.redis_manager
        return redis if self.plugin.built_in else redis.namespace(f"plugin:{self.key}")

    @property
    def module_manager(self) -> PluginModules:
        return PluginModules(self, self._real.module_manager)

    # What a plugin brings

    def register_module(self, key: str, module_class: Any) -> None:
        """Have `module_class` started with the core's modules, under `key`, which is its NAME; a second time is no mistake."""
        if key not in self.plugin.claims.modules and key != self.key and not key.startswith(f"{self.key}_"):
            raise self._refusal("module", key, f"is {self.key} or begins with {self.key}_")
        if key != module_class.NAME:
            raise BootError(f"module {key} calls itself {module_class.NAME}")
        if self.modules.setdefault(key, module_class) is not module_class:
            raise BootError(f"module {key} is registered already, with another class")

    def register_routes(self, routes: Sequence[Route]) -> None:
        """Mount `routes` when all modules have started."""
        self.check_routes(routes)
        self.routes.extend(routes)

    def register_template_dir(self, directory: Path) -> None:
        """Let Jinja find the templates of `directory`, as `<plugin>/name.html`."""
        if self.template_dir is not None:
            raise BootError("has a template directory already")
        self.template_dir = Path(directory)

    def register_asset_dir(self, directory: Path) -> Assets:
        """Serve the files of `directory` below `/plugins/<plugin>/assets`; templates get their addresses from what is returned."""
        assets = Assets(Path(directory), self.key)
        self.register_routes([assets.route])
        return assets

    def register_hook(self, name: str, callback: Any, priority: int = 100, context: str | None = None) -> None:
        """As `hooks_manager.register_hook`."""
        self.hooks_manager.register_hook(name, callback, priority, context)

    def trigger_hook(self, name: str, data: Any = None, context: str | None = None) -> list[Any]:
        """As `hooks_manager.trigger`."""
        return self.hooks_manager.trigger(name, data, context)

    # For the managers

    def check_routes(self, routes: Sequence[Route]) -> None:
        """Raises when one of `routes`, of the plugin or of a module of it, cannot be mounted."""
        for route in routes:
            name = f"{route.method} {route.path}"
            if not any(_lies_under(route.path, prefix) for prefix in self._prefixes()):
                raise self._refusal("route", name, f"lies under {' or '.join(self._prefixes())}")
            variables = _VARIABLE.findall(route.path)
            if route.method not in _METHODS or not _PATH.fullmatch(route.path) or len(set(variables)) != len(variables):
                raise BootError(f"route {name}: is no method with a path like /plugins/{self.key}/things/{{id}}")
            # What is not limited is not asked for a token either.
            if not route.roles <= EVERYONE or (route.unlimited and not self.plugin.built_in):
                raise BootError(f"route {name}: its roles are some of {', '.join(sorted(EVERYONE))}, and it is limited")
            self.check_limit(f"route {name}", route.limit)
            endpoint = _VARIABLE.sub("{}", name)
            if endpoint in self._endpoints:
                raise BootError(f"route {name} is registered already")
            self._endpoints.add(endpoint)

    def check_limit(self, what: str, limit: str | None) -> None:
        """Raises when `limit` is no policy of the rate limiter."""
        if limit is None:
            return
        known = sorted(policy["policy"] for policy in self._real.rate_limiter_manager.get_limits()["policies"])
        if limit not in known:
            raise BootError(f"{what}: no limit is named {limit}; known are {', '.join(known)}")

    def check_name(self, kind: str, name: str, separator: str, *, exact: bool = False) -> None:
        """Raises NameSpaceError unless `name` begins with the plugin's key and `separator`; what is built in shares ours."""
        if self.plugin.built_in or name.startswith(f"{self.key}{separator}") or (exact and name == self.key):
            return
        raise self._refusal(kind, name, f"begins with {self.key}{separator}")

    def check_modules(self) -> None:
        """Raises when the plugin's modules need each other in a circle."""
        needs = {key: [other for other in module.DEPENDENCIES if other in self.modules] for key, module in self.modules.items()}
        try:
            dependency_order(needs)
        except ValueError as error:
            raise BootError(f"modules: {error}") from error

    def at_the_end(self, undo: Callable[[], Any]) -> None:
        """Call `undo` when the plugin ends, or has failed."""
        self._undo.callback(undo)

    def dispose(self) -> None:
        """Take back what was registered, the last first."""
        self._undo.close()
        self.modules, self.routes, self.template_dir = {}, [], None

    def _prefixes(self) -> tuple[str, ...]:
        return (f"/plugins/{self.key}", *self.plugin.claims.routes)

    def _refusal(self, kind: str, name: str, rule: str) -> NameSpaceError:
        return NameSpaceError(f"{kind} {name} is outside of its name space: a {kind} of {self.key} {rule}")


def _lies_under(path: str, prefix: str) -> bool:
    return path == prefix or (prefix != "/" and path.startswith(f"{prefix}/"))


class PluginHooks(View):
    """The hooks manager: events of its own, and callbacks that go when the plugin goes."""

    def __init__(self, scope: PluginScope, real: Any) -> None:
        super().__init__(real)
        self._scope = scope

    def declare_hook(self, name: str, *kind: Any, **more: Any) -> None:
        """As the hooks manager's; `name` is `<plugin>.<event>`."""
        self._scope.check_name("hook", name, ".")
        self._real.declare_hook(name, *kind, **more)
        if not self._scope.plugin.built_in:
            self._scope.at_the_end(partial(self._real.withdraw_hook, name))

    def register_hook(self, name: str, callback: Callable[..., Any], *more: Any, **options: Any) -> None:
        """As the hooks manager's, for any declared event."""
        self._real.register_hook(name, callback, *more, **options)
        self._scope.at_the_end(partial(self._real.unregister_hook, name, callback))

    def trigger(self, name: str, data: Any = None, context: str | None = None) -> list[Any]:
        """As the hooks manager's, for events of its own."""
        self._scope.check_name("hook", name, ".")
        found: list[Any] = self._real.trigger(name, data, context)
        return found


class PluginSockets(View):
    """The websocket manager: events of its own, both ways."""

    def __init__(self, scope: PluginScope, real: Any) -> None:
        super().__init__(real)
        self._scope = scope

    def register_event(self, event: Event) -> None:
        """As the websocket manager's; the name is `<plugin>:<event>`."""
        self._scope.check_name("socket event", event.name, ":")
        self._scope.check_limit(f"socket event {event.name}", event.limit)
        self._real.register_event(event)
        self._scope.at_the_end(partial(self._real.unregister_event, event.name))

    def emit_to_user(self, user_id: str, event: str, data: dict[str, Any]) -> None:
        """As the websocket manager's; the name is `<plugin>:<event>`."""
        self._scope.check_name("socket event", event, ":")
        self._real.emit_to_user(user_id, event, data)

    def emit_to_users(self, emits: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        """As the websocket manager's; the names are `<plugin>:<event>`."""
        listed = list(emits)
        for _, event, _ in listed:
            self._scope.check_name("socket event", event, ":")
        self._real.emit_to_users(listed)


class PluginServices(View):
    """The services manager: services under names of its own."""

    def __init__(self, scope: PluginScope, real: Any) -> None:
        super().__init__(real)
        self._scope = scope

    def register_service(self, key: str, *instance: Any, **more: Any) -> None:
        """As the services manager's; the key is `<plugin>` or `<plugin>_...`."""
        self._scope.check_name("service", key, "_", exact=True)
        self._real.register_service(key, *instance, **more)
        self._scope.at_the_end(partial(self._real.unregister_service, key))


class PluginLimits(View):
    """The rate limiter: policies under names of its own."""

    def __init__(self, scope: PluginScope, real: Any) -> None:
        super().__init__(real)
        self._scope = scope

    def declare_policy(self, name: str, types: Sequence[str], limit: str, *, fail_closed: bool = False) -> Any:
        """As the rate limiter's; the name is `<plugin>.<policy>`."""
        self._scope.check_name("rate limit policy", name, ".")
        return self._real.declare_policy(name, types, limit, fail_closed=fail_closed)


class PluginDatabase(View):
    """The database manager: collections that the plugin declares, and no others. What others keep, their modules tell."""

    def __init__(self, scope: PluginScope, real: Any) -> None:
        super().__init__(real)
        self._plugin = scope.plugin

    def __getattr__(self, name: str) -> Any:
        if self._plugin.built_in or name in _OTHER_DATABASE_METHODS:
            return getattr(self._real, name)
        if name in _COLLECTION_METHODS:
            return partial(self._call, getattr(self._real, name))
        raise NameSpaceError(f"plugin {self._plugin.key}: {name} of the database manager is not for plugins")

    def declare_cached(self, *collections: str) -> None:
        """As the database manager's."""
        self._check(*collections)
        self._real.declare_cached(*collections)

    def get_cached_query(self, query_key: str, *query: Any, **options: Any) -> Any:
        """As the database manager's, under a key that no other plugin has."""
        key = query_key if self._plugin.built_in else f"plugin:{self._plugin.key}:{query_key}"
        return self._real.get_cached_query(key, *query, **options)

    def _call(self, method: Any, collection: str, *arguments: Any, **options: Any) -> Any:
        self._check(collection)
        return method(collection, *arguments, **options)

    def _check(self, *collections: str) -> None:
        declared: Mapping[str, Any] = self._plugin.plugin_class.COLLECTIONS
        foreign = [name for name in collections if name not in declared]
        if foreign and not self._plugin.built_in:
            raise NameSpaceError(f"plugin {self._plugin.key}: {foreign[0]} is none of the COLLECTIONS that it declares")


class PluginModules(View):
    """The module manager: modules that the plugin brings. Others are called by modules that name them in DEPENDENCIES."""

    def __init__(self, scope: PluginScope, real: Any) -> None:
        super().__init__(real)
        self._scope = scope

    def register_module(self, key: str, module_class: Any, *_: Any, **__: Any) -> None:
        """As `plugin_manager.register_module`: it is started when its turn comes."""
        self._scope.register_module(key, module_class)

    def get_module(self, key: str) -> Any:
        """The module under `key`, for who may have it: see ModuleScope."""
        return self._real.get_module(key)
