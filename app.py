"""The entry point: `create_app()` for gunicorn, and `python app.py` for one process without it."""

import sys
import time

from utils import green
from utils.config.config import ConfigError, load_plain

if __name__ == "__main__":
    # Before the other imports, which would keep the unpatched parts of the standard library.
    try:
        green.patch(load_plain()["ASYNC_MODE"])
    except ConfigError as error:
        sys.exit(f"boot failed: settings: {error}")

from flask import Flask

from core.cli.commands import called_by_flask, command_line_app
from core.managers.app_manager import AppManager
from core.managers.base import BootError

# A worker whose boot fails (its first one was rehearsed) is replaced by gunicorn; not at once, and not for ever busy.
_PAUSE_SECONDS = 1.0


def create_app() -> Flask:
    """A Flask app on which everything runs; ends the process with one line when the boot fails.

    Under the `flask` command: one that only carries the operators' commands, which start what they need themselves.
    """
    if called_by_flask():
        return command_line_app()
    app_manager = AppManager()
    try:
        app = Flask("credit_system", static_folder=None)
        app_manager.initialize(app)
    except BootError as error:
        print(f"boot failed: {error}", file=sys.stderr)
        time.sleep(_PAUSE_SECONDS)
        raise SystemExit(1) from None
    return app


if __name__ == "__main__":
    create_app().extensions["app_manager"].run()
