"""What operators' commands ask of the application: the routes of the API, called as an admin and without HTTP.

So a command follows the same rules as a request, its refusals are the same, and what it changes is audited; as the actor
`cli:<name of the account that it runs under>`.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from pydantic import ValidationError

from core import context
from core.cli.booted import booted
from core.cli.output import REFUSED, RETRY
from core.contracts import USER_DIRECTORY
from core.managers.app_manager import AppManager
from core.web.models import NoQuery, parse_body
from core.web.routing import ADMIN, Answer, Call, Principal
from tools.error_handling.error_handler import from_validation
from tools.error_handling.errors import AppError, NotFound, Unavailable

_PAGE = 100


class Operator:
    """Whoever runs a command. `ask` raises the errors that the API answers with."""

    def __init__(self, app_manager: AppManager) -> None:
        self.app_manager = app_manager
        self.actor = f"cli:{_account()}"
        self._routes = {f"{route.method} {route.path}": route for route in app_manager.chain.routes}

    def ask(
        self,
        route: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        key: str = "",
        as_user: str | None = None,
    ) -> Any:
        """What `route` (`GET /wallets/{id}`) answers, as data; None where it has nothing to say.

        Members that are None are left out of `body` and `query`. `key`: of a money verb. `as_user`: of whose own things it is asked.
        """
        answer = self._call(route, params or {}, _given(query), body=_given(body), key=key, as_user=as_user)
        return json.loads(answer.content) if isinstance(answer.content, str) else answer.body

    def text(self, route: str, *, params: Mapping[str, str], query: Mapping[str, Any]) -> Iterator[str]:
        """What a route answers that answers with text, in pieces."""
        answer = self._call(route, params, _given(query))
        assert not isinstance(answer.content, (str, bytes, type(None)))
        return answer.content

    def rows(self, route: str, *, query: Mapping[str, Any] | None = None, **more: Any) -> Iterator[dict[str, Any]]:
        """All rows of a list, page by page while they are taken."""
        cursor = None
        while True:
            page = self.ask(route, query={**(query or {}), "limit": _PAGE, "cursor": cursor}, **more)
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def user_id(self, named: str) -> str:
        """The id of the user whom an operator names by id, username or e-mail address; NotFound."""
        _refuse_unstorable(named)
        found: str = self.app_manager.services_manager.get_service(USER_DIRECTORY).id_of(named)
        return found

    def _call(
        self,
        route: str,
        params: Mapping[str, str],
        query: Mapping[str, Any],
        *,
        body: Any = None,
        key: str = "",
        as_user: str | None = None,
    ) -> Answer:
        found = self._routes.get(route)
        if found is None:
            raise click.ClickException(f"Nothing here answers {route}: the plugin that does so is not enabled.")
        for value in params.values():
            _refuse_unstorable(value)
        try:
            parsed_query = (found.query or NoQuery).model_validate(query)
        except ValidationError as error:
            raise from_validation(error) from None
        return found.handler(
            Call(
                params=params,
                body=parse_body(found.body, json.dumps(body).encode()) if found.body is not None else None,
                query=parsed_query,
                principal=Principal(as_user or self.actor, ADMIN, ""),
                route=route,
                request_id=context.request_id.get(),
                idempotency_key=key,
                remote_address="",
                user_agent="",
                fingerprint="",
                wants_cookie=False,
            )
        )


@contextmanager
def operator(as_json: bool = False) -> Iterator[Operator]:
    """The application for one command. What it refuses is told in one line (as JSON: by its problem), with the exit code."""
    with booted() as app_manager:
        us = Operator(app_manager)
        tokens = context.actor_id.set(us.actor), context.request_id.set(secrets.token_hex(12))
        try:
            yield us
        except AppError as error:
            _refuse(error, as_json)
        finally:
            context.actor_id.reset(tokens[0])
            context.request_id.reset(tokens[1])


def _refuse(error: AppError, as_json: bool) -> None:
    problem = error.problem()
    if as_json:
        click.echo(json.dumps(problem))
    click.echo(f"Error: {problem.get('detail') or problem['title']} ({problem['code']})", err=True)
    sys.exit(RETRY if isinstance(error, Unavailable) else REFUSED)


def _account() -> str:
    """The name of the account that this process runs under; nobody can say another one, as in the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def _refuse_unstorable(text: str) -> None:
    """A shell also hands on bytes that are no text; nothing has such a name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotFound("There is nothing of that name.") from None
