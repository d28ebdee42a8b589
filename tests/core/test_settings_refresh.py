"""Rotation: changed secrets reach the managers that take them over live; whatever goes wrong, what runs stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from core.managers.base import Manager
from core.settings_refresh import SettingsRefresh
from tests.support.logs import logging_to
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from utils.config.config import Config, Setting, load_config

OLD, NEW, NEWER = "o" * 40, "n" * 40, "m" * 40


class Taker(Manager):
    """Takes over its live settings, unless one is in `refuses`."""

    def __init__(self, app: App, name: str, *live: str) -> None:
        super().__init__(app)  # type: ignore[arg-type]
        self.name = name  # type: ignore[misc]
        self.live_settings = frozenset(live)  # type: ignore[misc]
        self.refuses: set[Any] = set()
        self.reloads = 0
        self.initialize()

    def initialize(self) -> bool:
        self.has = {key: self.app_manager.config[key] for key in self.live_settings}
        return True

    def reload(self) -> None:
        wanted = {key: self.app_manager.config[key] for key in self.live_settings}
        if self.refuses & set(wanted.values()):
            raise ValueError("canary")
        self.has = wanted
        self.reloads += 1

    def dispose(self) -> None:
        """Nothing to release."""


class App:
    """What the refresh knows of an AppManager; its settings come from files that a test writes."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.environ = {"SECRETS_DIR": str(folder), **environ}
        self.held: dict[str, str] = {}
        self.vault_is_away = False
        self.of_plugins: list[Setting] = []
        self.config: Config = self.resolve()
        self.running: list[Manager] = []
        self.refresh = SettingsRefresh(self, self.resolve)  # type: ignore[arg-type]

    def resolve(self) -> Config:
        if self.vault_is_away:
            raise Unavailable("away")
        return load_config(self.held, self.environ, more=self.of_plugins)

    def managers(self) -> list[Manager]:
        return self.running

    def write(self, **secrets: str) -> None:
        for name, value in secrets.items():
            (self.folder / name).write_text(value)

    def add(self, name: str, *live: str) -> Taker:
        self.running.append(taker := Taker(self, name, *live))
        return taker


@pytest.fixture
def app(copied_secrets: Path) -> App:
    for name in ("jwt_secret", "encryption_key"):
        (copied_secrets / name).write_text(OLD)
    return App(copied_secrets)


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("credit_settings_refreshes_total", {"outcome": outcome}) or 0.0


def test_a_changed_secret_reaches_the_manager_that_lists_it(app: App) -> None:
    jwt, other = app.add("jwt", "JWT_SECRET"), app.add("encryption", "ENCRYPTION_KEY")
    app.write(jwt_secret=NEW)
    app.refresh.refresh()
    assert (jwt.has, app.config["JWT_SECRET"]) == ({"JWT_SECRET": NEW}, NEW)
    assert (other.has, other.reloads) == ({"ENCRYPTION_KEY": OLD}, 0)
    app.refresh.refresh()
    assert jwt.reloads == 1


def test_settings_of_a_plugin_that_has_failed_since_hold_up_nobody(app: App) -> None:
    jwt = app.add("jwt", "JWT_SECRET")
    app.of_plugins = [Setting("SHOP_TITLE", str, "Shop", "The title.")]
    app.config = app.resolve()
    app.of_plugins = []
    app.write(jwt_secret=NEW)
    app.refresh.refresh()
    assert jwt.has == {"JWT_SECRET": NEW}


def test_vault_wins_over_the_files_here_too(app: App) -> None:
    jwt = app.add("jwt", "JWT_SECRET")
    app.write(jwt_secret=NEW)
    app.held = {"jwt_secret": NEWER}
    app.refresh.refresh()
    assert jwt.has == {"JWT_SECRET": NEWER}
    assert app.config.origin("JWT_SECRET") == "vault"


def test_what_nobody_takes_over_live_stays_as_it_was(app: App) -> None:
    app.add("jwt", "JWT_SECRET")
    before = app.config["REDIS_PASSWORD"]
    app.write(redis_password="another one", jwt_secret=NEW)
    app.refresh.refresh()
    assert (app.config["REDIS_PASSWORD"], app.config["JWT_SECRET"]) == (before, NEW)


