"""Appointments as calendar programs read them (RFC 5545): feeds, and what is attached to invitations."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from icalendar import Calendar, Event, vCalAddress, vText
from pydantic import BaseModel

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\u0085\u2028\u2029]+")
STATUSES = {"SCHEDULED": "TENTATIVE", "CANCELLED": "CANCELLED"}


class Organizer(BaseModel):
    name: str | None
    email: str


class Item(BaseModel):
    """What private.calendar_item() returns."""

    uid: UUID
    sequence: int
    status: str
    title: str
    description: str | None
    start: datetime
    end: datetime
    location: str | None
    url: str | None
    updated_at: datetime
    organizer: Organizer | None


class Head(BaseModel):
    """What private.read_calendar() returns first; the items follow, unless the etag is the one that was sent."""

    etag: str
    name: str


def elements(text: str) -> Iterator[Any]:
    """The elements of a JSON array from the database, one by one: parsing all at once would hold the loop."""
    decode, at = json.JSONDecoder().raw_decode, 1
    while at < len(text) - 1:
        value, at = decode(text, at)
        yield value
        at += len(", ")


def write(
    items: list[Item], *, method: Literal["PUBLISH", "REQUEST", "CANCEL"] = "PUBLISH", attendee: str | None = None
) -> bytes:
    """All times are UTC, which every program shows in its own time zone."""
    made = _calendar(method)
    for item in items:
        made.add_component(_event(item, attendee))
    content: bytes = made.to_ical()
    return content


async def write_feed(name: str, items: Iterator[Any]) -> bytes:
    """Write many appointments: 1,000 take half a second, so other requests get a turn in between."""
    made = _calendar("PUBLISH")
    made.add("x-wr-calname", _clean(name))
    head, end = made.to_ical().split(b"END:VCALENDAR")
    parts = [head]
    for item in items:
        parts.append(_event(Item.model_validate(item), None).to_ical())
        await asyncio.sleep(0)
    return b"".join([*parts, b"END:VCALENDAR", end])


def _calendar(method: str) -> Calendar:
    made = Calendar()
    made.add("prodid", "-//Strive//Calendar//EN")
    made.add("version", "2.0")
    made.add("method", method)
    return made


def _event(item: Item, attendee: str | None) -> Event:
    event = Event()
    event.add("uid", str(item.uid))
    event.add("sequence", item.sequence)
    event.add("dtstamp", item.updated_at)
    event.add("last-modified", item.updated_at)
    event.add("dtstart", item.start)
    event.add("dtend", item.end)
    event.add("summary", _clean(item.title))
    event.add("status", STATUSES.get(item.status, "CONFIRMED"))
    for property_name, value in (("description", item.description), ("location", item.location), ("url", item.url)):
        if value:
            event.add(property_name, _clean(value))
    if item.organizer:
        event.add("organizer", _person(item.organizer.email, item.organizer.name))
    if attendee:
        # Replies come through the links of the e-mail, not by mail.
        event.add("attendee", _person(attendee, None, RSVP="FALSE", PARTSTAT="NEEDS-ACTION"))
    return event


def _person(address: str, name: str | None, **parameters: str) -> vCalAddress:
    person = vCalAddress(f"mailto:{_clean(address)}")
    for key, value in parameters.items():
        person.params[key] = vText(value)
    if name and (shown := _clean(name).replace('"', "'").replace("\n", " ")):
        person.params["CN"] = vText(shown)
    return person


def _clean(text: str) -> str:
    """A line break is escaped by the library; other control characters may not be in a calendar."""
    return CONTROL.sub(" ", text)
