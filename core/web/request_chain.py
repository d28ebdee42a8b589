"""The way of every request: id, deadline, token, limits, the handler, and then headers, metrics and one log line."""

from __future__ import annotations

import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response, request
from gunicorn.http.errors import ParseException

from core import context, metrics
from core.contracts import API_KEYS, Admission, Identifier, Standing, rate_limit_headers
from core.web.fingerprints import client_fingerprint
from core.web.models import NoQuery, parse_body, parse_query
from core.web.routing import Answer, Call, KeyVerifier, Principal, Route
from tools.error_handling.error_handler import ErrorHandler
from tools.error_handling.errors import (
    AppError,
    Forbidden,
    MalformedRequest,
    PayloadTooLarge,
    RequestTimeout,
    Unauthenticated,
    UnsupportedMediaType,
)
from tools.logger.custom_logger import custom_log, log_request
from utils import deadline, green

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
# Visible ASCII; RFC draft idempotency-key-header-07 quotes the value, most clients do not: both are taken.
_IDEMPOTENCY_KEY = re.compile(r'"([\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e][\x21-\x7e]{0,254})')
_UNMATCHED = "unmatched"
_BODY_SECONDS = 4.0
_PAGE_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


@dataclass(slots=True)
class _Trip:
    """What the chain knows of the request that it handles."""

    environ: dict[str, Any]
    route: Route | None
    request_id: str
    started: float
    fingerprint: str
    principal: Principal | None = None
    api_key: str | None = None
    standing: Standing | None = None


# Not in Flask's `g`, where each look costs more than here.
_current: ContextVar[_Trip | None] = ContextVar("trip", default=None)


