"""The settings: where each value comes from, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from utils.config.config import (
    BY_KEY,
    MASK,
    SETTINGS,
    Config,
    ConfigError,
    Setting,
    check_settings,
    load_bootstrap,
    load_config,
    load_one,
    load_plain,
    settings_table,
    survey,
)

ROOT = Path(__file__).parents[3]
SECRET = "s3cret-of-at-least-thirty-two-characters"
REQUIRED = [setting for setting in SETTINGS if setting.secret and setting.required]
PLAIN = [setting for setting in SETTINGS if not setting.secret and not setting.bootstrap]
# For each type: a value that is good whatever the minimum, as text and as it reads back, and one that is none.
GOOD = {str: ("text", "text"), int: ("4096", 4096), float: ("4096.5", 4096.5), bool: ("yes", True), tuple: ("a, b,,", ("a", "b"))}
BAD = {int: "12x", float: "1,5", bool: "perhaps"}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with every required secret."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for setting in REQUIRED:
        (folder / setting.file_name).write_text(f" {SECRET}-{setting.file_name}\n")
    return folder


def load(secrets: Path, vault: Mapping[str, str] | None = None, **environ: str) -> Config:
    return load_config(vault, {"SECRETS_DIR": str(secrets), **environ})


def toml(folder: Path, text: str) -> str:
    path = folder / "config.toml"
    path.write_text(text)
    return str(path)


def good_value(setting: Setting) -> tuple[str, Any]:
    return (setting.choices[-1], setting.choices[-1]) if setting.choices else GOOD[setting.type]


@pytest.mark.parametrize("setting", PLAIN, ids=lambda setting: setting.key)
def test_vault_beats_the_config_file_beats_the_environment_beats_the_default(setting: Setting, secrets: Path) -> None:
    text, value = good_value(setting)
    key, vault = setting.key, {setting.file_name: text}
    quoted = f'"{text}"'
    assert (load(secrets)[key], load(secrets).origin(key)) == (setting.default, "default")
    assert (load(secrets, **{key: text})[key], load(secrets, **{key: text}).origin(key)) == (value, "environment")
    path = toml(secrets, f"{key} = {quoted}")
    from_file = load(secrets, CONFIG_FILE=path, **{key: "nonsense that nobody reads"})
    assert (from_file[key], from_file.origin(key)) == (value, "config file")
    toml(secrets, f'{key} = "nonsense that nobody reads"')
    from_vault = load(secrets, vault, CONFIG_FILE=path, **{key: "nonsense too"})
    assert (from_vault[key], from_vault.origin(key)) == (value, "vault")


@pytest.mark.parametrize("setting", REQUIRED, ids=lambda setting: setting.key)
def test_a_secret_comes_from_vault_then_from_its_file_and_never_from_the_environment(setting: Setting, secrets: Path) -> None:
    key = setting.key
    config = load(secrets, {setting.file_name: f"{SECRET}-vault"})
    assert (config[key], config.origin(key)) == (f"{SECRET}-vault", "vault")
    config = load(secrets, **{key: f"{SECRET}-environment"})
    assert (config[key], config.origin(key)) == (f"{SECRET}-{setting.file_name}", "secret file")
    (secrets / setting.file_name).unlink()
    with pytest.raises(ConfigError, match=f"missing secret {setting.file_name}: "):
        load(secrets, **{key: f"{SECRET}-environment"})


def test_all_missing_secrets_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path)
    assert all(setting.file_name in str(refusal.value) for setting in REQUIRED)


def test_an_optional_secret_may_be_absent(secrets: Path) -> None:
    assert load(secrets)["ADMIN_PASSWORD"] is None


def test_vault_needs_both_of_its_credentials(secrets: Path) -> None:
    with pytest.raises(ConfigError, match="missing secret vault_role_id, vault_secret_id: "):
        load_bootstrap({"SECRETS_DIR": str(secrets), "VAULT_ADDR": "http://vault"})


@pytest.mark.parametrize("source", ["vault", "config file", "environment"])
@pytest.mark.parametrize("setting", [s for s in PLAIN if s.type in BAD], ids=lambda setting: setting.key)
def test_a_value_that_cannot_be_read_names_its_key(setting: Setting, source: str, secrets: Path) -> None:
    bad = BAD[setting.type]
    sources: dict[str, dict[str, Any]] = {
        "vault": {"vault": {setting.file_name: bad}},
        "config file": {"CONFIG_FILE": toml(secrets, f'{setting.key} = "{bad}"')},
        "environment": {setting.key: bad},
    }
    with pytest.raises(ConfigError, match=f"^{setting.key}: expected "):
        load(secrets, **sources[source])


@pytest.mark.parametrize("setting", [s for s in PLAIN if s.minimum is not None], ids=lambda setting: setting.key)
def test_a_number_below_its_minimum_names_its_key(setting: Setting, secrets: Path) -> None:
    assert setting.minimum is not None
    with pytest.raises(ConfigError, match=f"^{setting.key}: must be at least "):
        load(secrets, **{setting.key: str(setting.type(setting.minimum - 1))})


@pytest.mark.parametrize("setting", [s for s in PLAIN if s.maximum is not None], ids=lambda setting: setting.key)
def test_a_number_above_its_maximum_names_its_key(setting: Setting, secrets: Path) -> None:
    assert setting.maximum is not None
    with pytest.raises(ConfigError, match=f"^{setting.key}: must be at most "):
        load(secrets, **{setting.key: str(setting.type(setting.maximum + 1))})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.type is float], ids=lambda setting: setting.key)
def test_a_number_that_is_not_finite_is_none(setting: Setting, text: str, secrets: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{setting.key}: expected number"):
        load(secrets, **{setting.key: text})


@pytest.mark.parametrize("setting", [s for s in PLAIN if s.choices], ids=lambda setting: setting.key)
def test_a_value_that_is_no_choice_names_its_key_and_the_choices(setting: Setting, secrets: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{setting.key}: expected one of {', '.join(setting.choices)}"):
        load(secrets, **{setting.key: "something else"})


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("TRUE", True), (" on ", True), ("0", False), ("no", False), ("off", False), ("", False)]
)
def test_booleans_have_several_spellings(text: str, value: bool) -> None:
    assert Setting("FLAG", bool, False, "A flag.").parse(text) is value


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("PORT = 8080", "PORT", 8080),
        ("REQUEST_TIMEOUT = 3", "REQUEST_TIMEOUT", 3.0),
        ('PLUGINS = ["a", "b"]', "PLUGINS", ("a", "b")),
        ('PLUGINS = "a,b"', "PLUGINS", ("a", "b")),
    ],
)
def test_the_config_file_may_use_the_types_of_toml(line: str, key: str, value: Any, secrets: Path) -> None:
    assert load(secrets, CONFIG_FILE=toml(secrets, line))[key] == value


@pytest.mark.parametrize(
    "line", ["PORT = true", "PORT = 80.5", "REQUEST_TIMEOUT = true", "PLUGINS = 5", "HOST = 5", "REQUEST_TIMEOUT = nan"]
)
def test_another_type_of_toml_names_the_key(line: str, secrets: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{line.split(maxsplit=1)[0]}: expected "):
        load(secrets, CONFIG_FILE=toml(secrets, line))


def test_unknown_keys_in_the_config_file_are_all_named(secrets: Path) -> None:
    with pytest.raises(ConfigError, match=r"^CONFIG_FILE: unknown setting POTR, port$"):
        load(secrets, CONFIG_FILE=toml(secrets, "POTR = 5000\nport = 5000\nPORT = 5000"))


def test_a_secret_in_the_config_file_is_refused_without_its_value(secrets: Path) -> None:
    with pytest.raises(ConfigError, match=r"^CONFIG_FILE: JWT_SECRET is a secret") as refusal:
        load(secrets, CONFIG_FILE=toml(secrets, f'JWT_SECRET = "{SECRET}"'))
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("text", ["PORT = ", "\x00", None])
def test_a_config_file_that_cannot_be_read_is_named(text: str | None, secrets: Path) -> None:
    path = toml(secrets, text) if text is not None else str(secrets / "nowhere.toml")
    with pytest.raises(ConfigError, match=f"^CONFIG_FILE: cannot read {path}"):
        load(secrets, CONFIG_FILE=path)


def test_the_config_file_may_say_where_the_secrets_are(secrets: Path, tmp_path: Path) -> None:
    path = toml(tmp_path, f'SECRETS_DIR = "{secrets}"\nVAULT_MOUNT = "kv"')
    config = load_config(None, {"CONFIG_FILE": path})
    assert config["JWT_SECRET"].startswith(SECRET)
    assert (config["VAULT_MOUNT"], config.origin("VAULT_MOUNT")) == ("kv", "config file")
    assert load_plain({"CONFIG_FILE": path})["VAULT_MOUNT"] == "kv"


def test_the_config_file_cannot_name_another_one(secrets: Path) -> None:
    with pytest.raises(ConfigError, match=r"^CONFIG_FILE: "):
        load(secrets, CONFIG_FILE=toml(secrets, 'CONFIG_FILE = "elsewhere.toml"'))


@pytest.mark.parametrize("key", ["JWT_SECRET", "ENCRYPTION_KEY", "REDIS_ENCRYPTION_KEY"])
def test_short_key_material_is_refused_without_being_shown(key: str, secrets: Path) -> None:
    (secrets / key.lower()).write_text("short-and-secret")
    with pytest.raises(ConfigError, match=f"^secret {key.lower()}: shorter than 32 characters$") as refusal:
        load(secrets)
    assert "short-and-secret" not in str(refusal.value)


def test_each_of_several_encryption_keys_has_to_be_long_enough(secrets: Path) -> None:
    (secrets / "encryption_key").write_text(f"{SECRET}\nshort-and-secret\n")
    with pytest.raises(ConfigError, match=r"^secret encryption_key: shorter than 32 characters$"):
        load(secrets)


def test_an_empty_secret_file_is_no_secret(secrets: Path) -> None:
    (secrets / "redis_password").write_text("\n")
    with pytest.raises(ConfigError, match=r"^secret redis_password: "):
        load(secrets)


def test_a_secret_that_cannot_be_read_is_named(secrets: Path) -> None:
    (secrets / "redis_password").unlink()
    (secrets / "redis_password").mkdir()
    with pytest.raises(ConfigError, match=r"^secret redis_password: cannot read "):
        load(secrets)


def test_the_description_names_what_is_not_default_and_masks_every_secret(secrets: Path) -> None:
    (secrets / "admin_password").write_text(SECRET)
    config = load(secrets, PORT="5001", PLUGINS="a,b")
    lines = config.describe()
    assert "PORT = 5001 (environment)" in lines
    assert "PLUGINS = a,b (environment)" in lines
    assert f"JWT_SECRET = {MASK} (secret file)" in lines
    assert not any(line.startswith("HOST = ") for line in lines)
    assert SECRET not in "".join(lines) + repr(config) + str(config)


def test_a_setting_that_is_not_declared_is_an_error(secrets: Path) -> None:
    with pytest.raises(KeyError):
        load(secrets)["PROT"]
    assert set(load(secrets)) == set(BY_KEY)


# Settings of plugins

OF_PLUGIN = (
    Setting("SHOP_TITLE", str, "Shop", "The title."),
    Setting("SHOP_SIZE", int, 3, "The size.", minimum=1),
    Setting("SHOP_KEY", str, "", "The key.", secret=True),
)


def test_what_plugins_declare_is_found_in_the_same_order_as_ours(secrets: Path) -> None:
    (secrets / "shop_key").write_text(SECRET)
    sources: dict[str, str] = {
        "CONFIG_FILE": toml(secrets, 'SHOP_TITLE = "from the file"\nSHOP_SIZE = 5'),
        "SHOP_TITLE": "no",
        "SHOP_SIZE": "7",
    }
    config = load_config({"shop_title": "from Vault"}, {"SECRETS_DIR": str(secrets), **sources}, more=OF_PLUGIN)
    assert [(config[s.key], config.origin(s.key)) for s in OF_PLUGIN] == [
        ("from Vault", "vault"),
        (5, "config file"),
        (SECRET, "secret file"),
    ]
    shown = {row["key"]: row["value"] for row in config.rows()}
    assert (shown["SHOP_KEY"], shown["SHOP_SIZE"], shown["JWT_SECRET"]) == (MASK, "5", MASK)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SHOP_SIZE": "0"}, "^SHOP_SIZE: must be at least 1$"),
        ({}, "^missing secret shop_key: "),
    ],
)
def test_what_plugins_declare_is_checked_like_ours(environ: dict[str, str], message: str, secrets: Path) -> None:
    environ = {"SECRETS_DIR": str(secrets), **environ}
    for check in (lambda: check_settings(OF_PLUGIN, {}, environ), lambda: load_config({}, environ, more=OF_PLUGIN)):
        with pytest.raises(ConfigError, match=message):
            check()


def test_settings_of_a_plugin_that_is_off_are_no_mistake_in_the_config_file(secrets: Path) -> None:
    environ = {"SECRETS_DIR": str(secrets), "CONFIG_FILE": toml(secrets, 'SHOP_TITLE = "x"\nSHOPPING = 1')}
    with pytest.raises(ConfigError, match=r"^CONFIG_FILE: unknown setting SHOPPING$"):
        load_config({}, environ, left_out=("SHOP_",))
    assert load_bootstrap(environ)["SECRETS_DIR"] == str(secrets)


def test_a_secret_of_a_plugin_in_the_config_file_is_refused(secrets: Path) -> None:
    environ = {"SECRETS_DIR": str(secrets), "CONFIG_FILE": toml(secrets, 'SHOP_KEY = "x"')}
    with pytest.raises(ConfigError, match=r"^CONFIG_FILE: SHOP_KEY is a secret"):
        load_config({}, environ, more=OF_PLUGIN)


def test_which_plugins_run_is_known_before_the_rest(secrets: Path) -> None:
    assert load_one("PLUGINS", {"plugins": "a,?b"}, {"PLUGINS": "c"}) == ("a", "?b")
    assert load_one("PLUGINS", {}, {"PLUGINS": "c"}) == ("c",)


def test_the_plain_settings_need_no_secret_and_hold_none(tmp_path: Path) -> None:
    plain = load_plain({"PORT": "5001", "VAULT_ADDR": "http://vault", "SECRETS_DIR": str(tmp_path)})
    assert plain["PORT"] == 5001
    assert not [key for key in plain if BY_KEY[key].secret]


def test_nothing_else_reads_the_environment() -> None:
    readers = [
        path.relative_to(ROOT).as_posix()
        for folder in ("core", "plugins", "tools/error_handling", "tools/logger", "utils")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"os\.environ|getenv", path.read_text())
    ]
    # prometheus_client and eventlet are told by variables of theirs.
    assert set(readers) == {"core/metrics.py", "utils/config/config.py", "utils/green.py"}


def test_each_setting_has_a_sentence_and_a_default_of_its_type() -> None:
    assert len(BY_KEY) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.doc.endswith("."), setting.key
        assert type(setting.default) is setting.type, setting.key
        if not setting.secret:
            assert setting.parse(setting.default) == setting.default


def test_the_table_has_a_row_for_each_setting_and_is_what_the_module_prints() -> None:
    table = settings_table()
    assert all(f"| `{setting.key}` | " in table for setting in SETTINGS)
    printed = subprocess.run([sys.executable, "-m", "utils.config"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == table


def test_the_readme_shows_this_very_table() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if "<!-- settings -->" in text:
        shown = text.split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
        assert shown.strip() == settings_table(), "update it: python -m utils.config"


def test_with_vault_there_is_one_secret_id_plain_or_wrapped(secrets: Path) -> None:
    address = {"VAULT_ADDR": "http://127.0.0.1:8200"}
    (secrets / "vault_role_id").write_text("role")
    with pytest.raises(ConfigError, match="missing secret vault_secret_id: "):
        load(secrets, **address)
    (secrets / "vault_wrapped_secret_id").write_text("wrapped")
    assert load(secrets, **address)["VAULT_WRAPPED_SECRET_ID"] == "wrapped"
    (secrets / "vault_secret_id").write_text("plain")
    with pytest.raises(ConfigError, match="vault_secret_id and vault_wrapped_secret_id: only one of them"):
        load(secrets, **address)
    (secrets / "vault_wrapped_secret_id").unlink()
    (secrets / "vault_role_id").unlink()
    with pytest.raises(ConfigError, match="missing secret vault_role_id: "):
        load(secrets, **address)


def test_changes_are_taken_key_by_key_with_their_source(secrets: Path) -> None:
    before = load(secrets)
    fresh = load(secrets, {"jwt_secret": f"{SECRET}-vault", "jwt_issuer": "vault"}, PORT="6000")
    mixed = before.with_changes(fresh, {"JWT_SECRET", "PORT"})
    assert (mixed["JWT_SECRET"], mixed.origin("JWT_SECRET")) == (f"{SECRET}-vault", "vault")
    assert (mixed["PORT"], mixed.origin("PORT")) == (6000, "environment")
    assert mixed["JWT_ISSUER"] == before["JWT_ISSUER"] != fresh["JWT_ISSUER"]
    assert before["PORT"] == 5000


def test_a_survey_of_good_settings_is_what_is_loaded(secrets: Path) -> None:
    vault, environ = {"jwt_issuer": "vault"}, {"SECRETS_DIR": str(secrets), "PORT": "6000"}
    config, wrong = survey(vault, environ)
    assert wrong == []
    assert sorted(map(str, config.rows())) == sorted(map(str, load_config(vault, environ).rows()))


def test_a_survey_names_all_that_is_wrong_and_tells_the_rest(secrets: Path) -> None:
    (secrets / "jwt_secret").unlink()
    (secrets / "redis_password").unlink()
    config, wrong = survey({"vault_addr": "not from there"}, {"SECRETS_DIR": str(secrets), "PORT": "many", "ASYNC_MODE": "fast"})
    assert [line.split(":")[0] for line in wrong] == ["PORT", "ASYNC_MODE", "missing secret redis_password, jwt_secret"]
    assert (config["PORT"], config.origin("PORT")) == (None, "unusable")
    assert config["VAULT_ADDR"] == ""
    assert config.origin("ENCRYPTION_KEY") == "secret file"
