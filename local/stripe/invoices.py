"""Invoices: made as drafts, finalized, paid, voided; and the routes of them."""

from collections.abc import Callable
from typing import Any

from local.stripe import balances, collection, invoice_payments, payments, taxes
from local.stripe.account import TIMERS, Account, Timer
from local.stripe.api import list_of
from local.stripe.coupons import coupon_of, drop
from local.stripe.errors import ApiError
from local.stripe.expansion import INCLUDED
from local.stripe.lines import total
from local.stripe.parameters import picked
from local.stripe.periods import DAY
from local.stripe.store import Object

# A renewal stays a draft for about an hour, so that a webhook can add to it.
DRAFT_SECONDS = 3600
AUTOMATIC = "automatic_tax{enabled!:bool}"


class Rehearsed(Exception):  # noqa: N818 - not an error
    """The invoice that a change would make, in a preview."""

    def __init__(self, invoice: Object) -> None:
        super().__init__(invoice["id"])
        self.invoice = invoice


def issue(
    account: Account,
    customer: str,
    lines: list[Object],
    *,
    name: str,
    currency: str,
    reason: str,
    period: tuple[int, int],
    subscription: Object | None = None,
    discounts: list[str] | None = None,
    **fields: Any,
) -> Object:
    """A draft with these lines; `name` is the id that the lines already carry."""
    person = account.get("customer", customer)
    method = fields.get("collection_method", "charge_automatically")
    parent = None
    if subscription:
        details = {
            "metadata": subscription["metadata"],
            "subscription": subscription["id"],
            "subscription_proration_date": None,
        }
        parent = {"type": "subscription_details", "quote_details": None, "subscription_details": details}
    plain: Object = {
        "billing_reason": reason,
        "currency": currency,
        "customer": customer,
        "customer_address": person["address"],
        "customer_email": person["email"],
        "customer_name": person["name"],
        "customer_phone": person["phone"],
        "customer_tax_exempt": person["tax_exempt"],
        "customer_tax_ids": [picked(each, "type value") for each in taxes.tax_ids(account, customer)],
        "discounts": discounts or [],
        "lines": list_of(lines, f"/v1/invoices/{name}/lines"),
        "parent": parent,
        "period_start": period[0],
        "period_end": period[1],
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        **fields,
    }
    if method == "send_invoice" and not plain.get("due_date"):
        plain["due_date"] = account.now() + (plain.pop("days_until_due", None) or 0) * DAY
    plain.pop("days_until_due", None)
    total(account, plain, lines, person)
    invoice = account.new("invoice", id=name, **plain)
    if account.rehearses:
        raise Rehearsed(invoice)
    account.announce("invoice.created", invoice)
    return invoice


def rehearse(account: Account, work: Callable[[], object]) -> Object | None:
    """The invoice that a piece of work would issue first; nothing of it is kept."""
    account.rehearses = True
    try:
        with account.store.rehearsal():
            work()
    except Rehearsed as rehearsed:
        return _previewed(rehearsed.invoice)
    finally:
        account.rehearses = False
    return None


def _previewed(invoice: Object) -> Object:
    """An upcoming invoice is no object yet: its id says so, and it cannot be retrieved."""
    name = invoice["id"].replace("in_", "upcoming_in_", 1)
    lines = [
        {**each, "invoice": name, "id": each["id"].replace("il_", "il_tmp_", 1)} for each in invoice["lines"]["data"]
    ]
    return {
        **invoice,
        "id": name,
        "status": "draft",
        "automatically_finalizes_at": None,
        "ending_balance": invoice["_ending_balance"],
        "next_payment_attempt": invoice["period_end"] + DRAFT_SECONDS,
        "lines": {**invoice["lines"], "data": lines, "url": f"/v1/invoices/{name}/lines"},
    }


def finalize(account: Account, invoice: Object) -> Object:
    """Sums are final, the balance is used, the payment exists; an invoice over nothing is paid."""
    if invoice["status"] != "draft":
        raise ApiError(
            f"This invoice is already finalized, you can't re-finalize a non-draft invoice. Its status is"
            f" {invoice['status']}.",
            code="invoice_not_editable",
        )
    now, person = account.now(), account.get("customer", invoice["customer"])
    total(account, invoice, invoice["lines"]["data"], person)
    sequence = person["next_invoice_sequence"]
    account.change(person, None, next_invoice_sequence=sequence + 1, currency=person["currency"] or invoice["currency"])
    if (used := invoice["_ending_balance"] - invoice["starting_balance"]) and _uses_balance(invoice):
        small = invoice["amount_due"] == 0 < invoice["_ending_balance"]
        balances.book(
            account,
            person["id"],
            used,
            invoice["currency"],
            "invoice_too_small" if small else "applied_to_invoice",
            invoice=invoice["id"],
        )
    intent = _intend(account, invoice) if invoice["amount_due"] else None
    account.change(
        invoice,
        None,
        status="open",
        number=f"{person['invoice_prefix']}-{sequence:04}",
        effective_at=now,
        ending_balance=invoice["_ending_balance"],
        automatically_finalizes_at=None,
        hosted_invoice_url=f"{account.address}/invoice/{invoice['id']}",
        invoice_pdf=f"{account.address}/invoice/{invoice['id']}/pdf",
        status_transitions={**invoice["status_transitions"], "finalized_at": now},
        _intent=intent and intent["id"],
    )
    if intent:
        invoice_payments.begin(account, invoice, intent)
    account.announce("invoice.finalized", invoice)
    _use_up(account, invoice)
    if not intent:
        collection.paid(account, invoice, None)
    elif invoice["collection_method"] == "send_invoice":
        account.announce("invoice.sent", invoice)
    return account.get("invoice", invoice["id"])


