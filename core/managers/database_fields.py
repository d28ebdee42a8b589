"""What is declared once about a collection's fields (encrypted, searchable, private), and carried out on every document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from core.contracts import FieldRules
from utils.fields import changed_at

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

    @property
    def declared(self) -> Mapping[str, FieldRules]:
        """By collection."""
        return self._rules

    def rules(self, collection: str) -> FieldRules:
        return self._rules.get(collection, _NO_RULES)

    def encrypt(self, collection: str, document: Document) -> Document:
        """A document as it is stored; the given one stays as it is."""
        rules = self._rules.get(collection)
        if rules is None:
            return document
        encryption = self._app_manager.encryption_manager
        stored = encryption.encrypt_fields(document, rules.sealed, f"{collection}/{document['_id']}")
        for name in rules.lookup:
            stored = changed_at(stored, name, partial(encryption.encrypt_lookup, field=f"{collection}.{name}"))
        return stored

    def encrypt_update(self, collection: str, query: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError for an encrypted field of a document that is not named by its id, to which a sealed value is bound."""
        rules = self._rules.get(collection)
        if rules is None:
            return dict(update)
        fields, encrypted = update.get("$set", {}), {*rules.lookup, *rules.sealed}
        _refuse_partial_changes(update, encrypted)
        if not any(_overlap(_plain(name), field.split(".")) for name in fields for field in encrypted):
            return dict(update)
        if not isinstance(query.get("_id"), str):
            raise ValueError("an update of encrypted fields has to name its document by _id")
        stored = self.encrypt(collection, {**fields, "_id": query["_id"]})
        return {**update, "$set": {name: stored[name] for name in fields}}

    def encrypt_query(self, collection: str, query: Mapping[str, Any]) -> dict[str, Any]:
        """A query with its look-up fields (a text, or a tuple of which one has to fit) as they are stored, under each key in use."""
        rules = self._rules.get(collection)
        if rules is None:
            return dict(query)
        candidates = {f: {"$in": self._candidates(query[f], f"{collection}.{f}")} for f in rules.lookup if f in query}
        return {**query, **candidates}

    def _candidates(self, wanted: str | tuple[str, ...], field: str) -> list[bytes]:
        texts = wanted if isinstance(wanted, tuple) else (wanted,)
        return [form for text in texts for form in self._app_manager.encryption_manager.lookup_candidates(text, field)]

    def decrypt(self, collection: str, document: Document) -> Document:
        """A stored document in plain; raises DecryptionError."""
        rules = self._rules.get(collection)
        if rules is None:
            return document
        encryption = self._app_manager.encryption_manager
        opened = encryption.decrypt_fields(document, rules.sealed, f"{collection}/{document['_id']}")
        for name in rules.lookup:
            opened = changed_at(opened, name, partial(encryption.decrypt_lookup, field=f"{collection}.{name}"))
        return opened

    def projection(self, collection: str, wished: Sequence[str] | None, reveal: Sequence[str]) -> Any:
        """What the server shall leave out or send: private fields only when they are named."""
        if wished is not None:
            return [*wished, *reveal]
        hidden = [name for name in self.rules(collection).private if name not in reveal]
        return dict.fromkeys(hidden, False) if hidden else None


def _refuse_partial_changes(update: Mapping[str, Any], encrypted: set[str]) -> None:
    """An encrypted field is set as a whole, or with what it lies in, or removed: any other change would lie there in plain."""
    for operator, paths in update.items():
        for path in paths if operator != "$unset" else ():
            if any(_is_partial(operator, path, field.split(".")) for field in encrypted):
                raise ValueError(f"{path} is encrypted: it can only be set as a whole, or removed")


def _is_partial(operator: str, path: str, field: list[str]) -> bool:
    parts = _plain(path)
    return _overlap(parts, field) and (operator != "$set" or ".".join(parts) != path or len(parts) > len(field))


def _overlap(parts: list[str], field: list[str]) -> bool:
    """Whether the one lies in the other."""
    shared = min(len(parts), len(field))
    return parts[:shared] == field[:shared]


def _plain(path: str) -> list[str]:
    """The names of a path, without the positions in lists."""
    return [part for part in path.split(".") if not (part.isdigit() or part.startswith("$"))]
