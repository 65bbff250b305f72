"""What Strive keeps of Stripe's objects: flat facts without names, addresses or card numbers.

The shape of an object follows the API version of the webhook endpoint, so each reader accepts the shapes from 2020 to
2026. A field that is missing or has an unexpected type becomes null.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from shared.auth.caller import UUID

State = dict[str, Any]

ID_CHARACTERS = 255
CURRENCY = re.compile(r"[a-z]{3}")
DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,12})?")
# The limits of bigint and integer columns, and the last second of the year 9999.
LARGEST_AMOUNT = 10**15
LARGEST_PLACE = 2**31 - 1
LARGEST_TIME = 253_402_300_799
LARGEST_QUANTITY = 10**6
LONGEST_TEXT = 2000


def at(value: Any, *path: str | int) -> Any:
    """The value at a path, null if the path does not exist."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def identity(value: Any) -> str | None:
    """An id, or the id of an expanded object."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) and 0 < len(value) <= ID_CHARACTERS and "\0" not in value else None


def word(value: Any) -> str | None:
    return identity(value) if isinstance(value, str) else None


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and "\0" not in value else None


def currency(value: Any) -> str | None:
    return value if isinstance(value, str) and CURRENCY.fullmatch(value) else None


def whole(value: Any, largest: int = LARGEST_AMOUNT) -> int | None:
    return value if type(value) is int and 0 <= value <= largest else None


def signed(value: Any) -> int | None:
    return value if type(value) is int and abs(value) <= LARGEST_AMOUNT else None


def decimal(value: Any) -> str | None:
    """An exact amount: a text in events, a Decimal from Stripe's library. Without the zeros at its end."""
    written = str(value) if isinstance(value, str | Decimal) else ""
    return f"{Decimal(written).normalize():f}" if DECIMAL.fullmatch(written) else None


def moment(value: Any) -> int | None:
    return whole(value, LARGEST_TIME)


def listed(value: Any) -> list[Any]:
    """The elements of a list, or of Stripe's list object."""
    found = at(value, "data") if isinstance(value, dict) else value
    return found if isinstance(found, list) else []


def identities(values: Any) -> list[str]:
    return [name for each in listed(values) if (name := identity(each))]


def _first(values: Iterable[int | None]) -> int | None:
    return next((each for each in values if each is not None), None)


def _total(values: Any) -> int:
    return sum(signed(at(each, "amount")) or 0 for each in listed(values))


# Subscriptions --------------------------------------------------------------------------------------------------------


def subscription(of: Any) -> State:
    found = listed(at(of, "items"))
    items = [_item(item) for item in found]
    if not items and at(of, "plan"):
        items = [_item(of)]
    return {
        "status": word(at(of, "status")),
        "items": items,
        # Periods belonged to the subscription until 2025, and to its items since.
        "period_start": _first(moment(at(each, "current_period_start")) for each in (of, *found)),
        "period_end": _first(moment(at(each, "current_period_end")) for each in (of, *found)),
        "trial_end": moment(at(of, "trial_end")),
        "cancel_at_period_end": at(of, "cancel_at_period_end") is True,
        "cancel_at": moment(at(of, "cancel_at")),
        "canceled_at": moment(at(of, "canceled_at")),
        "ended_at": moment(at(of, "ended_at")),
        "started": moment(at(of, "created")),
        "invoice": identity(at(of, "latest_invoice")),
        "discounts": _discounts(of),
        "schedule": identity(at(of, "schedule")),
        "payment_method": identity(at(of, "default_payment_method")),
        "organization": _organization(at(of, "metadata", "organization_id")),
        "checkout": _organization(at(of, "metadata", "checkout")),
        **_onboarding(at(of, "metadata")),
    }


def _onboarding(metadata: Any) -> State:
    """The session and attempt that onboarding wrote on the subscription it created."""
    return {
        "session": word(at(metadata, "onboarding_session")),
        "attempt": word(at(metadata, "onboarding_attempt")),
        "tier": word(at(metadata, "tier")),
    }


