"""Where plugins come from, which of them are enabled, and what is said about those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from core.managers.base import BootError
from core.plugin_sources import find_plugins
from plugins.base_plugin import BasePlugin
from plugins.plugin_registry import PluginRegistry
from tests.support.plugins import Installer, Plugin, plugin
from utils.config.config import Setting


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path, monkeypatch)


def test_the_registry_maps_keys_to_classes() -> None:
    plugins = PluginRegistry.get_plugins()
    assert "main_plugin" in plugins
    assert all(key == found.NAME and issubclass(found, BasePlugin) for key, found in plugins.items())


def test_plugins_come_from_the_registry_and_from_what_is_installed(installer: Installer) -> None:
    shop = plugin("shop")
    installer.install("shop", shop)
    found = {each.key: each for each in find_plugins(("main_plugin", "?shop"))}
    assert (found["shop"].plugin_class, found["shop"].version) == (shop, "1.2")
    assert (found["shop"].built_in, found["shop"].optional) == (False, True)
    assert (found["main_plugin"].built_in, found["main_plugin"].optional) == (True, False)
    assert found["main_plugin"].plugin_class is PluginRegistry.get_plugins()["main_plugin"]


def test_what_is_installed_and_not_enabled_is_not_even_imported(installer: Installer) -> None:
    installer.install("shop", ImportError("never"))
    assert [each.key for each in find_plugins(("main_plugin",))] == ["main_plugin"]


def test_each_comes_after_those_it_needs(installer: Installer) -> None:
    for each in (plugin("shop", "mail"), plugin("mail", "users"), plugin("users")):
        installer.install(each.NAME, each)
    assert [each.key for each in find_plugins(("shop", "mail", "users"))] == ["users", "mail", "shop"]


def test_a_key_that_two_distributions_offer_stops_the_boot_and_names_both(installer: Installer) -> None:
    installer.install("shop", plugin("shop"), "one-shop")
    installer.install("shop", plugin("shop"), "another-shop")
    with pytest.raises(BootError, match=r"^plugin shop is there twice: in [a-z]+-shop 1.2 and in [a-z]+-shop 1.2; uninstall one$") as error:
        find_plugins(("main_plugin",))
    assert "one-shop" in str(error.value)
    assert "another-shop" in str(error.value)


def test_nobody_takes_the_place_of_a_built_in_one(installer: Installer) -> None:
    installer.install("main_plugin", plugin("main_plugin"), "evil-twin")
    with pytest.raises(
        BootError, match=r"^plugin main_plugin is there twice: in plugins/plugin_registry.py and in evil-twin 1.2; uninstall one$"
    ):
        find_plugins(("?main_plugin",))


@pytest.mark.parametrize(
    ("enabled", "reason"),
    [
        (("shop", "tow"), r"^plugin tow: is neither in the registry nor installed; known are main_plugin, shop$"),
        (("shop", "?shop"), "^PLUGINS: shop is listed twice$"),
        (("Shop",), "^PLUGINS: 'Shop' is no key of a plugin: "),
        (("../shop",), "^PLUGINS: '../shop' is no key of a plugin: "),
        (("shop", "shop_window"), "^PLUGINS: shop and shop_window cannot both run: "),
    ],
)
def test_a_list_that_cannot_be_followed_stops_the_boot(enabled: tuple[str, ...], reason: str, installer: Installer) -> None:
    installer.install("shop", plugin("shop"))
    with pytest.raises(BootError, match=reason):
        find_plugins(enabled)


def test_a_circle_stops_the_boot_by_its_names(installer: Installer) -> None:
    installer.install("a", plugin("a", "b"))
    installer.install("b", plugin("b", "a"))
    with pytest.raises(BootError, match=r"^plugins: circular dependency: (a -> b -> a|b -> a -> b)$"):
        find_plugins(("a", "b"))


FOREIGN = [
    (
        {"SETTINGS": (Setting("JWT_SECRET", str, "", "Mine."),)},
        "JWT_SECRET is not in its name space: its settings begin with SHOP_",
    ),
    ({"SETTINGS": (Setting("SHOPPING", str, "", "Mine."),)}, "setting SHOPPING is not in its name space"),
    ({"SETTINGS": (Setting("SHOP_X", str, "", "Mine.", bootstrap=True),)}, "setting SHOP_X: only our own"),
    ({"SETTINGS": (Setting("SHOP_X", str, "", "One."), Setting("SHOP_X", int, 1, "Two."))}, "declares a setting twice"),
    ({"COLLECTIONS": {"users": {}}}, "collection users is not in its name space: its collections begin with shop_"),
    ({"COLLECTIONS": {"shop_x.$cmd": {}}}, "is not in its name space"),
    (
        {"COLLECTIONS": {"shop_things": {"private": False}}},
        "shop_things: unknown option private; known are append_only, indexes",
    ),
    ({"COMMANDS": (print,)}, "COMMANDS holds something that is no click command"),
    ({"NAME": "shopping"}, "calls itself shopping"),
]


@pytest.mark.parametrize(("traits", "reason"), FOREIGN, ids=[reason for _, reason in FOREIGN])
def test_what_a_class_declares_bears_its_name(traits: dict[str, Any], reason: str, installer: Installer) -> None:
    installer.install("shop", type("Shop", (Plugin,), {"NAME": "shop", **traits}))
    with pytest.raises(BootError, match=f"^plugin shop: .*{reason}"):
        find_plugins(("shop",))
    (found,) = find_plugins(("?shop",))
    assert (found.is_off, found.error) == (True, "BadPlugin")


def test_good_declarations_are_taken(installer: Installer) -> None:
    setting, command = Setting("SHOP_TITLE", str, "Shop", "The title."), click.Command("open")
    things = {"shop_things": {"indexes": [], "append_only": True}}
    installer.install(
        "shop", type("Shop", (Plugin,), {"NAME": "shop", "SETTINGS": (setting,), "COMMANDS": (command,), "COLLECTIONS": things})
    )
    assert find_plugins(("shop",)).settings == [setting]


@pytest.mark.parametrize(
    ("target", "reason", "error"),
    [
        (ImportError("canary"), r"^plugin shop: ImportError; server.log has the details$", "ImportError"),
        (object, r"^plugin shop: its entry point does not lead to a subclass of BasePlugin$", "BadPlugin"),
    ],
)
def test_one_that_cannot_be_loaded_stops_the_boot_or_is_off(target: Any, reason: str, error: str, installer: Installer) -> None:
    installer.install("shop", target)
    with pytest.raises(BootError, match=reason):
        find_plugins(("shop",))
    found = find_plugins(("main_plugin", "?shop"))
    assert found["shop"].error == error
    assert [each.key for each in found.on] == ["main_plugin"]
    assert found.missing_prefixes == ("SHOP_",)
