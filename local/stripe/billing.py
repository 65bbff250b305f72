"""Subscriptions and invoices: how they begin, renew, fail and end. Time moves them (`fall_due`), and payments do."""

import calendar
import secrets
from datetime import UTC, datetime
from typing import Any

from local.stripe import payments
from local.stripe.account import Account, Refused
from local.stripe.forms import picked
from local.stripe.store import Object

DAY = 86_400
# After the first attempt at a renewal; then the subscription is cancelled.
RETRY_AFTER_DAYS = (3, 5, 7)
LIVE = {"trialing", "active", "past_due", "unpaid"}


# Subscriptions -------------------------------------------------------------------------------------------------------


def subscribe(account: Account, given: Object) -> Object:
    """Of one price, as all of ours are."""
    customer = account.referred("customer", given.get("customer"), "customer")
    (wanted,) = given["items"]
    price, quantity = price_of(account, wanted, "items[0][price]")
    if not price["recurring"]:
        raise Refused(
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param="items[0][price]",
        )
    behavior, now = given.get("payment_behavior", "allow_incomplete"), account.now()
    card = given.get("default_payment_method")
    if card:
        own_method(account, card, customer["id"])
    days = given.get("trial_period_days")
    trial_end = now + days * DAY if days else given.get("trial_end")
    on_file = card or customer["invoice_settings"]["default_payment_method"]
    if not (on_file or trial_end or behavior == "default_incomplete"):
        message = "This customer has no attached payment source or default payment method."
        raise Refused(message, code="resource_missing")
    name, end = account.name("subscription"), trial_end or after(now, price["recurring"], now)
    item = {
        "id": account.name("subscription_item"),
        "object": "subscription_item",
        "created": now,
        "current_period_start": now,
        "current_period_end": end,
        "metadata": {},
        "price": price,
        "quantity": quantity,
        "subscription": name,
    }
    subscription = account.new(
        "subscription",
        **picked(given, "cancel_at cancel_at_period_end collection_method default_payment_method description metadata"),
        id=name,
        billing_cycle_anchor=trial_end or now,
        currency=price["currency"],
        customer=customer["id"],
        items=list_of([item], "/v1/subscription_items"),
        start_date=now,
        status="trialing" if trial_end else "incomplete",
        trial_end=trial_end,
        trial_start=now if trial_end else None,
    )
    subscription["payment_settings"] |= given.get("payment_settings", {})
    if subscription["cancel_at_period_end"]:
        subscription["cancel_at"] = end
    invoice = bill(account, subscription, "subscription_create", now, end, free=bool(trial_end))
    if trial_end and not card and behavior == "default_incomplete":
        subscription["pending_setup_intent"] = intend_set_up(account, customer["id"])["id"]
    subscription["latest_invoice"] = invoice["id"]
    if invoice["status"] == "paid" and not trial_end:
        subscription["status"] = "active"
    account.put(subscription)
    account.tell("customer.subscription.created", subscription)
    if invoice["status"] == "open" and behavior != "default_incomplete":
        charge(account, invoice)
        subscription = account.get("subscription", name)
        if subscription["status"] == "incomplete" and behavior == "error_if_incomplete":
            raise Refused(payments.DECLINED, status=402, kind="card_error", code="card_declined")
    return subscription


