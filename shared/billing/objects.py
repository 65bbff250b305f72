"""What matters of Stripe's objects, in flat words of ours: no names, no addresses, no cards.

An event's shape follows the API version of the endpoint, so every reader takes the old ones and those of 2026. Any
field may be null, missing, or something else than expected: then it is null here.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

State = dict[str, Any]

ID_CHARACTERS = 255
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# What a bigint, an integer and a time of day hold.
LARGEST_AMOUNT = 10**15
LARGEST_PLACE = 2**31 - 1
LARGEST_TIME = 253_402_300_799  # the end of the year 9999


def at(found: Any, *path: str | int) -> Any:
    """What stands at a place, null if the place is not there."""
    for step in path:
        if isinstance(step, str) and isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(step, int) and isinstance(found, list) and step < len(found):
            found = found[step]
        else:
            return None
    return found


def identity(found: Any) -> str | None:
    """An id, or that of an object which was expanded."""
    if isinstance(found, Mapping):
        found = found.get("id")
    return found if isinstance(found, str) and 0 < len(found) <= ID_CHARACTERS and "\0" not in found else None


def word(found: Any) -> str | None:
    return identity(found) if isinstance(found, str) else None


def whole(found: Any, largest: int = LARGEST_AMOUNT) -> int | None:
    return found if type(found) is int and 0 <= found <= largest else None


def moment(found: Any) -> int | None:
    return whole(found, LARGEST_TIME)


def subscription(of: Any) -> State:
    found = at(of, "items", "data")
    items = found if isinstance(found, list) else []
    bought = [_item(item) for item in items]
    if not bought and at(of, "plan"):
        bought = [_item(of)]
    return {
        "status": word(at(of, "status")),
        "items": bought,
        # The subscription's own until 2025, then those of its items.
        "period_start": _first(moment(at(each, "current_period_start")) for each in (of, *items)),
        "period_end": _first(moment(at(each, "current_period_end")) for each in (of, *items)),
        "cancel_at_period_end": at(of, "cancel_at_period_end") is True,
        "cancel_at": moment(at(of, "cancel_at")),
        "canceled_at": moment(at(of, "canceled_at")),
        "ended_at": moment(at(of, "ended_at")),
        "started": moment(at(of, "created")),
        "invoice": identity(at(of, "latest_invoice")),
        **_onboarding(at(of, "metadata")),
    }


def _onboarding(metadata: Any) -> State:
    """What our onboarding wrote on the subscription it made: for which session and attempt it is."""
    return {
        "session": word(at(metadata, "onboarding_session")),
        "attempt": word(at(metadata, "onboarding_attempt")),
        "tier": word(at(metadata, "tier")),
    }


def _first(found: Iterable[int | None]) -> int | None:
    return next((each for each in found if each is not None), None)


def _item(of: Any) -> State:
    # `plan` is what `price` was called before 2020, and is still sent beside it.
    price = at(of, "price") or at(of, "plan")
    amount = at(price, "unit_amount")
    return {
        "price": identity(price),
        "amount": whole(amount if amount is not None else at(price, "amount")),
        "quantity": whole(at(of, "quantity"), 10**6),
    }


def invoice(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "subscription": identity(at(of, "subscription"))
        or identity(at(of, "parent", "subscription_details", "subscription")),
        "payment_intent": identity(at(of, "payment_intent"))
        or identity(at(of, "payments", "data", 0, "payment", "payment_intent")),
        "amount_due": whole(at(of, "amount_due")),
        "amount_paid": whole(at(of, "amount_paid")),
        "currency": word(at(of, "currency")),
        "reason": word(at(of, "billing_reason")),
        **_onboarding(
            at(of, "parent", "subscription_details", "metadata") or at(of, "subscription_details", "metadata")
        ),
    }


def payment_intent(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "failed": at(of, "last_payment_error") is not None,
        "amount": whole(at(of, "amount")),
        "amount_received": whole(at(of, "amount_received")),
        "currency": word(at(of, "currency")),
        "invoice": identity(at(of, "invoice")),
    }


def setup_intent(of: Any) -> State:
    return {"status": word(at(of, "status")), "failed": at(of, "last_setup_error") is not None}


def checkout_session(of: Any) -> State:
    # Behind a payment link `client_reference_id` is what the buyer's browser says; then only our metadata counts.
    named = at(of, "metadata", "organization_id") or (
        at(of, "client_reference_id") if at(of, "payment_link") is None else None
    )
    return {
        "status": word(at(of, "status")),
        "payment_status": word(at(of, "payment_status")),
        "mode": word(at(of, "mode")),
        "subscription": identity(at(of, "subscription")),
        "payment_intent": identity(at(of, "payment_intent")),
        "organization": named.lower() if isinstance(named, str) and UUID.fullmatch(named) else None,
    }


def charge(of: Any) -> State:
    return {
        "amount": whole(at(of, "amount")),
        "amount_refunded": whole(at(of, "amount_refunded")),
        "refunded": at(of, "refunded") is True,
        "currency": word(at(of, "currency")),
        "payment_intent": identity(at(of, "payment_intent")),
    }


def refund(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "amount": whole(at(of, "amount")),
        "currency": word(at(of, "currency")),
        "charge": identity(at(of, "charge")),
        "payment_intent": identity(at(of, "payment_intent")),
    }


def dispute(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "amount": whole(at(of, "amount")),
        "currency": word(at(of, "currency")),
        "reason": word(at(of, "reason")),
        "due_by": moment(at(of, "evidence_details", "due_by")),
        "charge": identity(at(of, "charge")),
        "payment_intent": identity(at(of, "payment_intent")),
    }


def customer(of: Any) -> State:
    return {"deleted": at(of, "deleted") is True}


def product(of: Any) -> State:
    return {"active": at(of, "active") is True}


def price(of: Any) -> State:
    return {
        "active": at(of, "active") is True,
        "amount": whole(at(of, "unit_amount")),
        "currency": word(at(of, "currency")),
        "interval": word(at(of, "recurring", "interval")),
        "every": whole(at(of, "recurring", "interval_count")),
        "product": identity(at(of, "product")),
        # What says which plan it is the price of.
        "tier": word(at(of, "metadata", "tier")),
        "billing_cycle": word(at(of, "metadata", "billing_cycle")),
    }


@dataclass(frozen=True)
class Kind:
    """A kind of object: how it is read, when nothing more can happen to it, and how far along it is.

    `place` orders what happened within one second where the events do not say what was before; `chained` ones do.
    """

    name: str
    read: Callable[[Any], State]
    chained: bool = False
    ends: Callable[[State], bool] = lambda _: False
    place: Callable[[State], int] = lambda _: 1


def _in_order(*statuses: str) -> Callable[[State], int]:
    places = {status: place for place, status in enumerate(statuses, 1)}
    return lambda state: places.get(state["status"], 0)


def _ends_in(*statuses: str) -> Callable[[State], bool]:
    return lambda state: state["status"] in statuses


PAID = frozenset({"paid", "no_payment_required"})
_paying = _in_order(
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_payment_method",
    "requires_capture",
    "canceled",
    "succeeded",
)


_billing = _in_order("draft", "open", "payment_failed", "payment_action_required", "uncollectible", "void", "paid")


def _invoice(state: State) -> int:
    """An open one stays open when its payment fails; that the bank asks is told beside the failure, and says more."""
    return _billing({"status": state.get("outcome") or "open"} if state["status"] == "open" else state)


def _payment(state: State) -> int:
    """A new intent waits for a payment method, and so does one that failed: first and after all others."""
    return 0 if state["status"] == "requires_payment_method" and not state["failed"] else _paying(state)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("subscription", subscription, chained=True, ends=_ends_in("canceled", "incomplete_expired")),
        Kind("customer", customer, chained=True, ends=lambda state: state["deleted"]),
        Kind("product", product, chained=True),
        Kind("price", price, chained=True),
        Kind(
            "invoice",
            invoice,
            ends=_ends_in("paid", "void"),
            place=_invoice,
        ),
        Kind(
            "payment_intent",
            payment_intent,
            ends=_ends_in("succeeded", "canceled"),
            place=_payment,
        ),
        Kind(
            "setup_intent",
            setup_intent,
            ends=_ends_in("succeeded", "canceled"),
            place=_payment,
        ),
        Kind(
            "checkout_session",
            checkout_session,
            ends=lambda state: state["status"] == "expired" or state["payment_status"] in PAID,
            place=_in_order("open", "complete", "expired"),
        ),
        Kind("charge", charge, place=lambda state: min((state["amount_refunded"] or 0) + 1, LARGEST_PLACE)),
        Kind(
            "refund",
            refund,
            ends=_ends_in("failed", "canceled"),
            place=_in_order("requires_action", "pending", "succeeded"),
        ),
        Kind(
            "dispute",
            dispute,
            ends=_ends_in("won", "lost", "warning_closed"),
            place=_in_order(
                "warning_needs_response", "warning_under_review", "needs_response", "under_review", "warning_closed"
            ),
        ),
    )
}
