"""Where plugins come from: the registry, and the entry points of installed distributions; what is enabled, and in which order."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from core.managers.base import BootError
from tools.logger.custom_logger import log_exception
from utils.config.config import BY_KEY, Setting
from utils.ordering import dependency_order

GROUP = "credit_system.plugins"
_REGISTRY, _BASE = "plugins.plugin_registry", "plugins.base_plugin"
_OPTIONAL_MARK = "?"
_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
_COLLECTION_OPTIONS = {"indexes", "append_only"}


class NotInstalled(BootError):
    """Neither the registry nor an installed distribution has the plugin."""


class DependencyOff(BootError):
    """Another plugin that this one needs is off."""


class BadPlugin(BootError):
    """The plugin's class, or what it declares, cannot be used."""


@dataclass(frozen=True)
class Claims:
    """What a built-in plugin has outside of `/plugins/<key>` and `<key>_...`: prefixes of routes, and keys of modules."""

    routes: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


@dataclass
class Found:
    """One enabled plugin: its class, whether the boot goes on without it, and why it is off (the type of the error) if it is."""

    key: str
    optional: bool
    built_in: bool = False
    claims: Claims = field(default_factory=Claims)
    version: str = ""
    plugin_class: Any = None
    error: str = ""

    @property
    def is_off(self) -> bool:
        return bool(self.error)

    def fail(self, error: Exception) -> None:
        """Turn an optional plugin off; raises BootError, which names it, for a required one."""
        if not self.optional:
            raise BootError.at(f"plugin {self.key}", error) from error
        log_exception("an optional plugin is off", error, plugin=self.key)
        self.error = type(error).__name__


class PluginSet:
    """The enabled plugins by key, each after those it depends on."""

    def __init__(self, plugins: Iterable[Found]) -> None:
        self._plugins = {plugin.key: plugin for plugin in plugins}

    def __getitem__(self, key: str) -> Found:
        return self._plugins[key]

    def __iter__(self) -> Iterator[Found]:
        return iter(list(self._plugins.values()))

    @property
    def on(self) -> list[Found]:
        """Those that have not failed so far."""
        return [plugin for plugin in self if not plugin.is_off]

    @property
    def settings(self) -> list[Setting]:
        """The settings that plugins declare."""
        return [setting for plugin in self.on for setting in plugin.plugin_class.SETTINGS]

    @property
    def missing_prefixes(self) -> tuple[str, ...]:
        """How settings of plugins begin that are enabled and off: what is said about those is no mistake."""
        return tuple(f"{plugin.key.upper()}_" for plugin in self if plugin.is_off)

    def fail_where_needed(self, plugin: Found) -> bool:
        """Whether `plugin` is off, now also because one that it needs is; BootError for a required one."""
        if not plugin.is_off:
            needed = [key for key in plugin.plugin_class.DEPENDENCIES if key not in self._plugins or self._plugins[key].is_off]
            if needed:
                plugin.fail(DependencyOff(f"needs {', '.join(needed)}, which is not there"))
        return plugin.is_off

    def with_dependents(self, key: str) -> list[str]:
        """`key` and every plugin that is on and needs it, directly or not; each after those it needs."""
        doomed = [key]
        for plugin in self.on:
            if plugin.key != key and set(doomed).intersection(plugin.plugin_class.DEPENDENCIES):
                doomed.append(plugin.key)
        return doomed


def find_plugins(enabled: Sequence[str], *, all_optional: bool = False) -> PluginSet:
    """The plugins of the setting PLUGINS (a leading `?` marks an optional one); imports those, and starts nothing.

    Raises BootError for names that are given twice, for circles, and for what makes a required plugin unusable.
    """
    plugins = [Found(text.removeprefix(_OPTIONAL_MARK), all_optional or text.startswith(_OPTIONAL_MARK)) for text in enabled]
    _refuse_twins([plugin.key for plugin in plugins])
    registry = importlib.import_module(_REGISTRY).PluginRegistry
    built_in: dict[str, Any] = registry.get_plugins()
    installed = _installed(built_in)
    for plugin in plugins:
        try:
            if plugin.key in built_in:
                plugin.built_in, plugin.plugin_class = True, built_in[plugin.key]
                plugin.claims, plugin.version = registry.CLAIMS.get(plugin.key, Claims()), plugin.plugin_class.VERSION
            elif plugin.key in installed:
                _load(plugin, installed[plugin.key])
            else:
                known = ", ".join(sorted({*built_in, *installed}))
                raise NotInstalled(f"is neither in the registry nor installed; known are {known}")
            _check_class(plugin)
        except Exception as error:  # noqa: BLE001  whatever importing a stranger's code raises
            plugin.fail(error)
    return PluginSet(_ordered(plugins))


