"""Periods: the same day of each month, or the last day of a shorter month."""

import calendar
from datetime import UTC, datetime

from local.stripe.store import Object

DAY = 86_400


def after(moment: int, recurring: Object, anchor: int) -> int:
    """The end of the period that begins at `moment`: the day of the month of the anchor, or the month's last."""
    count, interval = recurring["interval_count"], recurring["interval"]
    if interval in {"day", "week"}:
        return int(moment + count * DAY * (7 if interval == "week" else 1))
    return months_after(moment, count * (12 if interval == "year" else 1), anchor)


def months_after(moment: int, count: int, anchor: int | None = None) -> int:
    at, day = datetime.fromtimestamp(moment, UTC), datetime.fromtimestamp(anchor or moment, UTC).day
    months = at.month - 1 + count
    year, month = at.year + months // 12, months % 12 + 1
    return int(at.replace(year=year, month=month, day=min(day, calendar.monthrange(year, month)[1])).timestamp())
