"""The shape of the code: what every route states, what every file and every public name says about itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.managers.app_manager import AppManager
from core.web.answers import View, contents_by_status
from core.web.models import Body, Query
from core.web.routing import ADMIN_SCOPE, ADMINS, EVERYONE, PUBLIC, Route
from tests.support.in_process import booted
from tools.local_stack import LocalStack

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "utils", "tools", "plugins")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
# Who moves credits, by the last word of the path.
MONEY = re.compile(r"/(grants|debits|transfers|holds|capture|release|adjust|reversals|batches|void|schedules)$")
# Everything that needs no token, and why.
OPEN = {
    "GET /": "says what this is",
    "GET /plugins/main_plugin/assets/{version}/{name}": "what the page at / consists of",
    "GET /health": "operators and load balancers",
    "GET /health/live": "operators and load balancers",
    "GET /health/ready": "operators and load balancers",
    "GET /metrics": "Prometheus",
    "GET /.well-known/jwks.json": "public keys, for services that verify tokens themselves",
    "GET /openapi.json": "documentation",
    "GET /docs": "documentation",
    "GET /docs/{asset}": "documentation",
    "POST /auth/register": "makes the token",
    "POST /auth/login": "makes the token",
    "POST /auth/refresh": "brings a token of its own",
}
# What API keys can be allowed to do; everything else about an account needs a session.
SCOPES = {"users:read", "wallets:read", "wallets:write", "money", "webhooks", "admin"}
CREDENTIALS = re.compile(r"^[A-Z]+ /auth/(?!me$)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Routes


@pytest.fixture(scope="module")
def application(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    with booted(servers.environ, tmp_path_factory.mktemp("shape")) as manager:
        yield manager


@pytest.fixture(scope="module")
def routes(application: AppManager) -> dict[str, Route]:
    """Every mounted route, by method and path."""
    return {f"{route.method} {route.path}": route for route in application.chain.routes}


def test_there_are_routes_and_flask_has_no_others(application: AppManager, routes: dict[str, Route]) -> None:
    assert application.app is not None
    rules = list(application.app.url_map.iter_rules())
    own = {f"{method} {rule.rule.replace('<', '{').replace('>', '}')}" for rule in rules for method in rule.methods or ()}
    assert len(routes) > 20
    assert {each for each in own if not each.startswith(("HEAD ", "OPTIONS "))} == set(routes)


def test_every_route_states_its_roles_and_only_listed_ones_need_no_token(routes: dict[str, Route]) -> None:
    assert all(isinstance(route.roles, frozenset) and route.roles <= EVERYONE for route in routes.values())
    assert {name for name, route in routes.items() if route.roles == PUBLIC} <= set(OPEN)


def test_every_route_states_what_an_api_key_needs_for_it_and_none_touches_credentials(routes: dict[str, Route]) -> None:
    for name, route in routes.items():
        if route.roles == PUBLIC or CREDENTIALS.match(name):
            assert route.scope is None, name
        else:
            assert route.scope in SCOPES, f"{name}: which scope does an API key need?"


def test_what_only_admins_may_needs_the_scope_admin_and_what_moves_credits_the_scope_money(routes: dict[str, Route]) -> None:
    for name, route in routes.items():
        assert route.roles != ADMINS or route.scope == ADMIN_SCOPE, name
        assert not route.idempotent or route.scope == "money", name


def test_every_body_refuses_what_it_does_not_know(routes: dict[str, Route]) -> None:
    for name, route in routes.items():
        assert route.body is None or issubclass(route.body, Body), name
        assert route.query is None or issubclass(route.query, Query), name
        for model in (route.body, route.query):
            assert model is None or model.model_config.get("extra") == "forbid", name
        assert route.body is None or route.body.model_config.get("strict") is True, name
        assert route.body is None or route.method in ("POST", "PUT", "PATCH"), name


def test_every_money_verb_is_idempotent_limited_and_can_be_rehearsed(routes: dict[str, Route]) -> None:
    verbs = {name: route for name, route in routes.items() if route.method == "POST" and MONEY.search(route.path)}
    assert {"POST /wallets/{id}/grants", "POST /wallets/{id}/debits", "POST /transfers"} <= set(verbs)
    for name, route in verbs.items():
        assert route.idempotent, name
        assert route.limit == "money", name
        assert route.query is not None, name
        assert "dry_run" in route.query.model_fields, name
    assert {name for name, route in routes.items() if route.idempotent} == set(verbs)


def test_every_limit_is_a_policy_of_the_rate_limiter(application: AppManager, routes: dict[str, Route]) -> None:
    policies = {row["policy"] for row in application.rate_limiter_manager.get_limits()["policies"]}
    assert {route.limit for route in routes.values() if route.limit is not None} <= policies
    for name in ("POST /auth/register", "POST /auth/login", "POST /auth/refresh", "PUT /auth/password"):
        assert routes[name].limit == "auth", name


def test_only_what_must_answer_a_prober_is_unlimited(routes: dict[str, Route]) -> None:
    unlimited = {name for name, route in routes.items() if route.unlimited}
    assert unlimited == {"GET /health", "GET /health/live", "GET /health/ready", "GET /metrics"}


def test_every_route_declares_its_answers(routes: dict[str, Route]) -> None:
    """They are what /openapi.json tells clients: a View (core/web/answers.py) next to the function that makes it, or a media type."""
    undeclared = [name for name, route in routes.items() if route.answers is None]
    assert not undeclared, f"say in answers= of the Route, by status, what these answer: {undeclared}"
    for name, route in routes.items():
        for status, contents in contents_by_status(route.answers or {}).items():
            assert 200 <= status < 400 or name.startswith("GET /health"), f"{name}: {status} is a refusal, which stands in refuses="
            models = [content for content in contents if isinstance(content, type)]
            assert all(issubclass(model, View) for model in models), f"{name}: {models} are no Views"


def test_every_refusal_of_a_route_has_a_status_and_a_code(routes: dict[str, Route]) -> None:
    for name, route in routes.items():
        for refusal in route.refuses:
            assert re.fullmatch(r"[45]\d\d [a-z][a-z0-9-]*", refusal), f'{name}: {refusal!r} is not like "409 hold-closed"'


def test_every_route_has_a_summary_of_its_own(routes: dict[str, Route]) -> None:
    summaries = [route.summary for route in routes.values()]
    assert all(text and text[0].isupper() and not text.endswith(".") for text in summaries)
    assert len(set(summaries)) == len(summaries)


# Files


def test_secrets_is_no_package() -> None:
    """It would shadow the standard library's `secrets`."""
    assert not (ROOT / "secrets" / "__init__.py").exists()


