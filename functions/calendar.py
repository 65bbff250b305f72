from typing import Annotated

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function
from shared.app.libraries import load_modules


class CalendarRequest(RequestModel):
    token: Annotated[str, Field(min_length=1, max_length=100, description="From create_calendar_feed().")]


@function(
    "anyone",
    content_type="text/calendar; charset=utf-8",
    errors={304: "Nothing has changed since `If-None-Match`.", 404: "The address is unknown, replaced or revoked."},
)
async def calendar(call: Call[CalendarRequest]) -> Result[str]:
    """Read a member's appointments in a calendar program.

    The program fetches `/functions/v1/calendar?token=…` by GET: what the member is assigned to or attends, from 90 days
    ago to a year ahead, at most 1,000. The address ends when it is replaced or revoked, and with the membership.
    """
    await load_modules("shared.calendar")
    from shared.calendar import Head, elements, write_feed  # noqa: PLC0415 - late, so that no other function loads the library of calendars

    tag = call.headers.get(b"if-none-match", b"").decode("latin-1").strip().removeprefix("W/").strip('"')
    read = await call.run("private.read_calendar", {"token": call.body.token, "etag": tag})
    items = elements(str(read.json))
    head = Head.model_validate(next(items))
    headers = {"etag": f'"{head.etag}"', "cache-control": "private, no-cache"}
    if head.etag == tag:
        return Result(b"", status=304, headers=headers)
    return Result(await write_feed(head.name, items), headers=headers)
