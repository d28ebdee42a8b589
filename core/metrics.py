"""Every metric of the product, declared once; summed over the workers by prometheus_client's multiprocess mode."""

from __future__ import annotations

import os

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LATENESS = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# The process.
BUILD_INFO = Gauge("credit_build_info", "1, with the version that runs and its Python.", ("version", "python"), multiprocess_mode="livemax")
WORKERS = Gauge("credit_workers", "Worker processes that run.", multiprocess_mode="livesum")
WORKER_STARTS = Counter("credit_worker_starts_total", "Worker processes started, those in place of others included.")
MEMORY = Gauge("credit_process_resident_memory_bytes", "Memory of all workers.", multiprocess_mode="livesum")
CPU_SECONDS = Counter("credit_process_cpu_seconds_total", "Time on the processor of all workers.")
DISK_SIZE = Gauge("credit_filesystem_size_bytes", "Size of the file system of a volume.", ("volume",), multiprocess_mode="livemax")
DISK_AVAILABLE = Gauge(
    "credit_filesystem_available_bytes", "Bytes left in the file system of a volume.", ("volume",), multiprocess_mode="livemin"
)
# What repeats in the background, in one worker of all: who has done it last tells when.
BACKGROUND_RUN = Gauge(
    "credit_background_last_run_timestamp_seconds",
    "When work in the background last went well here.",
    ("work",),
    multiprocess_mode="mostrecent",
)

REQUESTS = Counter("credit_http_requests_total", "HTTP requests answered.", ("method", "route", "status"))
REQUEST_SECONDS = Histogram("credit_http_request_duration_seconds", "Time to answer a request.", ("method", "route"), buckets=_LATENCY)
RATE_LIMIT_DECISIONS = Counter("credit_rate_limit_decisions_total", "What the rate limiter decided.", ("policy", "decision"))
RATE_LIMIT_DEGRADED = Gauge("credit_rate_limit_degraded", "1 while a worker counts without Redis.", multiprocess_mode="livemax")
BANS = Counter("credit_bans_total", "Identifiers banned.", ("type",))
AUTH_ATTEMPTS = Counter("credit_auth_attempts_total", "Log-ins and refreshes by outcome.", ("kind", "outcome"))
# Of the whole database, and the same on every worker (core/census.py).
SESSIONS = Gauge("credit_sessions_active", "Sessions that have not ended.", multiprocess_mode="livemostrecent")
USERS_ACTIVE = Gauge(
    "credit_users_active", "Users with a session that was opened or refreshed lately.", ("window",), multiprocess_mode="livemostrecent"
)
WALLET_BALANCE = Gauge(
    "credit_wallet_balance", "Minor units in all wallets of an asset.", ("asset", "state"), multiprocess_mode="livemostrecent"
)
WALLETS = Gauge("credit_wallets", "Wallets that hold something or owe it.", ("asset",), multiprocess_mode="livemostrecent")
TRANSACTIONS = Counter("credit_transactions_total", "Ledger transactions posted.", ("type",))
AMOUNT = Counter("credit_transactions_amount_total", "Minor units moved.", ("type", "asset"))
REFUSALS = Counter("credit_transaction_refusals_total", "Money verbs refused.", ("code",))
POSTING_SECONDS = Histogram("credit_posting_duration_seconds", "Time of one group commit.", buckets=_LATENCY)
BATCH_SIZE = Histogram("credit_posting_batch_size", "Money verbs in one group commit.", buckets=_BATCH)
QUEUE_LENGTH = Gauge("credit_posting_queue_length", "Money verbs that wait for a commit.", multiprocess_mode="livesum")
REPLAYS = Counter("credit_idempotency_replays_total", "Money verbs answered from their idempotency record.")
SCHEDULE_RUNS = Counter("credit_schedule_runs_total", "Scheduled transfers that were due, by outcome.", ("outcome",))
SCHEDULE_LATENESS = Histogram(
    "credit_schedule_lateness_seconds", "Time from when a scheduled transfer was due until it was done.", buckets=_LATENESS
)
REDIS_SECONDS = Histogram("credit_redis_command_duration_seconds", "Time of one round trip to Redis.", buckets=_LATENCY)
BREAKER_OPEN = Gauge(
    "credit_dependency_breaker_open", "Whether calls to a dependency are refused at once (1).", ("dependency",), multiprocess_mode="livemax"
)
HOOK_FAILURES = Counter("credit_hook_failures_total", "Callbacks of notices that failed.", ("hook",))
HOOK_DROPS = Counter("credit_hook_dropped_total", "Asynchronous notices dropped because their queue was full.", ("hook",))
KEYS = Gauge("credit_keys_loaded", "Keys in the ring of the worker that has the fewest.", ("ring",), multiprocess_mode="livemin")
SOCKETS = Gauge("credit_socket_connections", "Open Socket.IO connections.", multiprocess_mode="livesum")
SOCKET_EVENTS = Counter("credit_socket_events_total", "Socket.IO events by outcome.", ("event", "outcome"))
SOCKET_ROOMS = Gauge("credit_socket_rooms", "Rooms with members, counted on each worker that has some.", multiprocess_mode="livesum")
SOCKET_MESSAGES = Counter("credit_socket_messages_total", "Messages and pushes sent by a worker.", ("kind",))
SOCKET_DROPPED = Counter("credit_socket_dropped_total", "Messages and sockets given up, by reason.", ("reason",))
SOCKET_QUEUE_UP = Gauge("credit_socket_queue_up", "1 while every worker hears the others (Redis), else 0.", multiprocess_mode="livemin")
PUSHES = Counter("credit_pushes_total", "Events about wallets sent to their owners' sockets.", ("event",))
PUSHES_DROPPED = Counter("credit_pushes_dropped_total", "Transactions of which sockets were not told.")
# A series of its own, so that there is none where Vault is not in use.
VAULT_TOKEN_TTL = Gauge("credit_vault_token_ttl_seconds", "Seconds until our Vault token ends.", ("auth",), multiprocess_mode="livemin")
VAULT_SECONDS = Histogram("credit_vault_request_duration_seconds", "Time of one request to Vault.", buckets=_LATENCY)
VAULT_REFRESH_FAILURES = Counter("credit_vault_refresh_failures_total", "Renewals and reads that Vault did not answer.", ("what",))
SETTINGS_REFRESHES = Counter("credit_settings_refreshes_total", "Changed settings taken over while running, or not.", ("outcome",))
# Series that are there from the start: the first failure is an increase, too.
for _type in ("ip", "user", "api_key"):
    BANS.labels(_type)
