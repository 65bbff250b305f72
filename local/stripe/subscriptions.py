"""Subscriptions: how they begin, and the routes of them."""

from local.stripe import collection, coupons, cycles, invoice_items, invoices, items, money, setup_intents, taxes
from local.stripe.account import Account
from local.stripe.api import list_of, resource, route
from local.stripe.changes import UPDATE, change
from local.stripe.customers import own_method
from local.stripe.endings import DETAILS, end
from local.stripe.errors import ApiError
from local.stripe.expansion import includes
from local.stripe.lines import item_line, line
from local.stripe.parameters import merged, picked
from local.stripe.periods import DAY, after
from local.stripe.prices import described, price_of
from local.stripe.store import Object

CREATE = (
    f"{items.NEW_ITEMS} {items.EXTRA} {coupons.DISCOUNTS} {invoices.AUTOMATIC} customer! currency:currency"
    " billing_cycle_anchor:time"
    " cancel_at:ending cancel_at_period_end:bool collection_method:(charge_automatically|send_invoice)"
    " days_until_due:count"
    " default_payment_method default_tax_rates[] description metadata:metadata off_session:bool"
    " payment_behavior:(allow_incomplete|default_incomplete|error_if_incomplete|pending_if_incomplete)"
    " payment_settings{save_default_payment_method:(off|on_subscription) payment_method_types[]:(card)}"
    " proration_behavior:(always_invoice|create_prorations|none) trial_end:moment trial_period_days:positive"
    " trial_settings{end_behavior!{missing_payment_method!:(cancel|create_invoice|pause)}}"
    " billing_mode{type!:(flexible|classic) flexible{proration_discounts:(included)}}"
)
LONGEST_TRIAL_DAYS = 730

resource(
    "subscriptions",
    "subscription",
    filters="created:range customer price test_clock status:(active|past_due|unpaid|canceled|incomplete"
    "|incomplete_expired|trialing|paused|all|ended) collection_method:(charge_automatically|send_invoice)",
)


@route("POST /v1/subscriptions", CREATE)
def create_subscription(account: Account, values: Object, _place: dict[str, str]) -> Object:
    if not values.get("items"):
        raise ApiError("Missing required param: items.", code="parameter_missing", param="items")
    subscription = begin(account, values)
    behavior = values.get("payment_behavior", "allow_incomplete")
    invoice = account.get("invoice", subscription["latest_invoice"])
    if invoice["status"] == "open" and behavior != "default_incomplete" and not _is_sent(subscription):
        invoice = collection.charge(account, invoice)
        if invoice["status"] == "open" and behavior == "error_if_incomplete":
            error = account.get("payment_intent", invoice["_intent"])["last_payment_error"] or {}
            raise ApiError(
                error.get("message", "Your card was declined."),
                status=402,
                kind="card_error",
                code=error.get("code", "card_declined"),
                decline_code=error.get("decline_code"),
            )
    return account.get("subscription", subscription["id"])