class RequestChain:
    """Stands before and after every handler of one Flask app."""

    def __init__(self, app: Flask, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._errors: ErrorHandler = app_manager.error_handler
        self._hooks = app_manager.hooks_manager
        self._limiter = app_manager.rate_limiter_manager
        self._routes: dict[str, Route] = {}
        self._timeout = app_manager.config["REQUEST_TIMEOUT"]
        self._api_keys = _key_verifier(app_manager)
        app.before_request(self._enter)
        app.after_request(self._leave)
        app.teardown_request(self._finish)
        app.register_error_handler(Exception, self._answer_error)
        self._app = app

    def mount(self, routes: Iterable[Route]) -> None:
        """Add `routes` to the app; raises ValueError when two of them claim the same method and path."""
        for route in routes:
            endpoint = f"{route.method} {route.path}"
            if endpoint in self._routes:
                raise ValueError(f"route {endpoint} is mounted already")
            self._routes[endpoint] = route
            if route.limit is not None:
                self._limiter.limit_endpoint(route.path, route.limit)
            rule = re.sub(r"{(\w+)}", r"<\1>", route.path)
            self._app.add_url_rule(rule, endpoint, self._view(route), methods=[route.method])

    @property
    def routes(self) -> list[Route]:
        """All mounted routes."""
        return list(self._routes.values())

    # Before the handler

    def _enter(self) -> None:
        trip = self._begin(request._get_current_object())  # type: ignore[attr-defined]
        if trip.route is not None and trip.route.unlimited:
            self._refuse_strangers(trip.route, trip.environ)
            return
        refusal = self._authenticate(trip)
        refusal = self._admit(trip) or refusal
        if trip.route is not None:
            _authorize(trip.route, trip.principal, refusal)
            if self._hooks.has_callbacks("before_request"):
                self._hooks.trigger("before_request", trip.principal, context=trip.route.path)

    def _begin(self, current: Request) -> _Trip:
        environ = current.environ
        trip = _Trip(
            environ=environ,
            # A browser's preflight carries no token; Flask itself answers it.
            route=self._routes.get(current.endpoint or "") if current.method != "OPTIONS" else None,
            request_id=_request_id(environ.get("HTTP_X_REQUEST_ID")),
            started=time.perf_counter(),
            fingerprint=client_fingerprint(current),
        )
        _current.set(trip)
        context.request_id.set(trip.request_id)
        context.actor_id.set("anonymous")
        deadline.start(self._timeout)
        return trip

    def _refuse_strangers(self, route: Route, environ: dict[str, Any]) -> None:
        """Of a route with a secret: that its caller knows it."""
        expected = self._app_manager.config[route.secret] if route.secret else None
        if expected is None:
            return
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected.encode()):
            raise Unauthenticated("Send the token of this route as: Authorization: Bearer <token>.", code="token-invalid")

    def _authenticate(self, trip: _Trip) -> AppError | None:
        """Read the token or the API key, if there is one. A bad one is only refused after it was counted against the address."""
        header = trip.environ.get("HTTP_AUTHORIZATION")
        api_key = trip.environ.get("HTTP_X_API_KEY")
        if api_key is not None:
            # Which of two the caller means is not ours to guess: they may be two people's.
            return _two_credentials() if header is not None else self._read_key(trip, api_key)
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return Unauthenticated("Send the access token as: Authorization: Bearer <token>.", code="token-invalid")
        try:
            claims = self._app_manager.jwt_manager.read_token(token.strip(), fingerprint=trip.fingerprint)
        except Unauthenticated as error:
            return error
        self._accept(trip, Principal(claims["sub"], claims["role"], claims["sid"]))
        return None

    def _read_key(self, trip: _Trip, api_key: str) -> Unauthenticated | None:
        """Of a key that was not seen before, all that is known here is that it has the form of one."""
        try:
            if self._api_keys is None:
                raise Unauthenticated("There are no API keys here.", code="api-key-invalid")
            known = self._api_keys.recall(api_key)
        except Unauthenticated as error:
            return error
        trip.api_key = api_key
        if known is not None:
            self._accept(trip, known)
        return None

    def _admit(self, trip: _Trip) -> Unauthenticated | None:
        """Count the request and, in the same round trip, ask whether the session or the key still lives."""
        principal = trip.principal
        address = Identifier("ip", trip.environ.get("REMOTE_ADDR") or "unknown")
        if trip.api_key is not None:
            return self._admit_key(trip, trip.api_key, address)
        if principal is None:
            self._count(trip, [address])
            return None
        active = self._count(trip, [address, *_identifiers(principal)], principal.session_id).session_active
        if active is None:
            active = self._app_manager.jwt_manager.is_session_active(principal.session_id)
        if active:
            return None
        self._reject(trip)
        return Unauthenticated("The session has ended.", code="session-revoked")

    def _admit_key(self, trip: _Trip, api_key: str, address: Identifier) -> Unauthenticated | None:
        """One round trip for a key that is known to live; else the record is asked, after the address was counted."""
        assert self._api_keys is not None
        known = trip.principal
        admission = self._count(trip, [address, *_identifiers(known)], known.session_id if known is not None else None)
        if known is not None and admission.session_active:
            return None
        try:
            principal = self._api_keys.look_up(api_key)
        except Unauthenticated as error:
            self._reject(trip)
            return error
        self._accept(trip, principal)
        if known is None or admission.session_active is False:
            # Until now only the address was counted.
            self._count(trip, _identifiers(principal))
        return None

    def _count(self, trip: _Trip, identifiers: list[Identifier], session_id: str | None = None) -> Admission:
        limit = trip.route.limit if trip.route is not None else None
        context.identifiers.set((*context.identifiers.get(), *identifiers))
        admission = self._limiter.check_rate_limit(identifiers, limit, session_id)
        trip.standing = admission.standing
        return admission

    def _accept(self, trip: _Trip, principal: Principal) -> None:
        trip.principal = principal
        context.actor_id.set(principal.user_id)

    def _reject(self, trip: _Trip) -> None:
        trip.principal = None
        context.actor_id.set("anonymous")

    # The handler

    def _view(self, route: Route) -> Any:
        query_model = route.query or NoQuery
        # Most requests carry no query string; what an empty one means is settled here.
        no_query = query_model()
        name = f"{route.method} {route.path}"

        def view(**params: str) -> Response:
            trip = _current.get()
            assert trip is not None
            environ = trip.environ
            call = Call(
                params=params,
                body=_read_body(route) if route.body is not None or route.upload else None,
                query=parse_query(query_model, request.args) if environ.get("QUERY_STRING") else no_query,
                principal=trip.principal,
                route=name,
                request_id=trip.request_id,
                idempotency_key=_idempotency_key(environ) if route.idempotent else "",
                remote_address=environ.get("REMOTE_ADDR", ""),
                user_agent=environ.get("HTTP_USER_AGENT", "")[:256],
                fingerprint=trip.fingerprint,
                wants_cookie=_keeps_cookies(environ),
                if_match=environ.get("HTTP_IF_MATCH", ""),
            )
            return _respond(route, route.handler(call))

        return view

    # After the handler

    def _answer_error(self, error: Exception) -> Response:
        trip = _current.get()
        problem = self._errors.handle(error, trip.request_id if trip is not None else "")
        response = Response(json.dumps(problem.document), status=problem.status, mimetype="application/problem+json")
        response.headers.update(problem.headers)
        return response

    def _leave(self, response: Response) -> Response:
        trip = _current.get()
        if trip is None:
            return response
        self._add_headers(trip, response)
        self._record(trip, response.status_code)
        return response

    def _add_headers(self, trip: _Trip, response: Response) -> None:
        headers = response.headers
        headers.set("X-Request-ID", trip.request_id)
        if trip.standing is not None:
            for name, value in rate_limit_headers(trip.standing).items():
                # A refusal has those of the policy that refused.
                headers.setdefault(name, value)

    def _record(self, trip: _Trip, status: int) -> None:
        elapsed = time.perf_counter() - trip.started
        method = trip.environ["REQUEST_METHOD"][:16]
        path = trip.route.path if trip.route is not None else _UNMATCHED
        metrics.observe_request(method if trip.route is not None else "ANY", path, status, elapsed)
        fields = {
            "request_id": trip.request_id,
            "method": method,
            "route": path,
            "status": status,
            "duration_ms": round(elapsed * 1000, 2),
            "user_id": trip.principal.user_id if trip.principal is not None else None,
            **({"key_id": trip.principal.key_id} if trip.principal is not None and trip.principal.key_id is not None else {}),
        }
        log_request(fields)
        if self._hooks.has_callbacks("after_request"):
            self._hooks.trigger("after_request", fields, context=path)

    def _finish(self, error: BaseException | None) -> None:
        if error is not None:
            custom_log("a request ended in an error after its answer", level="ERROR", error=type(error).__name__)
        deadline.clear()
        _current.set(None)
        context.request_id.set("")
        context.actor_id.set("system")
        context.identifiers.set(())