def update(account: Account, subscription: Object, given: Object) -> Object:
    if subscription["status"] in {"canceled", "incomplete_expired"}:
        raise Refused("A canceled subscription can only update its cancellation_details and metadata.")
    items, now = subscription["items"]["data"], account.now()
    plain = picked(given, "metadata description cancel_at collection_method pause_collection")
    if "default_payment_method" in given:
        plain["default_payment_method"] = own_method(
            account, given["default_payment_method"], subscription["customer"]
        )["id"]
    if "payment_settings" in given:
        plain["payment_settings"] = subscription["payment_settings"] | given["payment_settings"]
    if "cancel_at_period_end" in given:
        plain |= cancellation(account, subscription, at_period_end=given["cancel_at_period_end"])
    restarts, owed = False, 0
    if "items" in given:
        (wanted,) = given["items"]
        if wanted.get("id") not in {None, items[0]["id"]}:
            raise Refused(f"No such subscription item: '{wanted['id']}'", code="resource_missing", param="items[0][id]")
        if "id" not in wanted:
            raise Refused("The double has subscriptions of one item: name it by its id.", param="items[0][id]")
        price, quantity = price_of(
            account, {"price": items[0]["price"]["id"], "quantity": items[0]["quantity"]} | wanted, "items[0][price]"
        )
        restarts = price["recurring"] != items[0]["price"]["recurring"] or given.get("billing_cycle_anchor") == "now"
        end = after(now, price["recurring"], now) if restarts else items[0]["current_period_end"]
        left = (end - now) / max(1, end - items[0]["current_period_start"])
        owed = round((price["unit_amount"] * quantity - items[0]["price"]["unit_amount"] * items[0]["quantity"]) * left)
        start = now if restarts else items[0]["current_period_start"]
        changed = {
            **items[0],
            "price": price,
            "quantity": quantity,
            "current_period_start": start,
            "current_period_end": end,
        }
        plain["items"] = list_of([changed], "/v1/subscription_items")
        if restarts:
            plain["billing_cycle_anchor"] = now
    account.change(subscription, "customer.subscription.updated", **plain)
    if subscription["status"] == "active" and (
        restarts or (owed > 0 and given.get("proration_behavior") == "always_invoice")
    ):
        invoice = bill(
            account,
            subscription,
            "subscription_update",
            now,
            plain["items"]["data"][0]["current_period_end"],
            None if restarts else owed,
        )
        subscription = account.change(
            account.get("subscription", subscription["id"]),
            "customer.subscription.updated",
            latest_invoice=invoice["id"],
        )
        charge(account, invoice)
    return account.get("subscription", subscription["id"])


def own_method(account: Account, name: str, customer: str) -> Object:
    paid_with = account.referred("payment_method", name, "default_payment_method")
    if paid_with["customer"] != customer:
        raise Refused(
            f"The customer does not have a payment method with the ID {name}. It must be attached to the customer.",
            code="resource_missing",
            param="default_payment_method",
        )
    return paid_with


def cancellation(account: Account, subscription: Object, *, at_period_end: bool, by_portal: bool = False) -> Object:
    """The fields that say it; in flexible billing mode a customer at the portal sets `cancel_at` alone."""
    end = subscription["items"]["data"][0]["current_period_end"]
    return {
        "cancel_at": end if at_period_end else None,
        "cancel_at_period_end": at_period_end and not by_portal,
        "canceled_at": account.now() if at_period_end else None,
        "cancellation_details": {
            **subscription["cancellation_details"],
            "reason": "cancellation_requested" if at_period_end else None,
        },
    }


def end(account: Account, subscription: Object, reason: str = "cancellation_requested") -> Object:
    """Its open invoices stay open and can still be paid; they are only no longer collected."""
    now = account.now()
    for invoice in account.store.all("invoice"):
        if subscription_of(invoice) == subscription["id"] and invoice["status"] == "open":
            account.change(invoice, "invoice.updated", auto_advance=False, next_payment_attempt=None)
    return account.change(
        subscription,
        "customer.subscription.deleted",
        status="canceled",
        canceled_at=subscription["canceled_at"] or now,
        ended_at=now,
        cancellation_details={**subscription["cancellation_details"], "reason": reason},
    )


def fall_due(account: Account, thing: Object) -> None:
    match thing["object"], thing["status"]:
        case "subscription", "incomplete":
            void(account, account.get("invoice", thing["latest_invoice"]))
            account.change(thing, "customer.subscription.updated", status="incomplete_expired", ended_at=account.now())
        case "subscription", _ if thing["cancel_at"] and thing["cancel_at"] <= account.now():
            end(account, thing)
        case "subscription", _:
            _renew(account, thing)
        case "invoice", _:
            charge(account, thing)
        case "checkout.session", _:
            account.change(thing, "checkout.session.expired", status="expired")


