"""The way of every request: id, deadline, token, limits, the handler, and then headers, metrics and one log line."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request

from core import context, metrics
from core.contracts import Identifier, fingerprint_of, rate_limit_headers
from core.web.models import NoQuery, parse_body, parse_query
from core.web.routing import Answer, Call, Principal, Route
from tools.error_handling.error_handler import ErrorHandler
from tools.error_handling.errors import (
    Forbidden,
    MalformedRequest,
    Unauthenticated,
    UnsupportedMediaType,
)
from tools.logger.custom_logger import custom_log, log_request
from utils import deadline

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

FINGERPRINT_COOKIE = "__Secure-fingerprint"
FINGERPRINT_HEADER = "X-Client-Fingerprint"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
# Visible ASCII; RFC draft idempotency-key-header-07 quotes the value, most clients do not: both are taken.
_IDEMPOTENCY_KEY = re.compile(r'"([\x21\x23-\x7e]{1,253})"|([\x21-\x7e]{1,255})')
_UNMATCHED = "unmatched"
_API_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_PAGE_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class RequestChain:
    """Stands before and after every handler of one Flask app."""

    def __init__(self, app: Flask, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._errors: ErrorHandler = app_manager.error_handler
        self._routes: dict[str, Route] = {}
        self._timeout = app_manager.config["REQUEST_TIMEOUT"]
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
            rule = re.sub(r"{(\w+)}", r"<\1>", route.path)
            self._app.add_url_rule(rule, endpoint, self._view(route), methods=[route.method])

    @property
    def routes(self) -> list[Route]:
        """All mounted routes."""
        return list(self._routes.values())

    # Before the handler

    def _enter(self) -> None:
        g.started = time.perf_counter()
        g.request_id = _request_id(request.headers.get("X-Request-ID"))
        g.principal = g.standing = None
        context.request_id.set(g.request_id)
        context.actor_id.set("anonymous")
        deadline.start(self._timeout)
        metrics.REQUESTS_IN_FLIGHT.inc()
        # A browser's preflight carries no token; Flask itself answers it.
        g.route = self._routes.get(request.endpoint or "") if request.method != "OPTIONS" else None
        if g.route is not None and g.route.unlimited:
            return
        refusal = self._authenticate()
        self._admit()
        if g.route is not None:
            self._authorize(g.route, refusal)
            self._app_manager.hooks_manager.trigger("before_request", g.principal, context=g.route.path)

    def _authenticate(self) -> Unauthenticated | None:
        """Read the token, if there is one. A bad one is only refused after it was counted against the address."""
        header = request.headers.get("Authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return Unauthenticated("Send the access token as: Authorization: Bearer <token>.", code="token-invalid")
        try:
            claims = self._app_manager.jwt_manager.validate_token(token.strip(), fingerprint=_fingerprint())
        except Unauthenticated as error:
            return error
        g.principal = Principal(claims["sub"], claims["role"], claims["sid"])
        context.actor_id.set(claims["sub"])
        return None

    def _admit(self) -> None:
        """Count the request and, in the same round trip, ask whether the session still lives."""
        principal: Principal | None = g.principal
        identifiers = [Identifier("ip", request.remote_addr or "unknown")]
        if principal is not None:
            identifiers.append(Identifier("user", principal.user_id))
        session_id = principal.session_id if principal is not None else None
        admission = self._app_manager.rate_limiter_manager.check_rate_limit(identifiers, g.route.limit if g.route else None, session_id)
        g.standing = admission.standing
        if session_id is not None:
            active = admission.session_active
            if active is None:
                active = self._app_manager.jwt_manager.is_session_active(session_id)
            if not active:
                g.principal = None
                raise Unauthenticated("The session has ended.", code="session-revoked")

    def _authorize(self, route: Route, refusal: Unauthenticated | None) -> None:
        if not route.roles:
            return
        if refusal is not None:
            raise refusal
        if g.principal is None:
            raise Unauthenticated("This needs an access token.")
        if g.principal.role not in route.roles:
            raise Forbidden("Your role may not do this.")

    # The handler

    def _view(self, route: Route) -> Any:
        query_model = route.query or NoQuery

        def view(**params: str) -> Response:
            call = Call(
                params=params,
                body=_read_body(route),
                query=parse_query(query_model, request.args),
                principal=g.principal,
                route=f"{route.method} {route.path}",
                request_id=g.request_id,
                idempotency_key=_idempotency_key() if route.idempotent else "",
                remote_address=request.remote_addr or "",
                user_agent=(request.user_agent.string or "")[:256],
                fingerprint=_fingerprint(),
                wants_cookie=request.is_secure and "Origin" in request.headers,
            )
            return _respond(route.handler(call))

        return view

    # After the handler

    def _answer_error(self, error: Exception) -> Response:
        problem = self._errors.handle(error, g.get("request_id", ""))
        response = Response(json.dumps(problem.document), status=problem.status, mimetype="application/problem+json")
        response.headers.update(problem.headers)
        return response

    def _leave(self, response: Response) -> Response:
        headers = response.headers
        for name, value in _API_HEADERS.items():
            headers.setdefault(name, value)
        route: Route | None = g.get("route")
        if route is not None and route.html and response.mimetype == "text/html":
            headers["Content-Security-Policy"] = _PAGE_POLICY
        if request.is_secure:
            headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
        headers["X-Request-ID"] = g.get("request_id", "")
        if g.get("standing") is not None:
            headers.update(rate_limit_headers(g.standing))
        self._record(response.status_code, route)
        return response

    def _record(self, status: int, route: Route | None) -> None:
        elapsed = time.perf_counter() - g.started
        path = route.path if route is not None else _UNMATCHED
        method = request.method if route is not None else "ANY"
        metrics.REQUESTS.labels(method, path, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(method, path).observe(elapsed)
        fields = {
            "request_id": g.request_id,
            "method": request.method[:16],
            "route": path,
            "status": status,
            "duration_ms": round(elapsed * 1000, 2),
            "user_id": g.principal.user_id if g.principal is not None else None,
        }
        log_request(fields)
        if self._app_manager.hooks_manager.has_callbacks("after_request"):
            self._app_manager.hooks_manager.trigger("after_request", fields, context=path)

    def _finish(self, error: BaseException | None) -> None:
        if error is not None:
            custom_log("a request ended in an error after its answer", level="ERROR", error=type(error).__name__)
        if "started" in g:
            metrics.REQUESTS_IN_FLIGHT.dec()
        deadline.clear()
        context.request_id.set("")
        context.actor_id.set("system")


def _request_id(given: str | None) -> str:
    """The client's request id where it is well-formed, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)