def _refuse_twins(keys: list[str]) -> None:
    for key in keys:
        if not _KEY.fullmatch(key):
            raise BootError(f"PLUGINS: {key!r} is no key of a plugin: small letters, digits and _, at most 32")
        if keys.count(key) > 1:
            raise BootError(f"PLUGINS: {key} is listed twice")
        inside = [other for other in keys if other.startswith(f"{key}_")]
        if inside:
            raise BootError(f"PLUGINS: {key} and {inside[0]} cannot both run: names of the second would lie in the name space of the first")


def _installed(built_in: dict[str, Any]) -> dict[str, EntryPoint]:
    """Entry points by key; raises BootError for a key that two places offer, naming both."""
    places = dict.fromkeys(built_in, "plugins/plugin_registry.py")
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        place = f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
        if point.name in places:
            raise BootError(f"plugin {point.name} is there twice: in {places[point.name]} and in {place}; uninstall one")
        places[point.name], found[point.name] = place, point
    return found


def _load(plugin: Found, point: EntryPoint) -> None:
    plugin.version = point.dist.version if point.dist is not None else ""
    plugin.plugin_class = point.load()


def _ordered(plugins: list[Found]) -> list[Found]:
    """Each after those it depends on; what is missing is told when its turn comes."""
    by_key = {plugin.key: plugin for plugin in plugins}
    needs = {p.key: () if p.is_off else tuple(key for key in p.plugin_class.DEPENDENCIES if key in by_key) for p in plugins}
    try:
        return [by_key[key] for key in dependency_order(needs)]
    except ValueError as error:
        raise BootError(f"plugins: {error}") from error


# What a class declares


def _check_class(plugin: Found) -> None:
    base: Any = importlib.import_module(_BASE).BasePlugin
    found = plugin.plugin_class
    if not isinstance(found, type) or not issubclass(found, base):
        raise BadPlugin("its entry point does not lead to a subclass of BasePlugin")
    _check_declarations(plugin.key, plugin.plugin_class)


def _check_declarations(key: str, plugin_class: Any) -> None:
    if key != plugin_class.NAME:
        raise BadPlugin(f"calls itself {plugin_class.NAME}")
    _check_settings(key, plugin_class.SETTINGS)
    _check_collections(key, plugin_class.COLLECTIONS)
    if not all(isinstance(command, click.Command) for command in plugin_class.COMMANDS):
        raise BadPlugin("COMMANDS holds something that is no click command")


def _check_settings(key: str, settings: Sequence[Setting]) -> None:
    prefix = f"{key.upper()}_"
    for setting in settings:
        if not setting.key.startswith(prefix) or setting.key in BY_KEY:
            raise BadPlugin(f"setting {setting.key} is not in its name space: its settings begin with {prefix}")
        if setting.bootstrap:
            raise BadPlugin(f"setting {setting.key}: only our own settings can be known before Vault is asked")
    if len({setting.key for setting in settings}) != len(settings):
        raise BadPlugin("declares a setting twice")


def _check_collections(key: str, collections: dict[str, dict[str, Any]]) -> None:
    for name, options in collections.items():
        if not re.fullmatch(rf"{key}_[a-z0-9_]{{1,60}}", name):
            raise BadPlugin(f"collection {name} is not in its name space: its collections begin with {key}_")
        unknown = sorted(set(options) - _COLLECTION_OPTIONS)
        if unknown:
            raise BadPlugin(f"collection {name}: unknown option {', '.join(unknown)}; known are {', '.join(sorted(_COLLECTION_OPTIONS))}")
