"""All dashboards: which panels they have, and what these ask."""

from __future__ import annotations

from tools.dashboards.panels import ASKED, RATE, Dashboard, Panel, figure, or_zero, quantile, quantiles, rate

DASHBOARDS = (
    Dashboard(
        "service",
        "Credit System / Service",
        "What callers feel: requests, errors, durations; and the processes that answer.",
        {
            "Now": (
                figure("Copies that answer", "short", 'sum(up{job="credit-system"})', bad=1, low_is_bad=True),
                figure("Requests a second", "reqps", "credit:http_requests:rate5m"),
                figure("Errors", "percentunit", "credit:http_errors:ratio_rate5m", bad=0.05),
                figure("p95", "s", "credit:http_request_duration_seconds:p95_5m", bad=0.5),
                figure("Active users, 15 minutes", "short", 'max(credit_users_active{window="15m"})', leads_to="security"),
                figure("Version", "short", "count by (version) (credit_build_info)", legend="{{version}}"),
            ),
            "Requests": (
                Panel(
                    "Requests by route",
                    "reqps",
                    {"{{method}} {{route}}": rate("credit_http_requests_total", "method, route", 'route=~"$route"')},
                ),
                Panel("Answers by status", "reqps", {"{{status}}": rate("credit_http_requests_total", "status", 'route=~"$route"')}),
                Panel(
                    "Errors by code",
                    "reqps",
                    {"{{code}}": rate("credit_errors_total", "code")},
                    description="Refusals of callers' mistakes, too.",
                ),
                Panel("Duration", "s", quantiles("credit_http_request_duration_seconds", f'{ASKED}, route=~"$route"')),
                Panel(
                    "p95 by route",
                    "s",
                    {"{{method}} {{route}}": quantile(0.95, "credit_http_request_duration_seconds", "method, route", 'route=~"$route"')},
                ),
                Panel(
                    "Share of errors, and what the month may have",
                    "percentunit",
                    {
                        "5 minutes": "credit:http_errors:ratio_rate5m",
                        "1 hour": "credit:http_errors:ratio_rate1h",
                        "6 hours": "credit:http_errors:ratio_rate6h",
                        "3 days": "credit:http_errors:ratio_rate3d",
                        "objective": "vector(0.001)",
                    },
                ),
            ),
            "Processes": (
                Panel("Workers", "short", {"{{instance}}": "credit_workers"}),
                Panel("Workers started", "short", {"{{instance}}": f"increase(credit_worker_starts_total[{RATE}])"}),
                Panel("Memory", "bytes", {"{{instance}}": "credit_process_resident_memory_bytes"}),
                Panel("Processors in use", "short", {"{{instance}}": f"rate(credit_process_cpu_seconds_total[{RATE}])"}),
                Panel(
                    "Since the last run in the background",
                    "s",
                    {"{{work}}": "time() - max by (work) (credit_background_last_run_timestamp_seconds)"},
                ),
                Panel(
                    "Callbacks that failed or were dropped",
                    "ops",
                    {
                        "failed": or_zero(rate("credit_hook_failures_total")),
                        "dropped": or_zero(rate("credit_hook_dropped_total")),
                    },
                ),
            ),
        },
        {"route": "label_values(credit_http_requests_total, route)"},
    ),
    Dashboard(
        "ledger",
        "Credit System / Ledger",
        "Credits: what moves, what was refused, what is there, and whether it adds up.",
        {
            "Sound": (
                figure(
                    "Ledger", "short", "min(credit_ledger_chain_ok)", bad=1, low_is_bad=True, description="1: as it was posted and sealed."
                ),
                figure(
                    "Audit log",
                    "short",
                    "min(credit_audit_chain_ok)",
                    bad=1,
                    low_is_bad=True,
                    leads_to="security",
                    description="1: as it was sealed.",
                ),
                figure("Off balance", "short", "max(abs(credit_ledger_imbalance))", bad=1),
                figure("Since the last verification", "s", "time() - max(credit_ledger_last_verified_timestamp_seconds)"),
                figure("Transactions a second", "ops", rate("credit_transactions_total")),
                figure("Requests that wait", "short", "sum(credit_posting_queue_length)", bad=500),
            ),
            "Transactions": (
                Panel("Transactions by type", "ops", {"{{type}}": rate("credit_transactions_total", "type")}),
                Panel(
                    "Minor units moved a second", "short", {"{{type}} {{asset}}": rate("credit_transactions_amount_total", "type, asset")}
                ),
                Panel("Refusals by code", "ops", {"{{code}}": rate("credit_transaction_refusals_total", "code")}, leads_to="service"),
                Panel("Commit", "s", quantiles("credit_posting_duration_seconds"), leads_to="dependencies"),
                Panel(
                    "Money verbs in a commit",
                    "short",
                    {
                        "mean": f"{rate('credit_posting_batch_size_sum')} / {rate('credit_posting_batch_size_count')}",
                        "p95": quantile(0.95, "credit_posting_batch_size"),
                    },
                ),
                Panel("Repeated requests", "ops", {"answered from their record": rate("credit_idempotency_replays_total")}),
            ),
            "What is there": (
                Panel("Settled", "short", {"{{asset}}": 'max by (asset) (credit_wallet_balance{state="settled"})'}),
                Panel("Held", "short", {"{{asset}}": 'max by (asset) (credit_wallet_balance{state="held"})'}),
                Panel("Wallets in use", "short", {"{{asset}}": "max by (asset) (credit_wallets)"}),
            ),
            "Afterwards": (
                Panel(
                    "Rows that wait for their seal",
                    "short",
                    {"ledger": "max(credit_ledger_unsealed_rows)", "audit log": "max(credit_audit_unsealed_rows)"},
                ),
                Panel("Webhooks: oldest event that waits", "s", {"age": "max(credit_webhook_backlog_seconds)"}, bad=300),
                Panel("Webhooks: attempts", "ops", {"{{outcome}}": rate("credit_webhook_attempts_total", "outcome")}),
                Panel("Scheduled transfers", "ops", {"{{outcome}}": rate("credit_schedule_runs_total", "outcome")}),
                Panel("Scheduled transfers: lateness", "s", quantiles("credit_schedule_lateness_seconds")),
                Panel("Webhooks: time of an attempt", "s", quantiles("credit_webhook_attempt_duration_seconds")),
            ),
        },
    ),
    Dashboard(
        "realtime",
        "Credit System / Realtime",
        "Sockets, rooms, and what is sent to them.",
        {
            "Now": (
                figure("Sockets", "short", "sum(credit_socket_connections)"),
                figure("Rooms", "short", "sum(credit_socket_rooms)"),
                figure("Workers hear each other", "short", "min(credit_socket_queue_up)", bad=1, low_is_bad=True, leads_to="dependencies"),
                figure("Active users, 15 minutes", "short", 'max(credit_users_active{window="15m"})', leads_to="security"),
                figure("Pushes a second", "ops", rate("credit_pushes_total")),
                figure("Dropped a second", "ops", rate("credit_socket_dropped_total")),
            ),
            "Sockets": (
                Panel("Sockets", "short", {"{{instance}}": "credit_socket_connections"}),
                Panel("Events by outcome", "ops", {"{{event}} {{outcome}}": rate("credit_socket_events_total", "event, outcome")}),
                Panel("Given up, by reason", "ops", {"{{reason}}": rate("credit_socket_dropped_total", "reason")}),
                Panel("Messages", "ops", {"{{kind}}": rate("credit_socket_messages_total", "kind")}),
                Panel("Pushes about wallets", "ops", {"{{event}}": rate("credit_pushes_total", "event")}, leads_to="ledger"),
                Panel("Transactions that sockets were not told of", "ops", {"dropped": rate("credit_pushes_dropped_total")}),
            ),
        },
    ),
    Dashboard(
        "security",
        "Credit System / Security",
        "Who comes in, who is kept out, and whether secrets and limits work.",
        {
            "Now": (
                figure("Sessions", "short", "max(credit_sessions_active)"),
                figure("Active users, 15 minutes", "short", 'max(credit_users_active{window="15m"})'),
                figure("Active users, 1 day", "short", 'max(credit_users_active{window="1d"})'),
                figure("Limits without Redis", "short", "max(credit_rate_limit_degraded)", bad=1, leads_to="dependencies"),
                figure("Bans, 1 hour", "short", "sum(increase(credit_bans_total[1h]))"),
                figure(
                    "Audit log",
                    "short",
                    "min(credit_audit_chain_ok)",
                    bad=1,
                    low_is_bad=True,
                    leads_to="ledger",
                    description="1: as it was sealed.",
                ),
            ),
            "Who comes in": (
                Panel("Log-ins and refreshes", "ops", {"{{kind}} {{outcome}}": rate("credit_auth_attempts_total", "kind, outcome")}),
                Panel("Sessions", "short", {"sessions": "max(credit_sessions_active)"}),
                Panel("Active users", "short", {"{{window}}": "max by (window) (credit_users_active)"}),
            ),
            "Limits": (
                Panel("Decisions", "ops", {"{{decision}}": rate("credit_rate_limit_decisions_total", "decision")}),
                Panel(
                    "Refused, by policy",
                    "ops",
                    {"{{policy}}": or_zero(rate("credit_rate_limit_decisions_total", "policy", 'decision!="allowed"'))},
                ),
                Panel("Bans", "ops", {"{{type}}": rate("credit_bans_total", "type")}),
            ),
            "Secrets": (
                Panel(
                    "Vault token",
                    "s",
                    {"left": "min(credit_vault_token_ttl_seconds)"},
                    leads_to="dependencies",
                    description="Empty without Vault.",
                ),
                Panel("Keys in use", "short", {"{{ring}}": "min by (ring) (credit_keys_loaded)"}),
                Panel(
                    "Changed settings", "short", {"{{outcome}}": f"sum by (outcome) (increase(credit_settings_refreshes_total[{RATE}]))"}
                ),
            ),
        },
    ),
    Dashboard(
        "dependencies",
        "Credit System / Dependencies",
        "MongoDB, Redis, Vault, external services, and disks.",
        {
            "Now": (
                figure("Members of the replica set", "short", 'max(credit_mongodb_members{state=~"primary|secondary"})'),
                figure("Members that are away", "short", 'max(credit_mongodb_members{state="other"})', bad=1),
                figure("Replication lag", "s", "max(credit_mongodb_replication_lag_seconds)", bad=10),
                figure("Redis away", "short", 'max(credit_dependency_breaker_open{dependency="redis"})', bad=1),
                figure("Commands that failed", "ops", rate("credit_mongodb_command_failures_total"), bad=1),
                figure("Least space left", "percentunit", "min(credit:filesystem_available:ratio)", bad=0.15, low_is_bad=True),
            ),
            "MongoDB": (
                Panel("Commands", "ops", {"{{command}}": rate("credit_mongodb_command_duration_seconds_count", "command")}),
                Panel("p95 of commands", "s", {"{{command}}": quantile(0.95, "credit_mongodb_command_duration_seconds", "command")}),
                Panel(
                    "Failed and slow commands",
                    "ops",
                    {
                        "failed {{command}}": rate("credit_mongodb_command_failures_total", "command"),
                        "slow": or_zero(rate("credit_mongodb_slow_commands_total")),
                    },
                ),
                Panel(
                    "Connections",
                    "short",
                    {
                        "open {{role}}": "sum by (role) (credit_mongodb_pool_connections)",
                        "in use {{role}}": "sum by (role) (credit_mongodb_pool_in_use)",
                    },
                ),
                Panel("Time spent waiting for a connection", "s", {"{{role}}": rate("credit_mongodb_pool_wait_seconds_total", "role")}),
                Panel("New primaries", "short", {"changes": f"sum(increase(credit_mongodb_primary_changes_total[{RATE}]))"}),
            ),
            "Redis and Vault": (
                Panel("Redis: round trips", "ops", {"a second": rate("credit_redis_command_duration_seconds_count")}),
                Panel("Redis: time of a round trip", "s", quantiles("credit_redis_command_duration_seconds")),
                Panel("Vault: p95 of a request", "s", {"p95": quantile(0.95, "credit_vault_request_duration_seconds")}),
                Panel("Vault: renewals and reads that failed", "ops", {"{{what}}": rate("credit_vault_refresh_failures_total", "what")}),
            ),
            "External services": (
                Panel(
                    "Calls",
                    "ops",
                    {"{{service}} {{outcome}}": rate("credit_service_calls_total", "service, outcome")},
                    description="Empty without SERVICES.",
                ),
                Panel("p95 of calls", "s", {"{{service}}": quantile(0.95, "credit_service_call_duration_seconds", "service")}),
                Panel("Not asked any more", "short", {"{{service}}": "max by (service) (credit_service_breaker_open)"}),
                Panel(
                    "Second tries, and addresses out of use",
                    "ops",
                    {"tries": or_zero(rate("credit_service_retries_total")), "addresses": or_zero(rate("credit_service_ejections_total"))},
                ),
            ),
            "Disks": (
                Panel("Space left", "percentunit", {"{{volume}} {{instance}}": "credit:filesystem_available:ratio"}),
                Panel("Space left in bytes", "bytes", {"{{volume}}": "min by (volume) (credit_filesystem_available_bytes)"}),
            ),
        },
    ),
)
