"""The routes of the ledger's proofs, of its export and its import."""

from __future__ import annotations

from collections.abc import Callable

from core.modules.ledger_module.schemas import ImportView, InvariantsView, VerificationView
from core.modules.ledger_module.service import LedgerService
from core.web.answers import Answers
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

    def read(path: str, handler: Callable[[Call], Answer], summary: str, answers: Answers, *refuses: str) -> Route:
        return Route("GET", path, handler, ADMINS, summary, scope=ADMIN_SCOPE, answers=answers, refuses=refuses)

    return (
        read("/ledger/verify", verify, "Whether the ledger is what it was", VerificationView),
        read("/ledger/invariants", invariants, "What must be true of the whole ledger", InvariantsView),
        read("/ledger/export", download, "The whole ledger as lines of JSON", {200: NDJSON}, "409 ledger-importing"),
        Route(
            *("POST", "/ledger/import", upload, ADMINS, "Fill an empty ledger from an export"),
            scope=ADMIN_SCOPE,
            upload=NDJSON,
            answers={201: ImportView},
            refuses=("409 ledger-not-empty", "409 ledger-importing", "422 import-invalid"),
        ),
    )
