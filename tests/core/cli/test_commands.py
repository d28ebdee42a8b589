"""The operators' commands: those of plugins stand beside ours, whatever state the plugins are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from core.cli.commands import command_line_app
from tests.support.plugins import Installer, plugin


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(tmp_path, monkeypatch)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The commands of `flask`, by name, when these plugins are enabled."""

    def commands(plugins: str) -> dict[str, click.Command]:
        monkeypatch.setenv("PLUGINS", plugins)
        with click.Context(click.Command("flask"), info_name="flask"):
            return command_line_app().cli.commands

    return commands


def test_a_plugins_commands_are_a_group_of_its_name(commands: Any, installer: Installer) -> None:
    installer.install("shop", plugin("shop", COMMANDS=(click.Command("open"),)))
    assert "shop" not in commands("main_plugin")
    assert list(commands("main_plugin,shop")["shop"].commands) == ["open"]


@pytest.mark.parametrize(
    ("plugins", "told"),
    [
        ("main_plugin,shop", "no commands of plugin shop: ImportError"),
        ("main_plugin,settings", "no commands of plugin settings: there is one of our own by this name"),
        ("main_plugin,main_plugin", "no commands of plugins: PLUGINS: main_plugin is listed twice"),
    ],
)
def test_ours_are_there_when_plugins_are_not(
    plugins: str, told: str, commands: Any, installer: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    installer.install("shop", ImportError("canary"))
    installer.install("settings", plugin("settings", COMMANDS=(click.Command("steal"),)))
    assert commands(plugins)["settings"].name == "settings"
    assert not isinstance(commands(plugins)["settings"], click.Group)
    assert told in capsys.readouterr().err