def _organization(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) and UUID.fullmatch(value) else None


def _discounts(of: Any) -> list[str]:
    return identities(at(of, "discounts")) or identities([at(of, "discount")])


def _item(of: Any) -> State:
    # `plan` is the name of `price` before 2020, and is still sent beside it.
    price = at(of, "price") or at(of, "plan")
    recurring = at(price, "recurring") or price
    amount = _first((whole(at(price, "unit_amount")), whole(at(price, "amount"))))
    return {
        "price": identity(price),
        "amount": amount,
        "amount_decimal": decimal(at(price, "unit_amount_decimal") or at(price, "amount_decimal")),
        "currency": currency(at(price, "currency")),
        "interval": word(at(recurring, "interval")),
        "every": whole(at(recurring, "interval_count")),
        "metered": at(recurring, "usage_type") == "metered",
        "quantity": whole(at(of, "quantity"), LARGEST_QUANTITY),
        "discounts": identities(at(of, "discounts")),
    }


def subscription_schedule(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "subscription": identity(at(of, "subscription")),
        "phases": [
            {
                "start": moment(at(phase, "start_date")),
                "end": moment(at(phase, "end_date")),
                "price": identity(at(phase, "items", 0, "price")),
                "quantity": whole(at(phase, "items", 0, "quantity"), LARGEST_QUANTITY),
            }
            for phase in listed(at(of, "phases"))
        ],
    }


def discount(of: Any) -> State:
    coupon = at(of, "coupon") or at(of, "source", "coupon")
    return {
        "deleted": at(of, "deleted") is True,
        "coupon": identity(coupon),
        "end": moment(at(of, "end")),
        "subscription": identity(at(of, "subscription")),
        "terms": _terms(coupon) if isinstance(coupon, dict) else None,
    }


def coupon(of: Any) -> State:
    return {"terms": _terms(of)}


def _terms(coupon: Any) -> State:
    percent = at(coupon, "percent_off")
    return {
        "percent_off": percent if isinstance(percent, int | float) and 0 <= percent <= 100 else None,  # noqa: PLR2004
        "amount_off": whole(at(coupon, "amount_off")),
        "currency": currency(at(coupon, "currency")),
        "duration": word(at(coupon, "duration")),
    }


# Money ----------------------------------------------------------------------------------------------------------------


def invoice(of: Any) -> State:
    details = at(of, "parent", "subscription_details") or at(of, "subscription_details")
    lines = listed(at(of, "lines"))
    charged = [line for line in lines if not _is_proration(line)] or lines
    starts = [start for line in charged if (start := moment(at(line, "period", "start"))) is not None]
    ends = [end for line in charged if (end := moment(at(line, "period", "end"))) is not None]
    tax = signed(at(of, "tax"))
    return {
        "status": word(at(of, "status")),
        "subscription": identity(at(of, "subscription")) or identity(at(details, "subscription")),
        "payment_intent": identity(at(of, "payment_intent"))
        or identity(at(of, "payments", "data", 0, "payment", "payment_intent")),
        "number": word(at(of, "number")),
        "amount_due": whole(at(of, "amount_due")),
        "amount_paid": whole(at(of, "amount_paid")),
        "amount_remaining": whole(at(of, "amount_remaining")),
        "subtotal": signed(at(of, "subtotal")),
        "discount": _total(at(of, "total_discount_amounts")),
        "tax": tax if tax is not None else _total(at(of, "total_taxes") or at(of, "total_tax_amounts")),
        "total": signed(at(of, "total")),
        "currency": currency(at(of, "currency")),
        "reason": word(at(of, "billing_reason")),
        "period_start": min(starts, default=moment(at(of, "period_start"))),
        "period_end": max(ends, default=moment(at(of, "period_end"))),
        "created": moment(at(of, "created")),
        "issued": moment(at(of, "status_transitions", "finalized_at")),
        "due": moment(at(of, "due_date")),
        "paid": moment(at(of, "status_transitions", "paid_at")),
        "url": text(at(of, "hosted_invoice_url")),
        "pdf": text(at(of, "invoice_pdf")),
        "outcome": None,  # an event says it by its type
        **_onboarding(at(details, "metadata")),
    }


