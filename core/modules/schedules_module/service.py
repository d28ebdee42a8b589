"""Who may schedule which transfer, and what is shown of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.modules.schedules_module import errors
from core.modules.schedules_module.repository import ScheduleRepository
from core.modules.schedules_module.schedule import new_schedule
from core.modules.schedules_module.schemas import ScheduleBody, SchedulesQuery, run_view, schedule_view
from core.modules.transactions_module.commands import Claim, Verdict
from core.modules.transactions_module.errors import asset_mismatch, same_wallet, wallet_not_found
from core.modules.wallet_module.service import WalletService, wallet_id_of
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import USER, Call, Principal
from tools.error_handling.errors import AppError
from utils.clock import utc_now

FindUsers = Callable[[Sequence[str]], Mapping[str, str]]


class ScheduleService:
    """Makes, shows and ends schedules. `most`: active ones that pay out of one owner's wallets."""

    def __init__(self, repository: ScheduleRepository, wallets: WalletService, find_users: FindUsers, pager: Pager, *, most: int) -> None:
        self._repository = repository
        self._wallets = wallets
        self._find_users = find_users
        self._pager = pager
        self._most = most

    def create(self, call: Call) -> Verdict:
        """Schedule a transfer. Whether the funds are there is asked when it runs."""
        principal, now = call.caller, utc_now()
        parties = self._parties(principal, call.body)
        claim = None
        if not call.query.dry_run:
            request = {"params": {}, "body": call.body.model_dump(mode="json", exclude_unset=True)}
            claim = Claim.of(principal.user_id, call.route, call.idempotency_key, request)

        def decide(wallets: Mapping[str, dict[str, Any]], taken: set[int]) -> tuple[Verdict, dict[str, Any] | None]:
            try:
                owner_id = _checked_owner(principal, parties, wallets)
                if len(taken) >= self._most:
                    raise errors.too_many_schedules(self._most)
                schedule = new_schedule(_wish(call.body, owner_id, principal.user_id, parties), now)
            except AppError as refusal:
                return Verdict(refusal.status, json.dumps(refusal.problem())), None
            view = json.dumps(schedule_view(schedule))
            return Verdict(201 if claim is not None else 200, view), {**schedule, "place": self._free_place(schedule["_id"], taken)}

        return self._repository.place(claim, parties, decide, now)

    def cancel(self, principal: Principal, schedule_id: str) -> None:
        """End a schedule; what has not run by now never will."""
        self._repository.cancel(self._find(principal, schedule_id)["_id"], utc_now())

    def get(self, principal: Principal, schedule_id: str) -> dict[str, Any]:
        """One schedule; users see those that pay out of their own wallets."""
        return schedule_view(self._find(principal, schedule_id))

    def page(self, principal: Principal, query: SchedulesQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: the caller's schedules, newest first; whoever is more than a user sees everyone's."""
        owner_id = principal.user_id if principal.role == USER else query.owner_id
        filters = {key: value for key, value in (("owner_id", owner_id), ("status", query.status)) if value is not None}
        binding = f"schedules:{principal.user_id}:{owner_id}:{query.status}"
        found = self._repository.page(filters, self._pager.position(query.cursor, binding), query.limit + 1)
        return self._pager.page([schedule_view(schedule) for schedule in found], query.limit, binding)

    def runs(self, principal: Principal, schedule_id: str, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: what a schedule has done, newest first, for 400 days."""
        schedule = self._find(principal, schedule_id)
        binding = f"schedule-runs:{principal.user_id}:{schedule['_id']}"
        found = self._repository.runs(schedule["_id"], self._pager.position(query.cursor, binding), query.limit + 1)
        return self._pager.page([run_view(run) for run in found], query.limit, binding)

    def _free_place(self, schedule_id: str, taken: set[int]) -> int:
        """One of those that are left, another for each schedule: those that are made at the same time do not meet there."""
        first = int(schedule_id[-8:], 16)
        return next(place for step in range(self._most) if (place := (first + step) % self._most) not in taken)

    def _find(self, principal: Principal, schedule_id: str) -> dict[str, Any]:
        schedule = self._repository.find(schedule_id)
        if schedule is None or (principal.role == USER and schedule["owner_id"] != principal.user_id):
            raise errors.schedule_not_found()
        return schedule

    def _parties(self, principal: Principal, body: ScheduleBody) -> tuple[str, str]:
        source = self._wallets.resolve(principal, body.source)
        if isinstance(body.destination, str):
            return source, self._wallets.resolve(principal, body.destination)
        # A name that nobody has becomes a wallet that cannot exist.
        name = body.destination.username
        return source, wallet_id_of(self._find_users([name]).get(name, ""))


def _checked_owner(principal: Principal, parties: tuple[str, str], wallets: Mapping[str, dict[str, Any]]) -> str:
    """The owner of the source, where `principal` may have it pay. What may change until it runs is not asked."""
    source, destination = (wallets.get(wallet_id) for wallet_id in parties)
    if source is None or (principal.role == USER and source["owner_id"] != principal.user_id):
        raise wallet_not_found("source")
    if destination is None:
        raise wallet_not_found("destination")
    if source is destination:
        raise same_wallet()
    if source["asset"] != destination["asset"]:
        raise asset_mismatch()
    owner_id: str = source["owner_id"]
    return owner_id


def _wish(body: ScheduleBody, owner_id: str, creator_id: str, parties: tuple[str, str]) -> dict[str, Any]:
    fields = ("amount", "memo", "reference", "metadata", "run_at", "rrule")
    given = {name: getattr(body, name) for name in fields}
    return {"owner_id": owner_id, "creator_id": creator_id, "source": parties[0], "destination": parties[1], **given}
