"""Every metric of the product, declared once; summed over the workers by prometheus_client's multiprocess mode."""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("credit_http_requests_total", "HTTP requests answered.", ("method", "route", "status"))
REQUEST_SECONDS = Histogram("credit_http_request_duration_seconds", "Time to answer a request.", ("method", "route"), buckets=_LATENCY)
RATE_LIMIT_DECISIONS = Counter("credit_rate_limit_decisions_total", "What the rate limiter decided.", ("decision",))
ALLOWED = RATE_LIMIT_DECISIONS.labels("allowed")
BANS = Counter("credit_bans_total", "Identifiers banned.")
AUTH_ATTEMPTS = Counter("credit_auth_attempts_total", "Log-ins and refreshes by outcome.", ("kind", "outcome"))
TRANSACTIONS = Counter("credit_transactions_total", "Ledger transactions posted.", ("type",))
AMOUNT = Counter("credit_transactions_amount_total", "Minor units moved.", ("type", "asset"))
REFUSALS = Counter("credit_transaction_refusals_total", "Money verbs refused.", ("code",))
POSTING_SECONDS = Histogram("credit_posting_duration_seconds", "Time of one group commit.", buckets=_LATENCY)
BATCH_SIZE = Histogram("credit_posting_batch_size", "Money verbs in one group commit.", buckets=_BATCH)
QUEUE_LENGTH = Gauge("credit_posting_queue_length", "Money verbs that wait for a commit.", multiprocess_mode="livesum")
REPLAYS = Counter("credit_idempotency_replays_total", "Money verbs answered from their idempotency record.")
KEYS = Gauge("credit_keys_loaded", "Keys in the ring of the worker that has the fewest.", ("ring",), multiprocess_mode="livemin")
SOCKETS = Gauge("credit_socket_connections", "Open Socket.IO connections.", multiprocess_mode="livesum")
SOCKET_EVENTS = Counter("credit_socket_events_total", "Socket.IO events by outcome.", ("event", "outcome"))


# Looking a labelled metric up costs more than counting in it, and there are only as many as routes and statuses.
_request_metrics: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request; `route` is a template and never a path."""
    found = _request_metrics.get((method, route, status))
    if found is None:
        found = REQUESTS.labels(method, route, str(status)), REQUEST_SECONDS.labels(method, route)
        _request_metrics[method, route, status] = found
    found[0].inc()
    found[1].observe(seconds)


def exposition() -> bytes:
    """All metrics in Prometheus' text format, over all workers where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)
