"""What is declared once about a collection's fields (encrypted, searchable, private), and carried out on every document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.contracts import FieldRules

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

Document = dict[str, Any]
_NO_RULES = FieldRules()


class FieldCodec:
    """Documents and queries in plain on our side, as they are stored on the other."""

    def __init__(self, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        self._rules: dict[str, FieldRules] = {}

    def declare(self, collection: str, rules: FieldRules) -> None:
        self._rules[collection] = rules

    def rules(self, collection: str) -> FieldRules:
        return self._rules.get(collection, _NO_RULES)

    def encrypt(self, collection: str, document: Document) -> Document:
        """A document as it is stored; the given one stays as it is."""
        rules = self._rules.get(collection)
        if rules is None:
            return document
        encryption = self._app_manager.encryption_manager
        sealed = encryption.encrypt_fields(document, rules.sealed, f"{collection}/{document['_id']}")
        lookups = {f: encryption.encrypt_lookup(document[f], f"{collection}.{f}") for f in rules.lookup if document.get(f) is not None}
        return {**sealed, **lookups}

    def encrypt_update(self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError for an encrypted field of a document that is not named by its id, to which a sealed value is bound."""
        rules = self._rules.get(collection)
        if rules is None:
            return dict(update)
        fields, encrypted = update.get("$set", {}), {*rules.lookup, *rules.sealed}
        _refuse_partial_changes(update, encrypted)
        if not encrypted.intersection(fields):
            return dict(update)
        if not isinstance(query.get("_id"), str):
            raise ValueError("an update of encrypted fields has to name its document by _id")
        stored = self.encrypt(collection, {**fields, "_id": query["_id"]})
        return {**update, "$set": {name: stored[name] for name in fields}}

    def encrypt_query(self, collection: str, query: Mapping[str, Any]) -> dict[str, Any]:
        """A query with its look-up fields as they are stored, under each key that is in use."""
        rules = self._rules.get(collection)
        if rules is None:
            return dict(query)
        encryption = self._app_manager.encryption_manager
        candidates = {f: {"$in": encryption.lookup_candidates(query[f], f"{collection}.{f}")} for f in rules.lookup if f in query}
        return {**query, **candidates}

    def decrypt(self, collection: str, document: Document) -> Document:
        """A stored document in plain; raises DecryptionError."""
        rules = self._rules.get(collection)
        if rules is None:
            return document
        encryption = self._app_manager.encryption_manager
        opened = encryption.decrypt_fields(document, rules.sealed, f"{collection}/{document['_id']}")
        lookups = {f: encryption.decrypt_lookup(document[f], f"{collection}.{f}") for f in rules.lookup if document.get(f) is not None}
        return {**opened, **lookups}

    def projection(self, collection: str, wished: Sequence[str] | None, reveal: Sequence[str]) -> Any:
        """What the server shall leave out or send: private fields only when they are named."""
        if wished is not None:
            return [*wished, *reveal]
        hidden = [name for name in self.rules(collection).private if name not in reveal]
        return dict.fromkeys(hidden, False) if hidden else None


def _refuse_partial_changes(update: Mapping[str, Any], encrypted: set[str]) -> None:
    """An encrypted field is set as a whole or removed: any other change of it would lie there in plain."""
    for operator, paths in update.items():
        for path in paths if operator != "$unset" else ():
            if path.partition(".")[0] in encrypted and (operator != "$set" or "." in path):
                raise ValueError(f"{path} is encrypted: it can only be set as a whole, or removed")
