"""What comes in and goes out of the schedule routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from core.modules.schedules_module.recurrence import MAX_TEXT, Recurrence
from core.modules.schedules_module.schedule import ACTIVE
from core.modules.transactions_module.schemas import Destination, Id, Moment, ShortText
from core.web.answers import Credits, Time, View, WalletId
from core.web.models import Amount, Body, Metadata, PageQuery, Text
from utils.clock import rfc3339

_EXAMPLE = "FREQ=MONTHLY;BYMONTHDAY=1"
Rule = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=[_EXAMPLE])]


class ScheduleBody(Body):
    """A transfer at `run_at`; with `rrule` again and again, where `run_at` is the rule's DTSTART.

    The transfers of a rule have the references `{reference}:1`, `{reference}:2`, ..., as each can only be used once.
    """

    source: Id = "me"
    destination: Destination
    amount: Amount
    memo: ShortText | None = None
    reference: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    metadata: Metadata = Field(default_factory=dict)
    run_at: Moment
    rrule: Rule | None = None

    @field_validator("run_at")
    @classmethod
    def _in_milliseconds(cls, moment: Moment) -> Moment:
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    @field_validator("rrule")
    @classmethod
    def _is_a_rule(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "run_at" in info.data:
            Recurrence.parse(text, info.data["run_at"])
        return text


class SchedulesQuery(PageQuery):
    """`owner_id` is for those who may see other people's schedules."""

    owner_id: str | None = Field(default=None, max_length=64)
    status: Literal["active", "finished", "cancelled", "failed"] | None = None


class RunView(View):
    """`at`: when it was due, `ran_at`: when it was done. `error`: the code of its refusal; `missed` where it was skipped."""

    id: str
    at: Time
    ran_at: Time
    status: Literal["succeeded", "failed", "skipped"]
    transaction_id: str | None
    error: Annotated[str, Field(examples=["insufficient-funds"])] | None


class ScheduleView(View):
    """`next_run_at` null: there is none any more. `runs` counts what was decided, `last_run` is the last of them."""

    id: str
    source: WalletId
    destination: WalletId
    amount: Credits
    memo: str | None
    reference: str | None
    metadata: Metadata
    run_at: Time
    rrule: Annotated[str, Field(examples=[_EXAMPLE])] | None
    next_run_at: Time | None
    status: Literal["active", "finished", "cancelled", "failed"]
    runs: int
    last_run: RunView | None
    created_at: Time


def schedule_view(schedule: dict[str, Any]) -> dict[str, Any]:
    """A schedule as clients see it; `next_run_at` is null when there is none any more."""
    last = schedule["last_run"]
    fields = ("source", "destination", "amount", "memo", "reference", "metadata")
    return {
        "id": schedule["_id"],
        **{name: schedule[name] for name in fields},
        "run_at": rfc3339(schedule["run_at"]),
        "rrule": schedule["rrule"],
        "next_run_at": rfc3339(schedule["next_run_at"]) if schedule["status"] == ACTIVE else None,
        "status": schedule["status"],
        "runs": schedule["runs"],
        "last_run": run_view(last) if last is not None else None,
        "created_at": rfc3339(schedule["created_at"]),
    }


def run_view(run: dict[str, Any]) -> dict[str, Any]:
    """A run as clients see it: when it was due and when it was done; succeeded, failed with a code, or skipped as missed."""
    return {
        "id": run["_id"],
        "at": rfc3339(run["at"]),
        "ran_at": rfc3339(run["ran_at"]),
        "status": run["status"],
        "transaction_id": run["transaction_id"],
        "error": run["error"],
    }
