"""An event of Stripe, read: what it is about, what became of that, and what it was before."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from shared.billing.objects import KINDS, LARGEST_TIME, Kind, State, at, identity
from shared.errors import ApiError

# Whatever Stripe thinks of next: a name nobody has heard of is still a name.
EVENT_ID = re.compile(r"evt_[!-~]{1,250}")
TYPE = re.compile(r"[^\s\x00-\x1f\x7f]{1,255}")

# By the longest beginning of its type, what an event is about; what is not here is nothing to us.
ABOUT = {
    "customer.subscription.": "subscription",
    "customer.created": "customer",
    "customer.updated": "customer",
    "customer.deleted": "customer",
    "invoice.": "invoice",
    "payment_intent.": "payment_intent",
    "setup_intent.": "setup_intent",
    "checkout.session.": "checkout_session",
    "charge.refunded": "charge",
    "charge.refund.updated": "refund",
    "refund.": "refund",
    "charge.dispute.": "dispute",
    "product.": "product",
    "price.": "price",
}
# The state of what was deleted, whatever its last picture shows.
GONE: dict[str, State] = {
    "subscription": {"status": "canceled"},
    "customer": {"deleted": True},
    "product": {"active": False},
    "price": {"active": False},
    "invoice": {"status": "void"},
}
# These are of objects that have only half begun.
NOT_YET = {"invoice.upcoming", "invoice.will_be_due"}
CREATED = re.compile(r".*\.created")
DELETED = re.compile(r"(customer|product|price|invoice|customer\.subscription)\.deleted")


def read(event: Any) -> dict[str, Any]:
    """What the database keeps of an event beside the event itself; an ApiError (400) if it is none."""
    if not isinstance(event, Mapping):
        raise _malformed("an event is an object", type(event).__name__)
    name, kind = event.get("id"), event.get("type")
    if not isinstance(name, str) or not EVENT_ID.fullmatch(name):
        raise _malformed("id is that of an event", "another")
    if not isinstance(kind, str) or not TYPE.fullmatch(kind):
        raise _malformed("type is a type of events", "another")
    version = event.get("api_version")
    subject = at(event, "data", "object")
    livemode = event.get("livemode")
    return {
        "id": name,
        "type": kind,
        "created": _seconds(event.get("created")),
        "api_version": version[:100] if isinstance(version, str) else None,
        "livemode": (livemode if isinstance(livemode, bool) else at(subject, "livemode")) is True,
        "object_id": identity(at(subject, "id")),
        **_about(event, kind, subject),
    }


def observe(subject: Any) -> dict[str, Any] | None:
    """An object as Stripe gave it when asked; null if it is of a kind that is nothing to us."""
    kind = KINDS.get(str(at(subject, "object")).replace(".", "_"))
    name = identity(subject)
    if kind is None or name is None:
        return None
    return {
        "object_id": name,
        "object_type": kind.name,
        "customer_id": _customer(kind, subject),
        "state": kind.read(subject),
    }


def _about(event: Mapping[str, Any], type_: str, subject: Any) -> dict[str, Any]:
    longest = max((begin for begin in ABOUT if type_.startswith(begin)), key=len, default="")
    # With an `account` it is about an object in another's account, connected to ours.
    if not longest or type_ in NOT_YET or event.get("account") or not identity(at(subject, "id")):
        return {}
    kind = KINDS[ABOUT[longest]]
    state = kind.read(subject)
    deleted = DELETED.fullmatch(type_) is not None
    if deleted:
        state |= GONE[kind.name]
    if kind.name == "invoice":
        state["outcome"] = type_.removeprefix("invoice.") if type_ in FAILURES else None
    changed = _before(kind, subject, at(event, "data", "previous_attributes"), state) if kind.chained else None
    return {
        "object_type": kind.name,
        "customer_id": _customer(kind, subject),
        "state": state,
        "before": changed,
        "place": 0 if kind.chained and CREATED.fullmatch(type_) else kind.place(state),
        "is_last": deleted or kind.ends(state),
    }


FAILURES = {"invoice.payment_failed", "invoice.payment_action_required"}


def _customer(kind: Kind, subject: Any) -> str | None:
    return identity(subject) if kind.name == "customer" else identity(at(subject, "customer"))


def _before(kind: Kind, subject: Any, previous: Any, state: State) -> State | None:
    """What of the state was different before; null if the event does not say, or nothing of it was."""
    if not isinstance(previous, Mapping):
        return None
    before = kind.read(_laid_over(subject, previous))
    return {name: value for name, value in before.items() if value != state[name]} or None


def _laid_over(subject: Any, previous: Mapping[str, Any]) -> Any:
    """Stripe leaves out of an object's earlier self what did not change; lists are given whole."""
    return {
        **subject,
        **{
            name: _laid_over(subject[name], value)
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
        raise _malformed("created is a time", "another")
    return created


def _malformed(expected: str, found: str) -> ApiError:
    return ApiError(
        HTTPStatus.BAD_REQUEST, "malformed_event", "This is no event of Stripe", details=f"{expected}; found {found}."
    )


def delivery(event: Any, sent: str, *, livemode: bool) -> str:
    """What private.receive_stripe_event() takes; `sent` is the event as it came."""
    told = json.dumps({**read(event), "expected_livemode": livemode})
    return f'{told[:-1]}, "payload": {sent}}}'


def about(event: Any) -> str:
    """Whose event it is; those of one customer wait for each other."""
    subject = at(event, "data", "object")
    return identity(at(subject, "customer")) or identity(at(subject, "id")) or ""
