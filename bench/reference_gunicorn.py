"""gunicorn settings of the reference app, read from the same environment variables as ours."""

from __future__ import annotations

import os

WORKER_CLASSES = {
    "eventlet": "core.web.eventlet_worker.EventletWorker",
    "gevent": "core.web.gevent_worker.GeventWorker",
}

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ['PORT']}"
workers = int(os.environ.get("WORKERS", "2"))
worker_class = WORKER_CLASSES[os.environ.get("ASYNC_MODE", "eventlet")]
worker_connections = int(os.environ.get("WORKER_CONNECTIONS", "1000"))
keepalive = 75
loglevel = "warning"
control_socket_disable = True
