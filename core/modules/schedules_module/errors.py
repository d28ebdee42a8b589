"""The refusals of schedules, each with its code."""

from __future__ import annotations

from tools.error_handling.errors import Conflict, Forbidden, NotFound, Unprocessable


def schedule_not_found() -> NotFound:
    return NotFound("There is no such schedule.")


def too_many_schedules(limit: int) -> Conflict:
    return Conflict(f"The wallet's owner has {limit} active schedules.", code="too-many-schedules", title="Too many schedules")


def in_the_past() -> Unprocessable:
    return Unprocessable.of_field("run_at", "must not be in the past")


def no_occurrence_left() -> Unprocessable:
    return Unprocessable.of_field("rrule", "has no occurrence from now on")


def cancelled() -> Conflict:
    return Conflict("The schedule was cancelled.", code="schedule-cancelled", title="Schedule cancelled")


def creator_inactive() -> Forbidden:
    return Forbidden("Whoever made the schedule may not move credits any more.", code="creator-inactive", title="Creator inactive")
