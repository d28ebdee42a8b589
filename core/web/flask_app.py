"""Sets a Flask app up: limits of what is read, trusted hosts, CORS by an exact list of origins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask
from flask_cors import CORS

from core.managers.base import BootError


def configure_flask_app(app: Flask, config: Mapping[str, Any]) -> None:
    """Set `app` up as `config` says; raises BootError for CORS origins that are not exact."""
    app.config["MAX_CONTENT_LENGTH"] = config["MAX_BODY_BYTES"]
    app.config["MAX_FORM_MEMORY_SIZE"] = 0
    if config["TRUSTED_HOSTS"]:
        app.config["TRUSTED_HOSTS"] = list(config["TRUSTED_HOSTS"])
    _allow_origins(app, config["CORS_ORIGINS"])


def _allow_origins(app: Flask, origins: tuple[str, ...]) -> None:
    for origin in origins:
        # flask-cors would take these as patterns, and match them by prefix.
        if not origin.startswith(("http://", "https://")) or any(mark in origin for mark in "*\\^$?()[]|"):
            raise BootError(f"CORS_ORIGINS: {origin!r} is not an exact origin such as https://app.example.com")
    if origins:
        CORS(
            app,
            origins=list(origins),
            supports_credentials=True,
            expose_headers=["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed"],
            max_age=600,
        )