def _is_proration(line: Any) -> bool:
    return (
        at(line, "proration") is True
        or at(line, "parent", "subscription_item_details", "proration") is True
        or at(line, "parent", "invoice_item_details", "proration") is True
    )


def invoice_payment(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "invoice": identity(at(of, "invoice")),
        "payment_intent": identity(at(of, "payment", "payment_intent")),
    }


def credit_note(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "invoice": identity(at(of, "invoice")),
        "number": word(at(of, "number")),
        "amount": whole(at(of, "amount")),
        "currency": currency(at(of, "currency")),
        "created": moment(at(of, "created")),
    }


def payment_intent(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "failed": at(of, "last_payment_error") is not None,
        "amount": whole(at(of, "amount")),
        "amount_received": whole(at(of, "amount_received")),
        "currency": currency(at(of, "currency")),
        "invoice": identity(at(of, "invoice")),
    }


def setup_intent(of: Any) -> State:
    return {"status": word(at(of, "status")), "failed": at(of, "last_setup_error") is not None}


def checkout_session(of: Any) -> State:
    # Behind a payment link the buyer's browser chooses `client_reference_id`; then only our metadata counts.
    named = at(of, "metadata", "organization_id") or (
        at(of, "client_reference_id") if at(of, "payment_link") is None else None
    )
    return {
        "status": word(at(of, "status")),
        "payment_status": word(at(of, "payment_status")),
        "mode": word(at(of, "mode")),
        "created": moment(at(of, "created")),
        "subscription": identity(at(of, "subscription")),
        "payment_intent": identity(at(of, "payment_intent")),
        "organization": _organization(named),
        "checkout": _organization(at(of, "metadata", "checkout")),
    }


def charge(of: Any) -> State:
    return {
        "amount": whole(at(of, "amount")),
        "amount_refunded": whole(at(of, "amount_refunded")),
        "refunded": at(of, "refunded") is True,
        "currency": currency(at(of, "currency")),
        "payment_intent": identity(at(of, "payment_intent")),
        "invoice": identity(at(of, "invoice")),
    }


def refund(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "amount": whole(at(of, "amount")),
        "currency": currency(at(of, "currency")),
        "charge": identity(at(of, "charge")),
        "payment_intent": identity(at(of, "payment_intent")),
        "created": moment(at(of, "created")),
    }


def dispute(of: Any) -> State:
    return {
        "status": word(at(of, "status")),
        "amount": whole(at(of, "amount")),
        "currency": currency(at(of, "currency")),
        "reason": word(at(of, "reason")),
        "due_by": moment(at(of, "evidence_details", "due_by")),
        "created": moment(at(of, "created")),
        "charge": identity(at(of, "charge")),
        "payment_intent": identity(at(of, "payment_intent")),
    }


# Customers and what is sold -------------------------------------------------------------------------------------------


def customer(of: Any) -> State:
    return {
        "deleted": at(of, "deleted") is True,
        "payment_method": identity(at(of, "invoice_settings", "default_payment_method")),
    }


def payment_method(of: Any) -> State:
    return {
        "detached": at(of, "customer") is None,
        "expiry_month": whole(at(of, "card", "exp_month"), 12),
        "expiry_year": whole(at(of, "card", "exp_year"), 9999),
    }


def product(of: Any) -> State:
    return {"active": at(of, "active") is True}


def price(of: Any) -> State:
    return {
        "active": at(of, "active") is True,
        "amount": whole(at(of, "unit_amount")),
        "currency": currency(at(of, "currency")),
        "interval": word(at(of, "recurring", "interval")),
        "every": whole(at(of, "recurring", "interval_count")),
        "product": identity(at(of, "product")),
        # Which plan it is the price of.
        "tier": word(at(of, "metadata", "tier")),
        "billing_cycle": word(at(of, "metadata", "billing_cycle")),
    }