def test_a_manager_that_refuses_keeps_the_old_value_and_the_others_take_theirs(app: App) -> None:
    jwt, encryption = app.add("jwt", "JWT_SECRET"), app.add("encryption", "ENCRYPTION_KEY")
    encryption.refuses = {NEW}
    taken, refused = count("taken"), count("refused")
    app.write(jwt_secret=NEW, encryption_key=NEW)
    app.refresh.refresh()
    assert (jwt.has["JWT_SECRET"], app.config["JWT_SECRET"]) == (NEW, NEW)
    assert (encryption.has["ENCRYPTION_KEY"], app.config["ENCRYPTION_KEY"]) == (OLD, OLD)
    assert (count("taken"), count("refused")) == (taken + 1, refused + 1)
    encryption.refuses = set()
    app.refresh.refresh()
    assert (encryption.has["ENCRYPTION_KEY"], app.config["ENCRYPTION_KEY"]) == (NEW, NEW)


def test_what_one_of_two_managers_refuses_the_other_gives_back(app: App) -> None:
    first, second = app.add("first", "JWT_SECRET", "ENCRYPTION_KEY"), app.add("second", "ENCRYPTION_KEY")
    second.refuses = {NEW}
    app.write(jwt_secret=NEW, encryption_key=NEW)
    app.refresh.refresh()
    assert first.has == {"JWT_SECRET": NEW, "ENCRYPTION_KEY": OLD}
    assert second.has == {"ENCRYPTION_KEY": OLD}
    assert (app.config["JWT_SECRET"], app.config["ENCRYPTION_KEY"]) == (NEW, OLD)


@pytest.mark.parametrize("broken", ["short", ""])
def test_a_value_that_cannot_be_used_changes_nothing(broken: str, app: App) -> None:
    jwt = app.add("jwt", "JWT_SECRET", "ENCRYPTION_KEY")
    unusable = count("unusable")
    app.write(jwt_secret=broken, encryption_key=NEW)
    app.refresh.refresh()
    assert (jwt.has["JWT_SECRET"], jwt.reloads, count("unusable")) == (OLD, 0, unusable + 1)
    (app.folder / "jwt_secret").unlink()
    app.refresh.refresh()
    assert (jwt.reloads, count("unusable")) == (0, unusable + 2)


def test_the_log_is_told_once_of_each_change_and_never_a_secret(app: App, tmp_path: Path) -> None:
    app.add("jwt", "JWT_SECRET")
    encryption = app.add("encryption", "ENCRYPTION_KEY")
    encryption.refuses = {NEW}
    with logging_to(tmp_path / "logs") as logs:
        app.write(jwt_secret=NEW, encryption_key=NEW, redis_password="another-secret", admin_password="short")
        for _ in range(3):
            app.refresh.refresh()
        app.write(admin_password="long enough now")
        for _ in range(3):
            app.refresh.refresh()
        messages = [line["message"] for line in logs.lines()]
        text = logs.text()
    assert sorted(messages) == [
        "a manager refused changed settings, the old ones stay",
        "changed settings cannot be used, the old ones stay: secret admin_password: shorter than 12 characters",
        "setting ADMIN_PASSWORD has changed, which takes effect at the next start",
        "setting JWT_SECRET has changed and is in use",
        "setting REDIS_PASSWORD has changed, which takes effect at the next start",
    ]
    assert not [secret for secret in (OLD, NEW, "another-secret", "long enough now") if secret in text]


def test_while_vault_is_away_the_files_do_not_win(app: App) -> None:
    app.held = {"jwt_secret": NEWER}
    app.config = app.resolve()
    jwt = app.add("jwt", "JWT_SECRET")
    unavailable = count("unavailable")
    app.vault_is_away = True
    app.refresh.refresh()
    assert (jwt.has, jwt.reloads, count("unavailable")) == ({"JWT_SECRET": NEWER}, 0, unavailable + 1)


def test_it_looks_by_itself_until_it_is_stopped(copied_secrets: Path) -> None:
    (copied_secrets / "jwt_secret").write_text(OLD)
    app = App(copied_secrets, SETTINGS_REFRESH="0.05")
    jwt = app.add("jwt", "JWT_SECRET")
    app.refresh.start()
    try:
        app.write(jwt_secret=NEW)
        eventually(lambda: jwt.has["JWT_SECRET"] == NEW, 5)
        app.write(jwt_secret="short")
        before = count("unusable")
        eventually(lambda: count("unusable") > before + 1, 5)
        app.write(jwt_secret=NEWER)
        eventually(lambda: jwt.has["JWT_SECRET"] == NEWER, 5)
    finally:
        app.refresh.stop()
        app.refresh.stop()


def test_0_means_never(copied_secrets: Path) -> None:
    app = App(copied_secrets, SETTINGS_REFRESH="0")
    app.refresh.start()
    assert app.refresh._ticker is None
    app.refresh.stop()
