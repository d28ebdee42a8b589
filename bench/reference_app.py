"""The stack that people would glue together: Flask, Flask-JWT-Extended, Flask-Limiter, one PyMongo transaction each."""

from __future__ import annotations

import logging
import os
from typing import Annotated

from flask import Flask, Response, jsonify, request
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, jwt_required
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pymongo import MongoClient

from bench.naive_transfer import Document, InsufficientFunds, KeyReused, NaiveLedger, UnknownWallet

DATABASE = "bench_http"
LIMIT = "1000000 per minute"  # out of reach: the limiter's cost is on the path, its verdict is not

Answer = tuple[Response, int]


class LoginBody(BaseModel):
    """Body of POST /login."""

    model_config = ConfigDict(strict=True, extra="forbid")
    user: Annotated[str, Field(min_length=1, max_length=64)]


class TransferBody(BaseModel):
    """Body of POST /transfers; the source defaults to the caller's wallet."""

    model_config = ConfigDict(strict=True, extra="forbid")
    source: Annotated[str, Field(max_length=64)] | None = None
    destination: Annotated[str, Field(max_length=64)]
    amount: Annotated[int, Field(gt=0, le=2**53 - 1)]


def create_app() -> Flask:
    """Build the app; called by each worker after the fork, so that no client crosses one."""
    app = Flask("reference")
    app.config["JWT_SECRET_KEY"] = os.environ["BENCH_JWT_SECRET"]
    app.config["JWT_ALGORITHM"] = "HS256"
    logging.getLogger("werkzeug").disabled = True
    app.extensions["app_manager"] = None  # our worker classes look for one when they stop
    JWTManager(app)
    limiter = Limiter(get_remote_address, app=app, storage_uri=os.environ["BENCH_REDIS_URI"], strategy="fixed-window")
    client: MongoClient[Document] = MongoClient(os.environ["BENCH_MONGODB_URI"], tz_aware=True)
    _add_routes(app, limiter, NaiveLedger(client, DATABASE))
    _add_error_answers(app)
    return app


def _add_routes(app: Flask, limiter: Limiter, ledger: NaiveLedger) -> None:
    @app.get("/health/ready")
    def ready() -> Answer:
        return jsonify(status="ready"), 200

    @app.post("/login")
    @limiter.limit(LIMIT)
    def login() -> Answer:
        body = LoginBody.model_validate_json(request.get_data())
        return jsonify(access_token=create_access_token(body.user)), 200

    @app.get("/wallets/me")
    @limiter.limit(LIMIT)
    @jwt_required()
    def my_wallet() -> Answer:
        wallet = ledger.wallet(get_jwt_identity())
        if wallet is None:
            return jsonify(error="no such wallet"), 404
        return jsonify(id=wallet["_id"], balance=wallet["balance"]), 200

    @app.post("/transfers")
    @limiter.limit(LIMIT)
    @jwt_required()
    def transfer() -> Answer:
        key = request.headers.get("Idempotency-Key", "")
        if not 1 <= len(key) <= 128:
            return jsonify(error="Idempotency-Key is missing or too long"), 400
        body = TransferBody.model_validate_json(request.get_data())
        caller = get_jwt_identity()
        if (body.source or caller) != caller:
            return jsonify(error="no such wallet"), 404
        if body.destination == caller:
            return jsonify(error="source and destination are the same"), 422
        # Keys belong to their user: another user's same key is another key.
        posted, _ = ledger.transfer(f"{caller}:{key}", caller, body.destination, body.amount)
        return jsonify(_shown(posted)), 201


def _shown(transaction: Document) -> Document:
    """The transaction as clients see it."""
    source, destination, amount = transaction["source"], transaction["destination"], transaction["amount"]
    return {
        "id": str(transaction["_id"]),
        "type": transaction["type"],
        "source": source,
        "destination": destination,
        "amount": amount,
        "entries": [{"wallet_id": source, "delta": -amount}, {"wallet_id": destination, "delta": amount}],
        "created_at": transaction["created_at"].isoformat(timespec="milliseconds"),
    }


def _add_error_answers(app: Flask) -> None:
    statuses: dict[type[Exception], int] = {InsufficientFunds: 402, UnknownWallet: 404, KeyReused: 422}

    @app.errorhandler(ValidationError)
    def invalid(error: ValidationError) -> Answer:
        return jsonify(errors=error.errors(include_url=False, include_input=False, include_context=False)), 422

    def refused(error: Exception) -> Answer:
        return jsonify(error=type(error).__name__), statuses[type(error)]

    for kind in statuses:
        app.register_error_handler(kind, refused)