def _renew(account: Account, subscription: Object) -> None:
    items = subscription["items"]["data"]
    start = items[0]["current_period_end"]
    until = after(start, items[0]["price"]["recurring"], subscription["billing_cycle_anchor"])
    rolled = [{**item, "current_period_start": start, "current_period_end": until} for item in items]
    invoice = bill(account, subscription, "subscription_cycle", start, until)
    status = "active" if subscription["status"] == "trialing" else subscription["status"]
    account.change(
        subscription,
        "customer.subscription.updated",
        items=list_of(rolled, "/v1/subscription_items"),
        latest_invoice=invoice["id"],
        status=status,
    )
    charge(account, invoice)


# Invoices ------------------------------------------------------------------------------------------------------------


def bill(
    account: Account,
    subscription: Object,
    reason: str,
    start: int,
    until: int,
    amount: int | None = None,
    *,
    free: bool = False,
) -> Object:
    name, now = account.name("invoice"), account.now()
    lines = [_line(account, name, item, start, until, 0 if free else amount) for item in subscription["items"]["data"]]
    total = sum(line["amount"] for line in lines)
    customer = account.get("customer", subscription["customer"])
    invoice = account.new(
        "invoice",
        id=name,
        amount_due=total,
        amount_remaining=total,
        billing_reason=reason,
        collection_method=subscription["collection_method"],
        currency=subscription["currency"],
        customer=customer["id"],
        customer_email=customer["email"],
        hosted_invoice_url=f"{account.address}/",
        lines=list_of(lines, f"/v1/invoices/{name}/lines"),
        number=secrets.token_hex(4).upper() + "-0001",
        parent={
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": subscription["metadata"], "subscription": subscription["id"]},
        },
        period_start=start,
        period_end=until,
        status_transitions={"finalized_at": now, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None},
        subtotal=total,
        total=total,
    )
    if total:
        saves = subscription["payment_settings"]["save_default_payment_method"] == "on_subscription"
        intent = payments.intend(
            account,
            total,
            subscription["currency"],
            customer["id"],
            description="Subscription creation" if reason == "subscription_create" else "Subscription update",
            setup_future_usage="off_session" if saves or reason == "subscription_create" else None,
            _invoice=name,
        )
        account.change(invoice, None, _intent=intent["id"])
    account.tell("invoice.created", invoice)
    account.tell("invoice.finalized", invoice)
    if not total:
        paid(account, invoice, None)
    return invoice


