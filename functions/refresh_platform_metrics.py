from datetime import date, timedelta
from functools import partial

from pydantic import model_validator

from shared.app.function import Answered, Call, Strict, function
from shared.jobs import Connection, Run, perform, perform_here

MOST_DAYS = 1000


class Days(Strict):
    """Past days to count, the first and the last; without them today, and what was missed before it."""

    first: date | None = None
    last: date | None = None

    @model_validator(mode="after")
    def is_a_range(self) -> "Days":
        if (self.first is None) != (self.last is None):
            raise ValueError("first and last are given together")
        if self.first and self.last and not timedelta() <= self.last - self.first < timedelta(MOST_DAYS):
            raise ValueError(f"first to last are 1 to {MOST_DAYS} days")
        return self


@function("secret", errors={422: "The range is no range of days, or ends in the future."})
async def refresh_platform_metrics(call: Call[Days]) -> Answered[Run]:
    """Count how the platform does today.

    One row for each day (UTC), however often it is counted. Days that were counted when they ended stay as they are.
    """
    if call.body.first and call.body.last:
        return await perform_here(call, "refresh_platform_metrics", partial(_count, call.body.first, call.body.last))
    return await perform(call, "refresh_platform_metrics")


async def _count(first: date, last: date, connection: Connection) -> int:
    """Each day on its own, so that what is done stays done."""
    written = 0
    for offset in range((last - first).days + 1):
        cursor = await connection.execute("select private.record_platform_metrics(%s)", [first + timedelta(offset)])
        written += (await cursor.fetchone() or (False,))[0]
    return written
