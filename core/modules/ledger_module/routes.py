"""The routes of the ledger's proofs, of its export and its import."""

from __future__ import annotations

from core.modules.ledger_module.service import LedgerService
from core.web.routing import ADMIN_SCOPE, ADMINS, Answer, Call, Route

NDJSON = "application/x-ndjson"


def ledger_routes(service: LedgerService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def verify(_call: Call) -> Answer:
        return Answer(service.verified())

    def invariants(_call: Call) -> Answer:
        return Answer(service.invariants())

    def download(_call: Call) -> Answer:
        return Answer(content=service.export(), content_type=NDJSON)

    def upload(call: Call) -> Answer:
        return Answer(service.load(call.body.splitlines(keepends=True)), 201)

    return (
        Route("GET", "/ledger/verify", verify, ADMINS, "Whether the ledger is what it was", scope=ADMIN_SCOPE),
        Route("GET", "/ledger/invariants", invariants, ADMINS, "What must be true of the whole ledger", scope=ADMIN_SCOPE),
        Route("GET", "/ledger/export", download, ADMINS, "The whole ledger as lines of JSON", scope=ADMIN_SCOPE),
        Route("POST", "/ledger/import", upload, ADMINS, "Fill an empty ledger from an export", upload=NDJSON, scope=ADMIN_SCOPE),
    )
