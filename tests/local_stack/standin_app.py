"""A stand-in for the application under the supervisor: ready at once, and as stubborn as STANDIN says."""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with the names of the environment that the supervisor passed on."""

    def do_GET(self) -> None:
        names = ("MONGODB_URI", "REDIS_URL", "VAULT_ADDR", "SECRETS_DIR", "DATA_DIR", "LOG_DIR", "WORKERS", "ASYNC_MODE")
        body = json.dumps({name: os.environ.get(name) for name in names}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def main() -> None:
    """Serve until SIGTERM."""
    mood = os.environ.get("STANDIN", "")
    if mood == "fails":
        sys.exit("jwt_secret is missing")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mood == "stubborn" else lambda *_: sys.exit(0))
    ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