def _key_verifier(app_manager: AppManager) -> KeyVerifier | None:
    """Whoever knows the API keys; None where no plugin brings accounts."""
    try:
        verifier: KeyVerifier = app_manager.services_manager.get_service(API_KEYS)
    except KeyError:
        return None
    return verifier


def _identifiers(principal: Principal | None) -> list[Identifier]:
    """For whom a request is counted besides its address."""
    if principal is None:
        return []
    user = Identifier("user", principal.user_id)
    return [user] if principal.key_id is None else [user, Identifier("api_key", principal.key_id)]


def _two_credentials() -> MalformedRequest:
    return MalformedRequest("Send either Authorization or X-API-Key.", code="ambiguous-credentials")


def _authorize(route: Route, principal: Principal | None, refusal: AppError | None) -> None:
    if not route.roles:
        return
    if refusal is not None:
        raise refusal
    if principal is None:
        raise Unauthenticated("This needs an access token or an API key.")
    if principal.role not in route.roles:
        raise Forbidden("Your role may not do this.")
    if principal.scopes is not None and route.scope not in principal.scopes:
        needs = f"This API key lacks the scope {route.scope}." if route.scope is not None else "No API key may do this: sign in."
        raise Forbidden(needs, code="scope-missing", title="Scope missing", scope=route.scope)


def _request_id(given: str | None) -> str:
    """The client's request id where it is well-formed, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)


def _keeps_cookies(environ: dict[str, Any]) -> bool:
    """Whether this is a browser that will send our cookie back: over TLS, and not from another site."""
    site = environ.get("HTTP_SEC_FETCH_SITE", "")
    return environ["wsgi.url_scheme"] == "https" and site in ("same-origin", "same-site")


def _read_body(route: Route) -> Any:
    try:
        with green.time_limit(deadline.remaining(_BODY_SECONDS)):
            raw = request.get_data(cache=False)
    except green.TimeLimitReached as error:
        raise RequestTimeout("The body did not arrive in time.") from error
    except ParseException as error:
        raise MalformedRequest("The body's chunks cannot be read.") from error
    # Of a body without a Content-Length, Werkzeug returns what fits and says nothing about the rest.
    if request.content_length is None and len(raw) >= (request.max_content_length or math.inf):
        raise PayloadTooLarge("The body is too large.")
    if route.upload:
        if request.mimetype != route.upload:
            raise UnsupportedMediaType(f"Send the body as {route.upload}.")
        return raw
    assert route.body is not None
    if raw and not request.is_json:
        raise UnsupportedMediaType("Send the body as application/json.")
    return parse_body(route.body, raw or b"{}")


def _idempotency_key(environ: dict[str, Any]) -> str:
    given = environ.get("HTTP_IDEMPOTENCY_KEY")
    if given is None:
        raise MalformedRequest("This request moves money: send an Idempotency-Key header.", code="idempotency-key-missing")
    match = _IDEMPOTENCY_KEY.fullmatch(given)
    if match is None:
        raise MalformedRequest("Idempotency-Key: 1 to 255 visible ASCII characters.", code="idempotency-key-invalid")
    return match[1] or match[2]


def _respond(route: Route, answer: Answer) -> Response:
    if answer.content is not None:
        response = Response(answer.content, status=answer.status, content_type=answer.content_type)
    elif answer.body is None:
        response = Response(status=answer.status)
        response.headers.pop("Content-Type", None)
    else:
        response = Response(json.dumps(answer.body), status=answer.status, mimetype="application/json")
    if answer.headers:
        response.headers.update(answer.headers)
    if route.html and response.mimetype == "text/html":
        # A page may ask for less.
        response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
    return response
