"""Parse events of Stripe into what the database keeps of them."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from shared.billing.kinds import INVOICE_OUTCOMES, Kind, kind_named, kind_of
from shared.billing.objects import LARGEST_TIME, State, at, identity
from shared.errors import ApiError

EVENT_ID = re.compile(r"evt_[!-~]{1,250}")
TYPE = re.compile(r"[^\s\x00-\x1f\x7f]{1,255}")
# Text that JSON can carry and Postgres cannot store: NUL, and halves of surrogate pairs.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def delivery(event: Any, body: str, *, livemode: bool) -> str:
    """The argument of private.receive_stripe_event(): the parsed event and its body unchanged."""
    facts = json.dumps({**parse_event(event), "expected_livemode": livemode})
    return f'{facts[:-1]}, "payload": {body}}}'


def storable(value: Any) -> Any:
    """A copy of a JSON value in which U+FFFD replaces every character that Postgres cannot store."""
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {storable(name): storable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [storable(each) for each in value]
    return value


def parse_event(event: Any) -> dict[str, Any]:
    """What the database keeps of an event besides its payload; an ApiError (400) if it is no event."""
    if not isinstance(event, Mapping):
        raise _malformed("an event is an object", type(event).__name__)
    name, event_type = event.get("id"), event.get("type")
    if not isinstance(name, str) or not EVENT_ID.fullmatch(name):
        raise _malformed("id is the id of an event: evt_…", repr(name)[:100])
    if not isinstance(event_type, str) or not TYPE.fullmatch(event_type):
        raise _malformed("type is a type of events", repr(event_type)[:100])
    version = event.get("api_version")
    subject = at(event, "data", "object")
    livemode = event.get("livemode")
    facts = {
        "id": name,
        "type": event_type,
        "created": _seconds(event.get("created")),
        "api_version": version[:100] if isinstance(version, str) else None,
        "livemode": (livemode if isinstance(livemode, bool) else at(subject, "livemode")) is True,
        "object_id": identity(at(subject, "id")),
    }
    kind = kind_of(event_type)
    # With an `account` it is about an object in an account connected to ours.
    if kind is None or event.get("account") or not facts["object_id"]:
        return facts
    state = kind.read(subject)
    deleted = event_type.endswith(".deleted")
    if deleted:
        state |= kind.deleted
    if kind.name == "invoice":
        state["outcome"] = event_type.removeprefix("invoice.") if event_type in INVOICE_OUTCOMES else None
    previous = at(event, "data", "previous_attributes")
    # A card that was detached names its former customer only there.
    owner = previous if kind.name == "payment_method" and not at(subject, "customer") else subject
    facts |= {
        "object_type": kind.name,
        "customer_id": _customer(kind, owner),
        "state": state,
        "before": _before(kind, subject, previous, state) if kind.chained else None,
        "place": 0 if kind.chained and event_type.endswith(".created") else kind.place(state),
        "is_chained": kind.chained,
        "is_last": deleted or kind.ends(state),
    }
    return facts


def parse_object(subject: Any) -> dict[str, Any] | None:
    """What the database keeps of an object that Stripe returned; null if Strive does nothing with its kind."""
    kind = kind_named(at(subject, "object"))
    name = identity(subject)
    if kind is None or name is None:
        return None
    return {
        "object_id": name,
        "object_type": kind.name,
        "customer_id": _customer(kind, subject),
        "state": kind.read(subject),
    }


def customer_of(event: Any) -> str:
    """The customer, else the object, of an event; events of one customer wait for each other."""
    subject = at(event, "data", "object")
    return identity(at(subject, "customer")) or identity(at(subject, "id")) or ""


def _customer(kind: Kind, subject: Any) -> str | None:
    return identity(subject) if kind.name == "customer" else identity(at(subject, "customer"))


def _before(kind: Kind, subject: Any, previous: Any, state: State) -> State | None:
    """The fields of the state that were different before; null if the event has none, or no field changed."""
    if not isinstance(previous, Mapping):
        return None
    before = kind.read(_merged(subject, previous))
    return {name: value for name, value in before.items() if value != state[name]} or None


def _merged(subject: Any, previous: Mapping[str, Any]) -> Any:
    """`previous_attributes` leaves out what did not change; lists are complete in it."""
    return {
        **subject,
        **{
            name: _merged(subject[name], value)
            if isinstance(value, Mapping) and isinstance(subject.get(name), Mapping)
            else value
            for name, value in previous.items()
        },
    }


def _seconds(created: Any) -> int:
    if isinstance(created, str):  # events of API v2
        try:
            created = int(datetime.fromisoformat(created).timestamp())
        except (ValueError, OverflowError):
            created = None
    if type(created) is not int or not 0 <= created <= LARGEST_TIME:
        raise _malformed("created is a time", "another value")
    return created


def _malformed(expected: str, found: str) -> ApiError:
    return ApiError(
        HTTPStatus.BAD_REQUEST,
        "malformed_event",
        "The body is not an event of Stripe",
        details=f"{expected}; found {found}.",
    )