def _fingerprint() -> str:
    return fingerprint_of(request.headers.get(FINGERPRINT_HEADER) or request.cookies.get(FINGERPRINT_COOKIE))


def _read_body(route: Route) -> Any:
    if route.body is None:
        return None
    raw = request.get_data(cache=False)
    if raw and not request.is_json:
        raise UnsupportedMediaType("Send the body as application/json.")
    return parse_body(route.body, raw or b"{}")


def _idempotency_key() -> str:
    given = request.headers.get("Idempotency-Key")
    if given is None:
        raise MalformedRequest("This request moves money: send an Idempotency-Key header.", code="idempotency-key-missing")
    match = _IDEMPOTENCY_KEY.fullmatch(given)
    if match is None:
        raise MalformedRequest("Idempotency-Key: 1 to 255 visible ASCII characters.", code="idempotency-key-invalid")
    return match[1] or match[2]


def _respond(answer: Answer) -> Response:
    if answer.content is not None:
        response = Response(answer.content, status=answer.status, content_type=answer.content_type)
    elif answer.body is None:
        response = Response(status=answer.status)
        response.headers.pop("Content-Type", None)
    else:
        response = Response(json.dumps(answer.body), status=answer.status, mimetype="application/json")
    response.headers.update(answer.headers)
    return response