def begin(account: Account, values: Object) -> Object:
    """A new subscription with its first invoice, finalized but not yet charged."""
    customer = account.referred("customer", values["customer"], "customer")
    now, name = account.now(), account.name("subscription")
    behavior, card = values.get("payment_behavior", "allow_incomplete"), values.get("default_payment_method")
    if card:
        own_method(account, card, customer["id"])
    made = [items.new_item(account, each, name, (now, now), f"items[{n}]") for n, each in enumerate(values["items"])]
    items.check_items(made)
    first, trial_end = made[0]["price"], _trial_end(values, now)
    anchor = _anchor(values, now, first) or trial_end or now
    until = trial_end or (anchor if anchor > now else after(now, first["recurring"], now))
    taxes.expect_location(account, customer["id"], values.get("automatic_tax"))
    on_file = card or customer["invoice_settings"]["default_payment_method"]
    if not (on_file or trial_end or behavior == "default_incomplete" or items.amount(made) == 0 or _is_sent(values)):
        message = (
            "This customer has no attached payment source or default payment method. Please consider adding a default"
            " payment method."
        )
        raise ApiError(message, code="resource_missing")
    if _is_sent(values) and values.get("days_until_due") is None:
        raise ApiError(
            "You must pass `days_until_due` when `collection_method` is `send_invoice`.", param="days_until_due"
        )
    subscription = account.new(
        "subscription",
        **picked(
            values,
            "collection_method days_until_due default_payment_method description metadata trial_settings",
        ),
        id=name,
        billing_cycle_anchor=anchor,
        cancel_at=until if isinstance(values.get("cancel_at"), str) else values.get("cancel_at"),  # items end together
        currency=first["currency"],
        customer=customer["id"],
        default_tax_rates=taxes.check_rates(account, values.get("default_tax_rates"), "default_tax_rates"),
        items=list_of(made, f"/v1/subscription_items?subscription={name}"),
        start_date=now,
        status="trialing" if trial_end else "active" if _is_sent(values) else "incomplete",
        trial_end=trial_end,
        trial_start=now if trial_end else None,
    )
    subscription["automatic_tax"] |= values.get("automatic_tax") or {}
    subscription["payment_settings"] |= values.get("payment_settings") or {}
    if mode := values.get("billing_mode"):
        flexible = {"proration_discounts": "included"} if mode["type"] == "flexible" else None
        subscription["billing_mode"] = {"type": mode["type"], "flexible": flexible}
    given = values.get("discounts") or []
    subscription["discounts"] = coupons.redeem(
        account, given, items.amount(made), first["currency"], customer=customer["id"], subscription=name
    )
    for item, each in zip(made, values["items"], strict=True):
        item["discounts"] = coupons.redeem(
            account,
            each.get("discounts") or [],
            items.amount([item]),
            first["currency"],
            customer=customer["id"],
            subscription=name,
            subscription_item=item["id"],
        )
    _bill_first(account, subscription, values, until, trial=bool(trial_end))
    subscription = account.get("subscription", name)
    if values.get("cancel_at_period_end"):
        subscription |= {"cancel_at_period_end": True, "cancel_at": until, "canceled_at": now}
    if subscription["cancel_at"]:
        subscription["canceled_at"] = now
        subscription["cancellation_details"] |= {"reason": "cancellation_requested"}
    if trial_end and not on_file:
        intent = setup_intents.intend(account, customer["id"], _subscription=name)
        subscription["pending_setup_intent"] = intent["id"]
    account.put(subscription)
    account.announce("customer.subscription.created", subscription)
    if trial_end and trial_end - now <= cycles.TRIAL_NOTICE:
        cycles.notice_trial_end(account, subscription)
    return account.get("subscription", name)


def _bill_first(account: Account, subscription: Object, values: Object, until: int, *, trial: bool) -> None:
    now, made, name = account.now(), subscription["items"]["data"], account.name("invoice")
    first = made[0]["price"]
    full = after(now, first["recurring"], now) - now
    share = (until - now, full) if not trial and until != now + full else (1, 1)
    if share != (1, 1) and values.get("proration_behavior") == "none":
        share = (0, 1)
    rows = items.billed(account, subscription, made, (now, until), (0, 1) if trial else share)
    subscription["items"]["data"] = rows
    account.put(subscription)
    lines = [
        item_line(
            account,
            name,
            subscription,
            item,
            (now, until),
            0 if trial else money.share(money.amount_of(item["price"], item["quantity"]), *share),
            f"Free trial for {described(account, item['price'], item['quantity'])}" if trial else None,
        )
        for item in rows
    ]
    lines += [
        _extra(account, name, each, f"add_invoice_items[{n}]")
        for n, each in enumerate(values.get("add_invoice_items") or [])
    ]
    waiting = invoice_items.pending(account, subscription["customer"], subscription["id"], subscription["currency"])
    lines += [invoice_items.line_of(account, name, item) for item in waiting]
    invoice = cycles.issue(account, subscription, lines, name, "subscription_create", (now, now))
    account.change(subscription, None, latest_invoice=invoice["id"])
    invoice = invoices.finalize(account, invoice)
    subscription = account.get("subscription", subscription["id"])
    if invoice["status"] == "paid" and subscription["status"] == "incomplete":
        account.change(subscription, None, status="active")


