"""Who asks, and in which request: known to audit log, log lines and rate limiter without being passed through every call."""

from __future__ import annotations

from contextvars import ContextVar

from core.contracts import Identifier

request_id: ContextVar[str] = ContextVar("request_id", default="")
actor_id: ContextVar[str] = ContextVar("actor_id", default="system")
identifiers: ContextVar[tuple[Identifier, ...]] = ContextVar("identifiers", default=())
