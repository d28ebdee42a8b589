"""gunicorn's settings, from ours; and the hooks around its workers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from utils.config.config import ConfigError, load_plain

try:
    settings = load_plain()
except ConfigError as error:
    sys.exit(f"boot failed: settings: {error}")

_WORKER_CLASSES = {
    "eventlet": "core.web.eventlet_worker.EventletWorker",
    "gevent": "core.web.gevent_worker.GeventWorker",
}

bind = f"{settings['HOST']}:{settings['PORT']}"
workers = settings["WORKERS"]
worker_class = _WORKER_CLASSES[settings["ASYNC_MODE"]]
worker_connections = settings["WORKER_CONNECTIONS"]
keepalive = settings["KEEPALIVE"]
graceful_timeout = settings["GRACEFUL_TIMEOUT"]
# A worker that does not turn its loop for this long is killed and replaced.
timeout = 30
# Our own log line has the request id, the user and no query string.
accesslog = None
errorlog = "-"
loglevel = "warning"
# gunicorn's own lines repeat what clients sent; these do not.
logger_class = "core.web.gunicorn_log.GunicornLog"
# The control socket that gunicorn opens by default does not work on a read-only file system, and we do not use it.
control_socket_disable = True
# Who came through which proxies is settled by an exact number of hops (PROXY_COUNT); gunicorn itself believes nobody.
forwarded_allow_ips = ""
proc_name = "credit-system"

# prometheus_client reads this at its first import, in each worker.
_metrics_dir = Path(settings["DATA_DIR"]).resolve() / f"metrics-{settings['PORT']}"
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_dir)


def on_starting(server):
    """Before anything listens: empty the metrics of the last run, and rehearse the boot in a process of its own.

    What the rehearsal has got from Vault is shared with the workers, in memory that only this process and its children see.
    """
    shutil.rmtree(_metrics_dir, ignore_errors=True)
    _metrics_dir.mkdir(parents=True)
    # Elsewhere than on Linux each process logs in by itself.
    handover = [os.memfd_create("vault-handover")] if hasattr(os, "memfd_create") else []
    os.environ["VAULT_HANDOVER_FD"] = str(sum(handover))
    environ = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
    rehearsal = subprocess.run([sys.executable, "-m", "core.preflight"], env=environ, pass_fds=handover, check=False)
    if rehearsal.returncode:
        sys.exit(rehearsal.returncode)


def child_exit(server, worker):
    """Forget the gauges of a worker that has ended."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)
