"""The module: routes, a socket event, a callback of `user_created`, a hook and a metric of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from flask import render_template
from pydantic import Field

from hello_plugin.greetings import Greetings
from plugins.api import (
    EVERYONE,
    PUBLIC,
    Answer,
    BaseModule,
    Body,
    Call,
    Connection,
    Event,
    Kind,
    Page,
    PageQuery,
    Pager,
    Route,
    Text,
    Time,
    View,
)

# Everything that the plugin registers bears its name; the server refuses what does not.
PREFIX = "/plugins/hello_plugin"
GREETED = "hello_plugin.greeted"
WAVE, WAVED = "hello_plugin:wave", "hello_plugin:waved"


class GreetingBody(Body):
    """What a client sends, over HTTP and Socket.IO alike; what does not fit is refused by field."""

    text: Annotated[Text, Field(min_length=1, max_length=200)]


class GreetingView(View):
    """What clients get: it describes the answers in /openapi.json."""

    id: str
    text: str
    created_at: Time


class HelloModule(BaseModule):
    """Wires the collection, the routes and the events."""

    NAME = "hello_plugin"
    # It declares the hook `user_created`, and so has to be there before us.
    DEPENDENCIES = ("connection_api",)

    def initialize(self, app_manager: Any) -> bool:
        self._word = app_manager.config["HELLO_PLUGIN_GREETING"]
        self._hooks = app_manager.hooks_manager
        self._sockets = app_manager.websocket_manager
        # Asked for at every page, since keys are exchanged while we run.
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "hello_plugin"))
        self.greetings = Greetings(app_manager.database_manager, pager)
        # Exposed as credit_plugin_hello_plugin_greetings_total. A label has to say which values it may have.
        self._count = app_manager.metrics.counter("greetings", "Greetings kept.", labels={"source": ("http", "socket")})
        self._hooks.declare_hook(GREETED, Kind.NOTICE)
        self._hooks.register_hook("user_created", self._welcome)
        self._sockets.register_event(Event(WAVE, GreetingBody, self._wave))
        return True

    @property
    def routes(self) -> Sequence[Route]:
        path = f"{PREFIX}/greetings"
        return (
            Route("GET", PREFIX, self._page, PUBLIC, "The greeter's page", html=True, answers={200: "text/html"}),
            Route("GET", path, self._list, EVERYONE, "The caller's greetings", query=PageQuery, answers=Page[GreetingView]),
            Route("POST", path, self._greet, EVERYONE, "Leave a greeting", body=GreetingBody, answers={201: GreetingView}),
        )

    # Handlers: a Call comes in, an Answer goes out, and errors are raised (plugins.api has them).

    def _page(self, call: Call) -> Answer:
        page = render_template("hello_plugin/page.html", word=self._word)
        return Answer(content=page, content_type="text/html; charset=utf-8")

    def _list(self, call: Call) -> Answer:
        return Answer(self.greetings.page(call.caller.user_id, call.query.limit, call.query.cursor))

    def _greet(self, call: Call) -> Answer:
        return Answer(self._keep(call.caller.user_id, call.body.text, "http"), 201)

    def _wave(self, connection: Connection, body: GreetingBody) -> dict[str, Any]:
        """What it returns goes into the ack, beside `ok`."""
        greeting = self._keep(connection.principal.user_id, body.text, "socket")
        self._sockets.emit_to_user(connection.principal.user_id, WAVED, greeting)
        return {"greeting": greeting}

    def _keep(self, user_id: str, text: str, source: str) -> dict[str, Any]:
        greeting = self.greetings.add(user_id, text)
        self._count.labels(source=source).inc()
        self._hooks.trigger(GREETED, {"user_id": user_id, **greeting})
        return greeting

    def _welcome(self, event: Any) -> None:
        """Inside the transaction that makes a user: both or neither. It may run more than once, so it only touches data."""
        self.greetings.add(event["user_id"], f"{self._word} and welcome", event["session"])