def _uses_balance(invoice: Object) -> bool:
    return bool(invoice["total"] or invoice["starting_balance"])


def _intend(account: Account, invoice: Object) -> Object:
    subscription = collection.owner(account, invoice)
    first = invoice["billing_reason"] == "subscription_create"
    saves = subscription and subscription["payment_settings"]["save_default_payment_method"] == "on_subscription"
    words = {"subscription_create": "Subscription creation", "manual": "Payment for Invoice"}
    return payments.intend(
        account,
        invoice["amount_due"],
        invoice["currency"],
        invoice["customer"],
        description=words.get(invoice["billing_reason"], "Subscription update"),
        setup_future_usage="off_session" if saves or first else None,
        _invoice=invoice["id"],
    )


def _use_up(account: Account, invoice: Object) -> None:
    """A coupon of the duration `once` is gone with the first invoice that it made cheaper."""
    names = {each["discount"] for each in invoice["total_discount_amounts"]}
    for name in names:
        discount = account.get("discount", name)
        if coupon_of(account, discount)["duration"] == "once" and discount["subscription"]:
            drop(account, discount)
            subscription = account.get("subscription", discount["subscription"])
            left = [each for each in subscription["discounts"] if each != name]
            account.change(subscription, "customer.subscription.updated", discounts=left)


def void(account: Account, invoice: Object) -> Object:
    if invoice["status"] not in {"open", "uncollectible"}:
        raise ApiError(
            f"You can only pass in open or uncollectible invoices. This invoice isn't open: {invoice['status']}."
        )
    cancel_payment(account, invoice)
    gone = {**invoice["status_transitions"], "voided_at": account.now()}
    account.change(
        invoice, "invoice.voided", status="void", auto_advance=False, next_payment_attempt=None, status_transitions=gone
    )
    if used := invoice["starting_balance"] - invoice["_ending_balance"]:
        balances.book(
            account, invoice["customer"], used, invoice["currency"], "unapplied_from_invoice", invoice=invoice["id"]
        )
    collection.follow_latest(account, invoice)
    return account.get("invoice", invoice["id"])


def cancel_payment(account: Account, invoice: Object) -> None:
    intent = invoice["_intent"] and account.get("payment_intent", invoice["_intent"])
    if intent and intent["status"] in payments.OPEN:
        payments.cancel(account, intent, "void_invoice")
        invoice_payments.settle(account, invoice, "canceled")


def write_off(account: Account, invoice: Object) -> Object:
    if invoice["status"] != "open":
        raise ApiError(f"You can only mark open invoices uncollectible. This invoice is {invoice['status']}.")
    moment = {**invoice["status_transitions"], "marked_uncollectible_at": account.now()}
    account.change(
        invoice,
        "invoice.marked_uncollectible",
        status="uncollectible",
        auto_advance=False,
        next_payment_attempt=None,
        status_transitions=moment,
    )
    collection.follow_latest(account, invoice)
    return account.get("invoice", invoice["id"])


# Time ----------------------------------------------------------------------------------------------------------------


def _due(invoice: Object) -> int | None:
    if invoice["status"] == "draft":
        return invoice["automatically_finalizes_at"] if invoice["auto_advance"] else None
    if invoice["status"] != "open":
        return None
    overdue = None if invoice.get("_overdue") else invoice["due_date"]
    return min((moment for moment in (invoice["next_payment_attempt"], overdue) if moment), default=None)


def _fall_due(account: Account, invoice: Object) -> None:
    if invoice["status"] == "draft":
        invoice = finalize(account, invoice)
        if invoice["status"] == "open" and invoice["collection_method"] == "charge_automatically":
            collection.charge(account, invoice)
    elif invoice["next_payment_attempt"] and invoice["next_payment_attempt"] <= account.now():
        collection.charge(account, invoice)
    else:
        collection.overdue(account, invoice)


TIMERS["invoice"] = Timer(_due, _fall_due)


def _secret(account: Account, invoice: Object) -> Object | None:
    intent = invoice["_intent"] and account.get("payment_intent", invoice["_intent"])
    if not intent or invoice["status"] != "open":
        return None
    return {"client_secret": intent["client_secret"], "type": "payment_intent"}


INCLUDED["invoice", "confirmation_secret"] = _secret
