"""The image and the compose file, as far as that can be told without Docker: valid, hardened, complete, and without secrets."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.app_server import ROOT
from tests.support.compose import PORTS, dockerfile, let_into_the_image, load
from utils.config.config import BY_KEY, SETTINGS, load_plain
from utils.secret_files import COMPOSE, VAULT

FILES = ["docker-compose.yml", "docker-compose.vault.yml"]
STACK = load(*FILES)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
COPIES = [name for name, service in SERVICES.items() if re.fullmatch(r"app\d", name)]
# They see the folder of secrets and may change it.
OPERATORS = {"operator", "openbao-setup"}
# They run once and end.
TASKS = {*OPERATORS, "mongodb-init"}
NAMES_OF_SECRETS = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL|PRIVATE", re.IGNORECASE)
PROGRAMS = Path(sys.executable).parent

every_service = pytest.mark.parametrize("name", SERVICES)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


# The image


def test_hadolint_finds_nothing() -> None:
    done = run(PROGRAMS / "hadolint", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_four_workers_on_port_5000_and_a_user_without_rights() -> None:
    command, environ = dockerfile()
    config = load_plain(environ)
    assert (config["WORKERS"], config["PORT"], config["HOST"]) == (4, 5000, "0.0.0.0")
    assert command == ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
    text = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base) for base in bases)
    final = text.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["10001:10001"]
    assert "EXPOSE 5000" in final
    assert "pip uninstall" in final
    assert "HEALTHCHECK" in final


def test_nothing_but_the_application_gets_into_the_image() -> None:
    files = [str(file) for file in let_into_the_image()]
    tops = {file.split("/")[0] for file in files}
    assert tops == {
        "app.py",
        "gunicorn.conf.py",
        "core",
        "plugins",
        "tools",
        "utils",
        "init-scripts",
        "requirements.txt",
        "constraints.txt",
        "LICENSE",
    }
    assert "init-scripts/collections.json" in files
    assert not [file for file in files if file.startswith(("secrets", "tests", "tools/local_stack", ".")) or file.endswith(".pem")]


# The compose file


@pytest.mark.parametrize("file", FILES)
def test_the_file_is_as_the_compose_specification_says(file: str) -> None:
    done = run(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    assert done.returncode == 0, done.stdout


def test_every_secret_is_on_the_list_that_secrets_init_makes() -> None:
    declared = STACK["secrets"]
    assert set(declared) == {*COMPOSE, *VAULT}
    assert {name: Path(secret["file"]) for name, secret in declared.items()} == {name: Path("secrets", name) for name in declared}
    mounted = {(secret["source"], secret["target"]) for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert mounted == {(name, f"/secrets/{name}") for name in declared}


def test_the_application_gets_the_secrets_that_it_has_settings_for_and_no_others() -> None:
    settings = {setting.file_name for setting in SETTINGS if setting.secret}
    for name in COPIES:
        given = {secret["source"] for secret in SERVICES[name]["secrets"]}
        assert given == settings - {"vault_wrapped_secret_id"}


@every_service
def test_no_environment_holds_a_secret(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        assert not NAMES_OF_SECRETS.search(key) or str(value).startswith("/secrets/"), key
        assert not re.search(r"://[^/]*@", str(value)), key
        assert not re.search(r"[A-Za-z0-9+/_=-]{32,}", str(value)) or "," in str(value) or "/" in str(value), key


@pytest.mark.parametrize("name", [*COPIES, "operator"])
def test_the_environment_of_the_application_is_made_of_settings(name: str) -> None:
    environ = {**dockerfile()[1], **SERVICES[name]["environment"]}
    own = {key for key in environ if key not in ("PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")}
    assert own <= set(BY_KEY)
    load_plain({key: str(environ[key]) for key in own})


def test_there_are_as_many_copies_as_the_front_knows_with_one_worker_each() -> None:
    front = re.findall(r'^    server (app\d) "\$\{APP_\d-(app\d):5000\}"$', (ROOT / "haproxy/haproxy.cfg").read_text(), re.MULTILINE)
    assert front == [(name, name) for name in COPIES]
    assert {(SERVICES[name]["environment"]["WORKERS"], SERVICES[name]["environment"]["PROXY_COUNT"]) for name in COPIES} == {("1", "1")}
    assert set(SERVICES["haproxy"]["depends_on"]) == set(COPIES)


@every_service
def test_every_service_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert ("cap_add" in service) == (service.get("user") == "0:0") == (name in OPERATORS)
    assert service["restart"] == ("no" if name in TASKS else "unless-stopped")
    assert not {"privileged", "env_file", "pid", "ipc"} & set(service)
    assert "docker.sock" not in yaml.safe_dump(service)


@every_service
def test_every_image_has_an_exact_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", image) or image == "credit-system:local"


@every_service
def test_every_service_tells_of_its_health(name: str) -> None:
    service = SERVICES[name]
    assert name in TASKS or "build" in service or service["healthcheck"]["test"][0] == "CMD"


def test_only_the_front_is_published_and_only_it_is_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["haproxy"]
    networks = STACK["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"edge", "outside"}
    on = {network: {name for name, service in SERVICES.items() if network in service.get("networks", [])} for network in networks}
    assert on["edge"] == {"haproxy"}
    assert on["outside"] == {*COPIES, "alertmanager"}
    assert on["front"] == {"haproxy", *COPIES}
    assert not on["data"] & {"haproxy", "prometheus", "alertmanager", "grafana"}


@every_service
def test_what_is_mounted_is_there_and_cannot_be_changed(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, more = volume.partition(":")
        if source in ("./secrets", "./backups"):
            assert name in OPERATORS
        elif source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert more.endswith(":ro"), volume
        else:
            assert source in STACK["volumes"]


@every_service
def test_every_service_starts_after_what_it_needs_is_well(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] == ("service_completed_successfully" if needed in TASKS else "service_healthy")
        assert needed in SERVICES


def test_whoever_reads_a_secret_may_read_it() -> None:
    """Compose keeps the mode of the host's file, which is for its owner and group 10001."""
    for name, service in SERVICES.items():
        if service.get("secrets") and "build" not in service:
            assert service["group_add"] == ["10001"], name


def test_the_rehearsal_starts_all_that_listens() -> None:
    assert set(PORTS) == set(SERVICES) - TASKS - {"grafana"}


def test_the_folder_of_secrets_is_ignored_by_git() -> None:
    assert run("git", "check-ignore", "secrets/jwt_secret").returncode == 0


def test_scripts_can_be_run() -> None:
    assert (ROOT / "deploy/openbao/setup.sh").stat().st_mode & stat.S_IXUSR
