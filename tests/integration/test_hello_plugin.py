"""The example plugin, installed with pip as any other, on a real server: all that it brings, and a server that goes on without it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pymongo.database import Database

from plugins import api
from tests.support.app_server import ROOT, AppServer
from tests.support.client import Client, assert_problem
from tests.support.sockets import SocketClient
from tools.local_stack import LocalStack

EXAMPLE = ROOT / "examples" / "hello_plugin"
PREFIX = "/plugins/hello_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin in it, put there by pip, which may download nothing."""
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        folder,
        EXAMPLE,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def greeter(servers: LocalStack, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server that runs the plugin, and says Ahoy."""
    settings = {"PYTHONPATH": installed, "PLUGINS": "main_plugin,hello_plugin", "HELLO_PLUGIN_GREETING": "Ahoy"}
    with AppServer(servers.environ, tmp_path_factory.mktemp("greeter"), **settings) as running:
        yield running


@pytest.fixture
def carol(greeter: AppServer) -> Client:
    """A new user of the server with the plugin."""
    return Client.register(greeter.url)


def flask(server: AppServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as an operator types it, with the settings of `server`."""
    command = [Path(sys.executable).parent / "flask", *arguments]
    return subprocess.run(command, cwd=ROOT, env=server.environ, capture_output=True, text=True, check=False, timeout=60)


def test_its_page_is_public_and_made_from_its_own_template_and_setting(greeter: AppServer) -> None:
    answer = requests.get(greeter.url + PREFIX, timeout=10)
    assert answer.status_code == 200
    assert "<h1>Ahoy, world!</h1>" in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; object-src 'none'; ")
    assert answer.headers["X-Request-ID"]


def test_its_routes_stand_behind_the_same_chain_as_ours(greeter: AppServer, carol: Client) -> None:
    for method in ("GET", "POST"):
        assert_problem(Client(greeter.url).call(method, f"{PREFIX}/greetings"), 401, "unauthenticated")
    problem = assert_problem(carol.call("POST", f"{PREFIX}/greetings", {"text": "", "more": 1}), 422, "validation-failed")
    assert {error["field"] for error in problem["errors"]} == {"text", "more"}
    answer = carol.call("POST", f"{PREFIX}/greetings", {"text": "hello there"})
    assert answer.status_code == 201
    assert answer.json()["text"] == "hello there"
    assert answer.headers["RateLimit-Policy"]


def test_its_list_is_paged_and_of_the_caller_alone(greeter: AppServer, carol: Client) -> None:
    carol.call("POST", f"{PREFIX}/greetings", {"text": "mine"})
    first = carol.get(f"{PREFIX}/greetings?limit=1")
    second = carol.get(f"{PREFIX}/greetings", params={"limit": 1, "cursor": first["next_cursor"]})
    # The other was kept by the hook `user_created`, in the transaction that made the user.
    assert [row["text"] for row in first["data"] + second["data"]] == ["mine", "Ahoy and welcome"]
    assert second["next_cursor"] is None
    other = Client.register(greeter.url)
    assert [row["text"] for row in other.get(f"{PREFIX}/greetings")["data"]] == ["Ahoy and welcome"]
    assert_problem(other.call("GET", f"{PREFIX}/greetings", params={"cursor": first["next_cursor"]}), 400, "invalid-cursor")


def test_its_socket_event_has_a_schema_an_ack_and_an_answer(greeter: AppServer, carol: Client) -> None:
    client = SocketClient.connected(greeter.url, carol.token)
    try:
        ack = client.call("hello_plugin:wave", {"text": "from a socket"})
        assert ack["ok"] is True
        assert ack["greeting"]["text"] == "from a socket"
        assert client.expect("hello_plugin:waved") == ack["greeting"]
        refused = client.call("hello_plugin:wave", {"text": 5})
        assert refused["ok"] is False
        assert refused["error"]["code"] == "validation-failed"
        assert refused["error"]["errors"][0]["field"] == "text"
    finally:
        client.close()
    assert carol.get(f"{PREFIX}/greetings")["data"][0]["text"] == "from a socket"


def test_its_metric_counts_by_source_over_the_workers(greeter: AppServer, carol: Client) -> None:
    carol.call("POST", f"{PREFIX}/greetings", {"text": "counted"})
    text = requests.get(f"{greeter.url}/metrics", timeout=10).text
    (line,) = [line for line in text.splitlines() if line.startswith('credit_plugin_hello_plugin_greetings_total{source="http"}')]
    assert float(line.split()[-1]) >= 1


def test_its_collection_has_its_index_and_lies_apart_from_ours(
    greeter: AppServer, carol: Client, database: Database[dict[str, Any]]
) -> None:
    assert not [name for name in database.list_collection_names() if name.startswith("hello")]
    apart = database.client[f"{database.name}_plugins"]["hello_plugin_greetings"]
    assert "of_user" in apart.index_information()
    assert apart.count_documents({"user_id": carol.user["id"]}) == 1
    assert database["audit_logs"].find_one({"action": "hello_plugin_greetings.insert"})


def test_health_and_status_name_the_plugin_and_its_module(greeter: AppServer, secrets_dir: Path) -> None:
    health = requests.get(f"{greeter.url}/health", timeout=10).json()
    assert health["status"] == "healthy"
    assert health["managers"]["plugin"]["plugins"]["hello_plugin"] == {"status": "healthy", "version": "1.0.0"}
    assert health["modules"]["hello_plugin"]["status"] == "healthy"
    admin = Client.admin(greeter.url, secrets_dir)
    status = admin.get("/modules/status")["modules"]["hello_plugin"]
    assert (status["status"], status["dependencies"], status["routes"]) == ("healthy", ["connection_api"], 3)
    assert admin.get("/modules/hello_plugin/health")["module"] == "hello_plugin"


def test_operators_see_its_setting_and_run_its_command(greeter: AppServer, carol: Client) -> None:
    carol.call("POST", f"{PREFIX}/greetings", {"text": "for the operator"})
    shown = json.loads(flask(greeter, "settings", "--json").stdout)
    assert shown["HELLO_PLUGIN_GREETING"] == {"value": "Ahoy", "origin": "environment"}
    latest = flask(greeter, "hello_plugin", "latest", "--limit", "100")
    assert latest.returncode == 0, latest.stderr
    assert "for the operator" in latest.stdout


def test_without_it_nothing_of_it_is_there(server: AppServer) -> None:
    assert_problem(Client(server.url).call("GET", PREFIX), 404, "not-found")


def test_of_us_it_imports_the_public_interface_only() -> None:
    trees = [ast.parse(path.read_text()) for path in EXAMPLE.rglob("*.py")]
    imports = {node.module for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {name for name in imports if name.split(".")[0] in ("core", "plugins", "tools", "utils", "tests")}
    assert ours == {"plugins.api"}
    assert all(hasattr(api, name) for name in api.__all__)


def test_its_own_tests_pass(installed: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "tests"]
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


# When it is broken


@pytest.fixture(scope="module")
def broken(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin with a module that fails when it has registered everything."""
    folder = tmp_path_factory.mktemp("broken") / "installed"
    shutil.copytree(installed, folder)
    source = folder / "hello_plugin" / "module.py"
    text = source.read_text()
    assert "self._wave))\n        return True" in text
    source.write_text(text.replace("self._wave))\n        return True", 'self._wave))\n        raise RuntimeError("canary")'))
    return folder


def test_the_server_goes_on_without_a_broken_optional_plugin(servers: LocalStack, broken: Path, tmp_path: Path) -> None:
    settings = {"PYTHONPATH": broken, "PLUGINS": "main_plugin,?hello_plugin,?no_such_plugin", "WORKERS": 1}
    with AppServer(servers.environ, tmp_path, **settings) as running:
        answer = requests.get(f"{running.url}/health", timeout=10)
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        plugins = answer.json()["managers"]["plugin"]["plugins"]
        assert plugins["main_plugin"]["status"] == "healthy"
        assert plugins["hello_plugin"] == {"status": "off", "version": "1.0.0", "error": "RuntimeError"}
        assert plugins["no_such_plugin"] == {"status": "off", "version": "", "error": "NotInstalled"}
        assert "canary" not in answer.text
        # Its routes, its callback of `user_created`, its events and its metric went with it.
        assert_problem(Client(running.url).call("GET", PREFIX), 404, "not-found")
        user = Client.register(running.url)
        client = SocketClient.connected(running.url, user.token)
        client.io.emit("hello_plugin:wave", {"text": "anyone?"})
        assert client.call("join_room", {"room": "lobby"})["ok"]
        assert client.received("hello_plugin:waved") == []
        client.close()
        assert "credit_plugin_hello_plugin" not in requests.get(f"{running.url}/metrics", timeout=10).text


def test_a_broken_required_plugin_stops_the_boot_by_name(servers: LocalStack, broken: Path, tmp_path: Path) -> None:
    server = AppServer(servers.environ, tmp_path, PYTHONPATH=broken, PLUGINS="main_plugin,hello_plugin")
    boot = subprocess.run(
        [sys.executable, "-m", "core.preflight"], cwd=ROOT, env=server.environ, capture_output=True, text=True, check=False
    )
    assert boot.returncode == 3
    reason = "boot failed: 11/11 module: plugin hello_plugin: module hello_plugin: RuntimeError; server.log has the details"
    assert reason in boot.stderr
