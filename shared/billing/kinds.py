"""The kinds of Stripe's objects: one row says which events are about a kind and how their state is read and ordered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from shared.billing import objects
from shared.billing.objects import LARGEST_PLACE, State

# The states in which a subscription has ended for good.
ENDED = ("canceled", "incomplete_expired")


@dataclass(frozen=True)
class Kind:
    """One kind of object.

    `events` are prefixes of event types; the longest that matches decides. `chained`: its `updated` events say what
    was before (`previous_attributes`). `place` orders the events of one second of a kind that is not chained.
    `ends`: nothing can happen to the object any more. `deleted` is its state after a `deleted` event.
    """

    name: str
    read: Callable[[Any], State]
    events: tuple[str, ...]
    chained: bool = False
    ends: Callable[[State], bool] = lambda _: False
    place: Callable[[State], int] = lambda _: 1
    deleted: Mapping[str, Any] = field(default_factory=dict)


def _in_order(*statuses: str) -> Callable[[State], int]:
    places = {status: place for place, status in enumerate(statuses, 1)}
    return lambda state: places.get(state["status"], 0)


def _ends_in(*statuses: str) -> Callable[[State], bool]:
    return lambda state: state["status"] in statuses


CHECKOUT_PAID = frozenset({"paid", "no_payment_required"})
_payment_order = _in_order(
    "requires_confirmation",
    "requires_action",
    "processing",
    "requires_payment_method",
    "requires_capture",
    "canceled",
    "succeeded",
)
_invoice_order = _in_order(
    "draft", "open", "payment_failed", "payment_action_required", "uncollectible", "void", "paid"
)


def _invoice_place(state: State) -> int:
    """An open invoice stays open when its payment fails; the bank's request comes with the failure and says more."""
    return _invoice_order({"status": state.get("outcome") or "open"} if state["status"] == "open" else state)


def _payment_place(state: State) -> int:
    """A new intent waits for a payment method, and so does one that failed: the first and the last."""
    return 0 if state["status"] == "requires_payment_method" and not state["failed"] else _payment_order(state)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "subscription",
            objects.subscription,
            ("customer.subscription.",),
            chained=True,
            ends=_ends_in(*ENDED),
            deleted={"status": "canceled"},
        ),
        Kind(
            "customer",
            objects.customer,
            ("customer.created", "customer.updated", "customer.deleted"),
            chained=True,
            ends=lambda state: state["deleted"],
            deleted={"deleted": True},
        ),
        Kind("product", objects.product, ("product.",), chained=True, deleted={"active": False}),
        Kind("price", objects.price, ("price.",), chained=True, deleted={"active": False}),
        Kind("coupon", objects.coupon, ("coupon.",), chained=True),
        Kind(
            "discount",
            objects.discount,
            ("customer.discount.",),
            chained=True,
            ends=lambda state: state["deleted"],
            deleted={"deleted": True},
        ),
        Kind(
            "subscription_schedule",
            objects.subscription_schedule,
            ("subscription_schedule.",),
            chained=True,
            ends=_ends_in("released", "completed", "canceled"),
        ),
        Kind(
            "invoice",
            objects.invoice,
            ("invoice.",),
            ends=_ends_in("paid", "void"),
            place=_invoice_place,
            deleted={"status": "void"},
        ),
        Kind("invoice_payment", objects.invoice_payment, ("invoice_payment.",), ends=_ends_in("paid", "canceled")),
        Kind(
            "credit_note",
            objects.credit_note,
            ("credit_note.",),
            ends=_ends_in("void"),
            place=_in_order("issued", "void"),
        ),
        Kind(
            "payment_intent",
            objects.payment_intent,
            ("payment_intent.",),
            ends=_ends_in("succeeded", "canceled"),
            place=_payment_place,
        ),
        Kind(
            "setup_intent",
            objects.setup_intent,
            ("setup_intent.",),
            ends=_ends_in("succeeded", "canceled"),
            place=_payment_place,
        ),
        Kind("payment_method", objects.payment_method, ("payment_method.",)),
        Kind(
            "checkout_session",
            objects.checkout_session,
            ("checkout.session.",),
            ends=lambda state: state["status"] == "expired" or state["payment_status"] in CHECKOUT_PAID,
            place=_in_order("open", "complete", "expired"),
        ),
        Kind(
            "charge",
            objects.charge,
            ("charge.refunded",),
            place=lambda state: min((state["amount_refunded"] or 0) + 1, LARGEST_PLACE),
        ),
        Kind(
            "refund",
            objects.refund,
            ("refund.", "charge.refund.updated"),
            ends=_ends_in("failed", "canceled"),
            place=_in_order("requires_action", "pending", "succeeded"),
        ),
        Kind(
            "dispute",
            objects.dispute,
            ("charge.dispute.",),
            ends=_ends_in("won", "lost", "warning_closed"),
            place=_in_order(
                "warning_needs_response", "warning_under_review", "needs_response", "under_review", "warning_closed"
            ),
        ),
    )
}

# Events about objects that do not exist yet.
NOT_YET = {"invoice.upcoming", "invoice.will_be_due"}
# What Stripe says of an open invoice besides its status.
INVOICE_OUTCOMES = {"invoice.payment_failed", "invoice.payment_action_required"}


@cache
def _prefixes() -> list[tuple[str, Kind]]:
    pairs = [(prefix, kind) for kind in KINDS.values() for prefix in kind.events]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def kind_of(event_type: str) -> Kind | None:
    """The kind of object an event is about; null if Strive does nothing with it."""
    if event_type in NOT_YET:
        return None
    return next((kind for prefix, kind in _prefixes() if event_type.startswith(prefix)), None)


def kind_named(name: Any) -> Kind | None:
    """The kind of an object that Stripe returned, by its field `object`."""
    return KINDS.get(str(name).replace(".", "_"))