for _what in ("token", "lease", "secret"):
    VAULT_REFRESH_FAILURES.labels(_what)
for _outcome in ("succeeded", "failed", "skipped", "retried"):
    SCHEDULE_RUNS.labels(_outcome)
for _kind in ("room", "direct", "broadcast", "push", "presence"):
    SOCKET_MESSAGES.labels(_kind)
for _reason in ("slow-reader", "too-many-events", "not-signed-in"):
    SOCKET_DROPPED.labels(_reason)
for _outcome in ("taken", "refused", "unusable", "unavailable", "failed"):
    SETTINGS_REFRESHES.labels(_outcome)

MONGO_SECONDS = Histogram("credit_mongodb_command_duration_seconds", "Time of a command to MongoDB.", ("command", "role"), buckets=_LATENCY)
MONGO_FAILURES = Counter("credit_mongodb_command_failures_total", "Commands to MongoDB that failed.", ("command", "role"))
MONGO_SLOW = Counter("credit_mongodb_slow_commands_total", "Commands to MongoDB that took longer than MONGODB_SLOW_MS.", ("role",))
MONGO_POOL_SIZE = Gauge("credit_mongodb_pool_connections", "Open connections to MongoDB.", ("role",), multiprocess_mode="livesum")
MONGO_POOL_USED = Gauge("credit_mongodb_pool_in_use", "Connections to MongoDB that are being used.", ("role",), multiprocess_mode="livesum")
MONGO_POOL_WAIT = Counter("credit_mongodb_pool_wait_seconds_total", "Time spent waiting for a connection to MongoDB.", ("role",))
MONGO_PRIMARY_CHANGES = Counter("credit_mongodb_primary_changes_total", "Times that a worker saw the primary change or vanish.")
MONGO_MEMBERS = Gauge(
    "credit_mongodb_members", "Members of the replica set, as the workers see them.", ("state",), multiprocess_mode="livemostrecent"
)
MONGO_LAG = Gauge(
    "credit_mongodb_replication_lag_seconds", "How far the slowest secondary is behind the primary.", multiprocess_mode="livemax"
)
AUDIT_CHAIN_OK = Gauge("credit_audit_chain_ok", "1 while the sealed audit log is as it was sealed, else 0.", multiprocess_mode="mostrecent")
AUDIT_UNSEALED = Gauge(
    "credit_audit_unsealed_rows", "Audit rows that wait for their seal, counted up to 10000.", multiprocess_mode="mostrecent"
)
AUDIT_LAST_SEALED = Gauge("credit_audit_last_sealed_timestamp_seconds", "When the last seal was made.", multiprocess_mode="mostrecent")
LEDGER_CHAIN_OK = Gauge("credit_ledger_chain_ok", "1 while nothing is found wrong with the ledger, else 0.", multiprocess_mode="mostrecent")
LEDGER_UNSEALED = Gauge(
    "credit_ledger_unsealed_rows", "Transactions that wait for their seal, counted up to 10000.", multiprocess_mode="mostrecent"
)
LEDGER_LAST_SEALED = Gauge("credit_ledger_last_sealed_timestamp_seconds", "When the last seal was made.", multiprocess_mode="mostrecent")
LEDGER_IMBALANCE = Gauge(
    "credit_ledger_imbalance",
    "Sum of all accounts of an asset; 0 when all is well.",
    ("asset",),
    multiprocess_mode="mostrecent",
)
LEDGER_LAST_VERIFIED = Gauge(
    "credit_ledger_last_verified_timestamp_seconds", "When the last whole verification began.", multiprocess_mode="mostrecent"
)

