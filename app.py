"""The entry point: `create_app()` for gunicorn, and `python app.py` for one process without it."""

import sys

from utils import green
from utils.config.config import ConfigError, load_plain

if __name__ == "__main__":
    # Before the other imports, which would keep the unpatched parts of the standard library.
    try:
        green.patch(load_plain()["ASYNC_MODE"])
    except ConfigError as error:
        sys.exit(f"boot failed: settings: {error}")

from flask import Flask

from core.managers.app_manager import AppManager
from core.managers.base import BootError
from core.web.flask_app import make_flask_app

BOOT_FAILED = 3


def create_app() -> Flask:
    """A Flask app on which everything runs; ends the process with one line when the boot fails."""
    app_manager = AppManager()
    try:
        app = make_flask_app(load_plain())
        app_manager.initialize(app)
    except BootError as error:
        print(f"boot failed: {error}", file=sys.stderr)
        raise SystemExit(BOOT_FAILED) from None
    return app


if __name__ == "__main__":
    create_app().extensions["app_manager"].run()
