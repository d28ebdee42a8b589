"""A large ledger, quickly: one small ledger is made by the engine's own rules, and copied under new names.

Every copy is whole in itself: its entries sum to zero, its balances are the sums of their entries, its numbers have no gaps.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from multiprocessing import get_context
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern

from bench.scenarios import AMOUNT, OPENING_BALANCE, uniform
from core.modules.transactions_module.commands import Command, Outcome, Snapshot, decide
from core.modules.transactions_module.ledger import GRANT, ISSUANCE, TRANSFER, Draft, GrantTerms
from core.modules.transactions_module.operations import Actor, Post
from core.modules.transactions_module.repository import LedgerRepository, to_wallet
from core.modules.transactions_module.repository import _wallet_fields as wallet_fields
from core.modules.wallet_module.service import DEFAULT_ASSET, new_wallet

GROUP = 1000  # wallets in the ledger that is copied
TRANSFERS = 1500  # and transfers between them; with a grant each, that makes five entries for each wallet
COLLECTIONS = ("wallets", "transactions", "entries", "grants")
# Eight characters that are no part of an id: where each copy puts its number. It stands first, so that the indexes grow at their end.
_MARK = b"########"
_PROCESSES = 2
_ACTOR = Actor("bench", privileged=True, sees_all=True)

Templates = Mapping[str, list[bytes]]


def wallet_name(number: int) -> str:
    """The id of the wallet with this number, of those that `load` makes."""
    return f"w_{number // GROUP:08x}{number % GROUP:016x}"


def load(uri: str, database: str, wallets: int) -> None:
    """Insert `wallets` wallets (in whole groups of 1,000) with five entries each, and the transactions and grants that explain them."""
    templates = make_templates()
    groups = [range(first, -(-wallets // GROUP), _PROCESSES) for first in range(_PROCESSES)]
    # Not by fork: who loads may have threads.
    with ProcessPoolExecutor(_PROCESSES, get_context("spawn")) as pool:
        for done in [pool.submit(_insert, uri, database, templates, numbers) for numbers in groups]:
            done.result()
    client: MongoClient[dict[str, Any]]
    with MongoClient(uri) as client:
        client.admin.command("fsync")  # what still has to reach the disk is not billed to whoever measures next


def load_group(uri: str, database: str, group: int) -> None:
    """Insert the group with this number alone: 1,000 wallets."""
    _insert(uri, database, make_templates(), [group])


def make_templates() -> Templates:
    """The documents of one group, encoded, by collection; `copies` gives them their names."""
    now = datetime.now(UTC)
    opened = {wallet["_id"]: wallet for wallet in (new_wallet(f"bench-{number}", DEFAULT_ASSET) for number in range(GROUP))}
    commands = _commands(list(opened), random.Random(GROUP))
    outcome = decide(Snapshot([to_wallet(wallet) for wallet in opened.values()], {}, {}), commands, now)
    rows = LedgerRepository._rows(outcome)
    rows["wallets"] = [{**opened[wallet.id], **wallet_fields(wallet, version, now)} for version, wallet in outcome.wallets]
    names = _names(opened.values(), outcome)
    return {collection: [_marked(row, names) for row in rows[collection]] for collection in COLLECTIONS}


def copies(templates: Sequence[bytes], group: int) -> Iterator[bytes]:
    """The documents of one group under the names of group number `group`."""
    name = b"%08x" % group
    return (template.replace(_MARK, name) for template in templates)


def _commands(names: list[str], rng: random.Random) -> list[Command]:
    """A grant to each wallet, and transfers among them."""
    drafts = [Draft(GRANT, OPENING_BALANCE, ISSUANCE, name, terms=GrantTerms()) for name in names]
    pairs = uniform(names, rng)
    drafts += [Draft(TRANSFER, AMOUNT, *pair) for pair in islice(pairs, TRANSFERS)]
    return [Command((Post(draft),), _ACTOR, None, "bench") for draft in drafts]


def _names(wallets: Iterable[Mapping[str, Any]], outcome: Outcome) -> dict[str, str]:
    """For each id in the templates one that carries the mark."""
    kinds = {
        "w": (wallet["_id"] for wallet in wallets),
        "u": (wallet["owner_id"] for wallet in wallets),
        "tx": (posting.transaction.id for posting in outcome.posted),
        "g": (issue.grant.lot.grant_id for issue in outcome.issued),
    }
    return {old: f"{kind}_{_MARK.decode()}{number:016x}" for kind, ids in kinds.items() for number, old in enumerate(ids)}


def _marked(row: Any, names: Mapping[str, str]) -> bytes:
    return bson.encode(_renamed(row, names))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """`value` with every id in it replaced, also where it is the first or last part of another id."""
    if isinstance(value, str):
        return ":".join(names.get(part, part) for part in value.split(":"))
    if isinstance(value, Mapping):
        return {name: _renamed(each, names) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(each, names) for each in value]
    return value


def _insert(uri: str, database: str, templates: Templates, groups: Sequence[int]) -> None:
    client: MongoClient[RawBSONDocument] = MongoClient(uri, document_class=RawBSONDocument)
    try:
        for group in groups:
            for name in COLLECTIONS:
                # What is lost when the server dies is loaded anew.
                collection = client[database].get_collection(name, write_concern=WriteConcern(w=1, j=False))
                collection.insert_many([RawBSONDocument(document) for document in copies(templates[name], group)], ordered=False)
    finally:
        client.close()
