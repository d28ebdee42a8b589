"""Every metric of the product, declared once; summed over the workers by prometheus_client's multiprocess mode."""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("credit_http_requests_total", "HTTP requests answered.", ("method", "route", "status"))
REQUEST_SECONDS = Histogram("credit_http_request_duration_seconds", "Time to answer a request.", ("method", "route"), buckets=_LATENCY)
RATE_LIMIT_DECISIONS = Counter("credit_rate_limit_decisions_total", "What the rate limiter decided.", ("policy", "decision"))
RATE_LIMIT_DEGRADED = Gauge("credit_rate_limit_degraded", "1 while a worker counts without Redis.", multiprocess_mode="livemax")
BANS = Counter("credit_bans_total", "Identifiers banned.", ("type",))
AUTH_ATTEMPTS = Counter("credit_auth_attempts_total", "Log-ins and refreshes by outcome.", ("kind", "outcome"))
TRANSACTIONS = Counter("credit_transactions_total", "Ledger transactions posted.", ("type",))
AMOUNT = Counter("credit_transactions_amount_total", "Minor units moved.", ("type", "asset"))
REFUSALS = Counter("credit_transaction_refusals_total", "Money verbs refused.", ("code",))
POSTING_SECONDS = Histogram("credit_posting_duration_seconds", "Time of one group commit.", buckets=_LATENCY)
BATCH_SIZE = Histogram("credit_posting_batch_size", "Money verbs in one group commit.", buckets=_BATCH)
QUEUE_LENGTH = Gauge("credit_posting_queue_length", "Money verbs that wait for a commit.", multiprocess_mode="livesum")
REPLAYS = Counter("credit_idempotency_replays_total", "Money verbs answered from their idempotency record.")
SOCKETS = Gauge("credit_socket_connections", "Open Socket.IO connections.", multiprocess_mode="livesum")
SOCKET_EVENTS = Counter("credit_socket_events_total", "Socket.IO events by outcome.", ("event", "outcome"))


# Looking a labelled metric up costs more than counting in it, and there are only as many as routes and statuses, or
# policies and decisions.
_request_metrics: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
_decision_metrics: dict[tuple[str, str], Counter] = {}


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request; `route` is a template and never a path."""
    found = _request_metrics.get((method, route, status))
    if found is None:
        found = REQUESTS.labels(method, route, str(status)), REQUEST_SECONDS.labels(method, route)
        _request_metrics[method, route, status] = found
    found[0].inc()
    found[1].observe(seconds)


def count_decision(policy: str, decision: str) -> None:
    """Count what the rate limiter decided: allowed, limited, banned, shadow, degraded_allowed or degraded_refused.

    `policy` is the one that decided; of what passes the most particular one that was asked; of a ban the identifier's type.
    """
    found = _decision_metrics.get((policy, decision))
    if found is None:
        found = _decision_metrics[policy, decision] = RATE_LIMIT_DECISIONS.labels(policy, decision)
    found.inc()


def exposition() -> bytes:
    """All metrics in Prometheus' text format, over all workers where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)
