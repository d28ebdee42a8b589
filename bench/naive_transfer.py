"""The transfer of the other side: one MongoDB transaction each, and the least that is still atomic and idempotent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

SNAPSHOT = ReadConcern("snapshot")
MAJORITY = WriteConcern(w="majority", j=True)

Document = dict[str, Any]


class InsufficientFunds(Exception):
    """The payer has less than the amount; nothing moved."""


class UnknownWallet(Exception):
    """The receiver does not exist; nothing moved."""


class KeyReused(Exception):
    """The idempotency key already stands for another transfer."""


class NaiveLedger:
    """Wallets, transactions, entries and idempotency keys in four collections."""

    def __init__(self, client: MongoClient[Document], database: str) -> None:
        self._client = client
        self._database = client[database]
        self._wallets = self._database["wallets"]
        self._transactions = self._database["transactions"]
        self._entries = self._database["entries"]
        self._keys = self._database["idempotency_keys"]

    def create(self, balances: Mapping[str, int]) -> None:
        """Start afresh: drop what is there, make the indexes, and open the wallets."""
        self._client.drop_database(self._database.name)
        self._entries.create_index([("wallet_id", 1), ("_id", -1)])
        self._transactions.create_index("created_at")
        self._keys.create_index("created_at", expireAfterSeconds=7 * 24 * 3600)
        self._wallets.insert_many([{"_id": wallet, "balance": balance} for wallet, balance in balances.items()])

    def drop(self) -> None:
        """Remove the database."""
        self._client.drop_database(self._database.name)

    def wallet(self, wallet_id: str) -> Document | None:
        """One wallet, `{_id, balance}`, or None."""
        return self._wallets.find_one({"_id": wallet_id})

    def balances(self) -> Iterable[int]:
        """Every wallet's balance, for checks on the sum."""
        return (wallet["balance"] for wallet in self._wallets.find({}, {"balance": 1}))

    def transfer(self, key: str, source: str, destination: str, amount: int) -> tuple[Document, bool]:
        """Move `amount` once per `key`; return the transaction, and whether it is a replay.

        Raises InsufficientFunds, UnknownWallet or KeyReused; nothing has moved then.
        """
        transaction = _transaction(source, destination, amount)
        try:
            with self._client.start_session() as session:
                session.with_transaction(
                    lambda session: self._post(session, key, transaction),
                    read_concern=SNAPSHOT,
                    write_concern=MAJORITY,
                )
        except DuplicateKeyError:
            return self._replay(key, transaction), True
        return transaction, False

    def _post(self, session: ClientSession, key: str, transaction: Document) -> None:
        """The body of the transaction; the driver may run it many times."""
        source, destination, amount = transaction["source"], transaction["destination"], transaction["amount"]
        self._keys.insert_one(
            {"_id": key, "transaction_id": transaction["_id"], "created_at": transaction["created_at"]},
            session=session,
        )
        debit = self._wallets.update_one({"_id": source, "balance": {"$gte": amount}}, {"$inc": {"balance": -amount}}, session=session)
        if not debit.matched_count:
            raise InsufficientFunds(source)
        credit = self._wallets.update_one({"_id": destination}, {"$inc": {"balance": amount}}, session=session)
        if not credit.matched_count:
            raise UnknownWallet(destination)
        self._transactions.insert_one(transaction, session=session)
        self._entries.insert_many(_entries(transaction), session=session)

    def _replay(self, key: str, wanted: Document) -> Document:
        """The transaction that `key` already stands for."""
        claim = self._keys.find_one({"_id": key}) or {}
        stored = self._transactions.find_one({"_id": claim.get("transaction_id")})
        if stored is None or any(stored[name] != wanted[name] for name in ("source", "destination", "amount")):
            raise KeyReused(key)
        return stored


def _transaction(source: str, destination: str, amount: int) -> Document:
    return {
        "_id": ObjectId(),
        "type": "transfer",
        "source": source,
        "destination": destination,
        "amount": amount,
        "created_at": datetime.now(UTC),
    }


def _entries(transaction: Document) -> list[Document]:
    """Two entries that sum to zero."""
    amount = transaction["amount"]
    return [
        {"transaction_id": transaction["_id"], "wallet_id": transaction["source"], "delta": -amount},
        {"transaction_id": transaction["_id"], "wallet_id": transaction["destination"], "delta": amount},
    ]