SERVICE_CALLS = Counter("credit_service_calls_total", "Calls to external services.", ("service", "kind", "outcome"))
SERVICE_SECONDS = Histogram(
    "credit_service_call_duration_seconds", "Time of a call to an external service.", ("service",), buckets=_LATENCY
)
SERVICE_RETRIES = Counter("credit_service_retries_total", "Calls to external services that were tried once more.", ("service",))
SERVICE_EJECTIONS = Counter("credit_service_ejections_total", "Addresses taken out of use after failures.", ("service",))
SERVICE_BREAKER_OPEN = Gauge("credit_service_breaker_open", "Workers that ask it no more.", ("service",), multiprocess_mode="livesum")
WEBHOOK_BACKLOG = Gauge(
    "credit_webhook_backlog_seconds", "Age of the oldest event that is not on its way to the webhooks.", multiprocess_mode="mostrecent"
)
WEBHOOK_ATTEMPTS = Counter("credit_webhook_attempts_total", "Attempts to deliver to webhooks by outcome.", ("outcome",))
WEBHOOK_SECONDS = Histogram("credit_webhook_attempt_duration_seconds", "Time of one attempt to deliver to a webhook.", buckets=_LATENCY)
WEBHOOKS_DISABLED = Counter("credit_webhooks_disabled_total", "Webhooks disabled because nobody is there.", ("reason",))
for _outcome in ("delivered", "retried", "failed"):
    WEBHOOK_ATTEMPTS.labels(_outcome)
for _reason in ("failing", "owner-gone"):
    WEBHOOKS_DISABLED.labels(_reason)
ERRORS = Counter("credit_errors_total", "Errors answered, by code.", ("code",))

# Looking a labelled metric up costs more than counting in it, and there are only as many as routes and statuses, or
# policies and decisions.
_request_metrics: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
_decision_metrics: dict[tuple[str, str], Counter] = {}


def note_run(work: str) -> None:
    """Say that `work` in the background has just gone well."""
    BACKGROUND_RUN.labels(work).set_to_current_time()


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request; `route` is a template and never a path."""
    found = _request_metrics.get((method, route, status))
    if found is None:
        found = REQUESTS.labels(method, route, str(status)), REQUEST_SECONDS.labels(method, route)
        _request_metrics[method, route, status] = found
    found[0].inc()
    found[1].observe(seconds)


def count_error(code: str) -> None:
    """Count one error that was answered; the codes are those of our errors and of the framework."""
    ERRORS.labels(code).inc()


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
