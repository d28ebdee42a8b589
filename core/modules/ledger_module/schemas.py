"""What the routes of the ledger answer."""

from __future__ import annotations

from core.web.answers import Asset, Time, View


class FindingView(View):
    """What is wrong with which row; `id` null: with the collection as a whole."""

    collection: str
    id: str | None
    what: str


class CheckedView(View):
    """How many rows were looked at."""

    transactions: int
    entries: int
    wallets: int
    holds: int
    references: int
    reversals: int


class NewestView(View):
    """What was looked at just now: the transactions since the last whole verification, up to a thousand."""

    transactions: int
    ok: bool


class VerificationView(View):
    """The last whole verification in the background, and what came since; `complete`: nothing was left out."""

    ok: bool
    complete: bool
    checked: CheckedView
    sealed: int
    unsealed: int
    head: str
    verified_through: Time | None
    started_at: Time
    finished_at: Time | None
    sums: dict[str, int]
    newest: NewestView
    first_bad: FindingView | None
    problems: list[FindingView]


class AssetView(View):
    """What lies where; `sum` is that of all, and 0."""

    asset: Asset
    wallets: int
    system: dict[str, int]
    sum: int
    ok: bool


class HoldsView(View):
    """What the wallets say is held, what their holds reserve, and what the open holds do."""

    held: int
    reserved: int
    open: int
    count: int
    ok: bool


class EntriesView(View):
    of_wallets: int
    of_system: int


class CountsView(View):
    transactions: int
    wallets: int
    entries: EntriesView
    ok: bool


class InvariantsView(View):
    ok: bool
    as_of: Time
    assets: list[AssetView]
    holds: HoldsView
    counts: CountsView


class ImportedView(View):
    wallet: int
    grant: int
    hold: int
    transaction: int
    seal: int


class ImportView(View):
    """How much came, and the head of the chain."""

    imported: ImportedView
    head: str
