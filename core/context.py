"""Who asks, and in which request: known to the audit log and to log lines without being passed through every call."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
actor_id: ContextVar[str] = ContextVar("actor_id", default="system")
