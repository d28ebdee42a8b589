"""A bare Flask-SocketIO app with the same message queue: who joins a room hears what is said there, and nobody is asked for anything."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from flask_socketio import SocketIO, emit, join_room


def create_app() -> Flask:
    """Build the app; called by each worker after the fork."""
    app = Flask("bare")
    app.extensions["app_manager"] = None  # our worker classes look for one when they stop
    sockets = SocketIO(app, async_mode=os.environ["ASYNC_MODE"], message_queue=os.environ["BENCH_REDIS_URI"], channel="bare")

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    def connect(auth: Any = None) -> None:
        """Everybody may come."""

    def join(body: dict[str, Any]) -> dict[str, Any]:
        join_room(body["room"])
        return {"ok": True}

    def send(body: dict[str, Any]) -> dict[str, Any]:
        emit("message", body, to=body["room"])
        return {"ok": True}

    for event, handler in (("connect", connect), ("join_room", join), ("send_message", send)):
        sockets.on_event(event, handler)
    return app