def entry_points() -> set[Path]:
    """The files that someone starts from a shell: they speak to who is there."""
    return {path for path in FILES if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text(encoding="utf-8")}


def test_nobody_prints_but_the_entry_points() -> None:
    printers = {path for path, tree in TREES.items() if any(isinstance(n, ast.Name) and n.id == "print" for n in ast.walk(tree))}
    assert sorted(map(name_of, printers - entry_points())) == []


@pytest.mark.parametrize("path", [path for path in FILES if path.read_text(encoding="utf-8").strip()], ids=name_of)
def test_a_file_starts_with_one_sentence_that_says_what_lives_there(path: Path) -> None:
    text = ast.get_docstring(TREES[path])
    assert text is not None
    sentence = text.split("\n\n")[0]
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert 15 < len(sentence) <= 140


# Names


def documented_methods() -> set[str]:
    """The names of methods that one of our classes has explained: who overrides them need not repeat it."""
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {each.name for owner in classes for each in owner.body if isinstance(each, ast.FunctionDef) and ast.get_docstring(each)}


OUR_CLASSES = {node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
EXPLAINED = documented_methods()
SHORT = 3


def says_itself(function: ast.FunctionDef) -> bool:
    """One statement, or as many lines as a docstring would take: the name is enough."""
    first, last = function.body[0], function.body[-1]
    return len(function.body) == 1 or (last.end_lineno or 0) - first.lineno < SHORT


def overrides(function: ast.FunctionDef, owner: ast.ClassDef | None) -> bool:
    """What a base has explained, ours or that of a library."""
    if owner is None or not owner.bases:
        return False
    extends = any(isinstance(n, ast.Attribute) and n.attr == function.name and "super()" in ast.unparse(n) for n in ast.walk(function))
    foreign = any(isinstance(base, ast.Attribute) or (isinstance(base, ast.Name) and base.id not in OUR_CLASSES) for base in owner.bases)
    return foreign or extends or function.name in EXPLAINED


def only_declares(owner: ast.ClassDef) -> bool:
    """A class of fields: a body, a row, an error with its code."""
    return all(isinstance(each, (ast.Assign, ast.AnnAssign, ast.Pass)) for each in owner.body)


def unexplained(body: list[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[str]:
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        plain = says_itself(node) or overrides(node, owner) if isinstance(node, ast.FunctionDef) else only_declares(node)
        if not plain and not ast.get_docstring(node):
            yield f"{owner.name}.{node.name}" if owner is not None else node.name
        if isinstance(node, ast.ClassDef):
            yield from unexplained(node.body, node)


def test_every_public_name_is_explained_unless_it_says_itself() -> None:
    missing = [f"{name_of(path)}: {name}" for path, tree in TREES.items() for name in unexplained(tree.body)]
    assert missing == []


def test_our_own_code_is_not_imported_inside_functions_of_the_core() -> None:
    """A local import of our own code is a mistake in the map."""
    local = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES
    ]
    assert local == []