def _extra(account: Account, invoice: str, given: Object, param: str) -> Object:
    price, now, quantity = price_of(account, given, param, recurring=False), account.now(), given.get("quantity", 1)
    details = {
        "invoice_item": account.name("invoiceitem"),
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": None,
    }
    parent = {"type": "invoice_item_details", "subscription_item_details": None, "invoice_item_details": details}
    return line(
        account,
        invoice,
        amount=money.amount_of(price, quantity),
        currency=price["currency"],
        description=described(account, price, quantity),
        period=(now, now),
        parent=parent,
        price=price,
        quantity=quantity,
        rates=given.get("tax_rates") or [],
    )


def _is_sent(values: Object) -> bool:
    return values.get("collection_method") == "send_invoice"


def _trial_end(values: Object, now: int) -> int | None:
    days, moment = values.get("trial_period_days"), values.get("trial_end")
    if days and moment:
        raise ApiError(
            "You may only specify one of these parameters: trial_end, trial_period_days.", param="trial_period_days"
        )
    if moment == "now" or not (days or moment):
        return None
    until = now + days * DAY if days else int(moment or 0)
    if until <= now or until > now + LONGEST_TRIAL_DAYS * DAY:
        raise ApiError(
            f"Invalid timestamp: can be no more than {LONGEST_TRIAL_DAYS} days in the future, and must be after now",
            param="trial_end",
        )
    return until


def _anchor(values: Object, now: int, price: Object) -> int | None:
    anchor = values.get("billing_cycle_anchor")
    if anchor is not None and not now < anchor <= after(now, price["recurring"], now):
        raise ApiError(
            "billing_cycle_anchor must be after now and at most one period in the future.", param="billing_cycle_anchor"
        )
    return anchor


# Routes --------------------------------------------------------------------------------------------------------------


@route("POST /v1/subscriptions/{id}", UPDATE)
def update_subscription(account: Account, values: Object, place: dict[str, str]) -> Object:
    subscription = account.get("subscription", place["id"])
    if "metadata" in values:
        values["metadata"] = merged(subscription["metadata"], values["metadata"])
    return change(account, subscription, values)


@route("DELETE /v1/subscriptions/{id}", f"invoice_now:bool prorate:bool {DETAILS}")
def cancel_subscription(account: Account, values: Object, place: dict[str, str]) -> Object:
    subscription = account.get("subscription", place["id"])
    if subscription["ended_at"]:
        raise account.missing("subscription", place["id"])
    now = account.now()
    if values.get("prorate") and subscription["status"] in {"active", "past_due"}:
        for item in subscription["items"]["data"]:
            items.credit_unused(account, subscription, item, now)
    if values.get("invoice_now"):
        cycles.bill_pending(account, subscription, "subscription_update")
    subscription = account.get("subscription", place["id"])
    if subscription["status"] == "incomplete":
        invoice = account.get("invoice", subscription["latest_invoice"])
        account.change(invoice, None, auto_advance=False)
    return end(account, subscription, values=values.get("cancellation_details"))


@route("DELETE /v1/subscriptions/{id}/discount")
def delete_discount(account: Account, _values: Object, place: dict[str, str]) -> Object:
    subscription = account.get("subscription", place["id"])
    if not subscription["discounts"]:
        raise ApiError("This subscription has no discount.", status=404, code="resource_missing", param="id")
    names = subscription["discounts"]
    account.change(subscription, "customer.subscription.updated", discounts=[])
    for name in names:
        coupons.drop(account, account.get("discount", name))
    return {"id": names[0], "object": "discount", "deleted": True}


@route(
    "POST /v1/subscriptions/{id}/resume",
    "billing_cycle_anchor:(now|unchanged)"
    " proration_behavior:(always_invoice|create_prorations|none) proration_date:time",
)
def resume_subscription(account: Account, values: Object, place: dict[str, str]) -> Object:
    subscription = account.get("subscription", place["id"])
    if subscription["status"] != "paused":
        raise ApiError("Only subscriptions with a status of `paused` can be resumed.", param="id")
    return cycles.resume(account, subscription, anew=values.get("billing_cycle_anchor", "now") == "now")


includes("customer", "subscriptions", "subscription", "customer", "customers")