def _line(account: Account, invoice: str, item: Object, start: int, until: int, amount: int | None) -> Object:
    price = item["price"]
    return {
        "id": account.name("line_item"),
        "object": "line_item",
        "amount": price["unit_amount"] * item["quantity"] if amount is None else amount,
        "currency": price["currency"],
        "description": None,
        "invoice": invoice,
        "livemode": False,
        "metadata": {},
        "parent": {
            "type": "subscription_item_details",
            "subscription_item_details": {
                "invoice_item": None,
                "proration": amount is not None,
                "subscription": item["subscription"],
                "subscription_item": item["id"],
            },
        },
        "period": {"start": start, "end": until},
        "pricing": {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
    }


def charge(account: Account, invoice: Object, paid_with: Object | None = None) -> None:
    """Collect what is due with the card on file, with nobody there to be asked."""
    if invoice["status"] != "open":
        return
    subscription = account.get("subscription", subscription_of(invoice))
    customer = account.get("customer", invoice["customer"])
    on_file = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    if not paid_with and on_file:
        paid_with = account.get("payment_method", on_file)
    intent = account.get("payment_intent", invoice["_intent"])
    if paid_with and intent["status"] in payments.OPEN:
        payments.confirm(account, intent, paid_with, off_session=True)
    else:
        payment_failed(account, invoice)


def paid(account: Account, invoice: Object, by: Object | None) -> None:
    now = account.now()
    account.change(
        invoice,
        None,
        status="paid",
        attempted=True,
        attempt_count=invoice["attempt_count"] + (by is not None),
        amount_paid=invoice["total"],
        amount_remaining=0,
        auto_advance=False,
        next_payment_attempt=None,
        status_transitions={**invoice["status_transitions"], "paid_at": now},
        _charge=by["id"] if by else None,
    )
    account.tell("invoice.paid", invoice)
    account.tell("invoice.payment_succeeded", invoice)
    subscription = account.get("subscription", subscription_of(invoice))
    if by is None or subscription["status"] not in {"incomplete", "past_due", "unpaid", "active"}:
        return
    card = subscription["default_payment_method"]
    if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
        card = by["payment_method"]
    account.change(subscription, "customer.subscription.updated", status="active", default_payment_method=card)


def payment_failed(account: Account, invoice: Object, *, needs_action: bool = False) -> None:
    """A renewal is tried again on the days of the plan; the first payment is the customer's to try again."""
    tries, subscription = invoice["attempt_count"] + 1, account.get("subscription", subscription_of(invoice))
    renews = subscription["status"] in LIVE
    last = tries > len(RETRY_AFTER_DAYS)
    again = invoice["status_transitions"]["finalized_at"] + sum(RETRY_AFTER_DAYS[:tries]) * DAY
    event = "invoice.payment_action_required" if needs_action else "invoice.payment_failed"
    again_at = again if renews and not last and invoice["auto_advance"] else None
    account.change(invoice, event, attempted=True, attempt_count=tries, next_payment_attempt=again_at)
    if renews and last:
        end(account, subscription, "payment_failed")
    elif subscription["status"] in {"active", "trialing"}:
        account.change(subscription, "customer.subscription.updated", status="past_due")


def void(account: Account, invoice: Object) -> Object:
    if invoice["status"] not in {"open", "uncollectible"}:
        raise Refused(f"You can only pass in open or uncollectible invoices. This invoice is {invoice['status']}.")
    intent = invoice["_intent"] and account.get("payment_intent", invoice["_intent"])
    if intent and intent["status"] in payments.OPEN:
        payments.cancel(account, intent, "void_invoice")
    gone = {**invoice["status_transitions"], "voided_at": account.now()}
    return account.change(
        invoice, "invoice.voided", status="void", auto_advance=False, next_payment_attempt=None, status_transitions=gone
    )


def subscription_of(invoice: Object) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


def intend_set_up(account: Account, customer: str | None, **fields: Any) -> Object:
    name = account.name("setup_intent")
    secret = f"{name}_secret_{secrets.token_hex(12)}"
    return account.new(
        "setup_intent", "setup_intent.created", id=name, client_secret=secret, customer=customer, **fields
    )


# Prices and periods --------------------------------------------------------------------------------------------------


def price_of(account: Account, item: Object, param: str) -> tuple[Object, int]:
    price = account.referred("price", item.get("price"), param)
    if not price["active"]:
        raise Refused("The price specified is inactive. This field only accepts active prices.", param=param)
    return price, int(item.get("quantity", 1))


def list_of(things: list[Object], url: str) -> Object:
    return {"object": "list", "data": things, "has_more": False, "total_count": len(things), "url": url}


def after(moment: int, recurring: Object, anchor: int) -> int:
    """The end of the period that begins then: the day of the month of the anchor, or the month's last."""
    count, interval = recurring["interval_count"], recurring["interval"]
    if interval in {"day", "week"}:
        return int(moment + count * DAY * (7 if interval == "week" else 1))
    at, day = datetime.fromtimestamp(moment, UTC), datetime.fromtimestamp(anchor, UTC).day
    months = at.month - 1 + count * (12 if interval == "year" else 1)
    year, month = at.year + months // 12, months % 12 + 1
    return int(at.replace(year=year, month=month, day=min(day, calendar.monthrange(year, month)[1])).timestamp())
