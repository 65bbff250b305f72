"""Lines of invoices, and the sums of an invoice: discounts, taxes, the customer's balance."""

from typing import Any

from local.stripe import coupons, money, taxes
from local.stripe.account import Account
from local.stripe.api import list_of
from local.stripe.periods import DAY
from local.stripe.prices import described
from local.stripe.store import Object


def line(
    account: Account,
    invoice: str,
    *,
    amount: int,
    currency: str,
    description: str | None,
    period: tuple[int, int],
    parent: Object,
    price: Object | None = None,
    quantity: int = 1,
    discountable: bool = True,
    discounts: list[str] | None = None,
    rates: list[str] | None = None,
    metadata: Object | None = None,
    subscription: str | None = None,
) -> Object:
    return {
        "id": account.name("line_item"),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": discountable,
        "discounts": discounts or [],
        "invoice": invoice,
        "livemode": False,
        "metadata": metadata or {},
        "parent": parent,
        "period": {"start": period[0], "end": period[1]},
        "pretax_credit_amounts": [],
        "pricing": pricing(price) if price else None,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription,
        "subtotal": amount,
        "taxes": [],
        "_rates": rates or [],
        "_behavior": price["tax_behavior"] if price else "exclusive",
        "_product": price["product"] if price else "",
    }


def pricing(price: Object) -> Object:
    return {
        "type": "price_details",
        "price_details": {"price": price["id"], "product": price["product"]},
        "unit_amount_decimal": price["unit_amount_decimal"],
    }


def item_line(
    account: Account,
    invoice: str,
    subscription: Object,
    item: Object,
    period: tuple[int, int],
    amount: int | None = None,
    description: str | None = None,
) -> Object:
    """One item of a subscription for one period; `amount` where it is not the price times the quantity."""
    price = item["price"]
    return line(
        account,
        invoice,
        amount=money.amount_of(price, item["quantity"]) if amount is None else amount,
        currency=price["currency"],
        description=description or described(account, price, item["quantity"]),
        period=period,
        parent={
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
        },
        price=price,
        quantity=item["quantity"],
        discounts=list(item["discounts"]),
        rates=rates_of(subscription, item),
        metadata=subscription["metadata"],
        subscription=subscription["id"],
    )


def rates_of(subscription: Object, item: Object) -> list[str]:
    return [rate["id"] for rate in item["tax_rates"] or subscription["default_tax_rates"] or []]


def total(account: Account, invoice: Object, lines: list[Object], customer: Object) -> None:
    """Set the sums of an invoice and of its lines."""
    own = [name for each in lines for name in each["discounts"]]
    for each in lines:
        each["discount_amounts"], each["taxes"] = [], []
    for name in dict.fromkeys([*own, *invoice["discounts"]]):
        discount = account.get("discount", name)
        reach = [
            (
                _net(each)
                if each["discountable"] and (name in each["discounts"] or name in invoice["discounts"])
                else 0,
                each["_product"],
            )
            for each in lines
        ]
        for each, amount in zip(lines, coupons.amounts(coupons.coupon_of(account, discount), reach), strict=True):
            if amount:
                each["discount_amounts"].append({"amount": amount, "discount": name})
    automatic = invoice["automatic_tax"]["enabled"]
    located = customer if automatic and taxes.location(customer) else None
    for each in lines:
        each["taxes"] = taxes.taxes(account, each, _net(each), located) if located or each["_rates"] else []
    subtotal = sum(each["amount"] for each in lines)
    all_taxes = [tax for each in lines for tax in each["taxes"]]
    discounted = sum(_net(each) for each in lines)
    full = discounted + sum(tax["amount"] for tax in all_taxes if tax["tax_behavior"] == "exclusive")
    inclusive = sum(tax["amount"] for tax in all_taxes if tax["tax_behavior"] == "inclusive")
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal - inclusive,
        total=full,
        total_discount_amounts=_summed([each for line in lines for each in line["discount_amounts"]], ("discount",)),
        total_excluding_tax=discounted - inclusive,
        total_pretax_credit_amounts=[],
        total_taxes=_summed(all_taxes, ("tax_rate_details", "tax_behavior", "taxability_reason")),
        **_due(full, invoice["currency"], customer),
    )
    if automatic:
        status = "complete" if located else "requires_location_inputs"
        invoice["automatic_tax"] = {**invoice["automatic_tax"], "status": status, "provider": "stripe"}


def add_lines(account: Account, invoice: Object, more: list[Object]) -> Object:
    """More lines for a draft; without any, its sums are made again."""
    lines = [*invoice["lines"]["data"], *more]
    total(account, invoice, lines, account.get("customer", invoice["customer"]))
    return account.change(invoice, "invoice.updated", lines=list_of(lines, f"/v1/invoices/{invoice['id']}/lines"))


def _net(each: Object) -> int:
    return int(each["amount"] - sum(discount["amount"] for discount in each["discount_amounts"]))


def _summed(entries: list[Object], by: tuple[str, ...]) -> list[Object]:
    found: dict[str, Object] = {}
    for entry in entries:
        same = found.setdefault(repr([entry[name] for name in by]), {**entry, "amount": 0, "taxable_amount": 0})
        same["amount"] += entry["amount"]
        same["taxable_amount"] += entry.get("taxable_amount") or 0
    if "discount" in by:
        return [{"amount": each["amount"], "discount": each["discount"]} for each in found.values()]
    return list(found.values())


def _due(full: int, currency: str, customer: Object) -> Object:
    """What is due after the customer's balance: credit is used up, debt and too small amounts are carried on."""
    balance = customer["balance"] if customer["currency"] in {None, currency} else 0
    due = max(0, full + balance)
    ending = full + balance - due
    if 0 < due < money.smallest(currency):
        due, ending = 0, due
    return {"starting_balance": balance, "_ending_balance": ending, "amount_due": due, "amount_remaining": due}


def net_amounts(account: Account, subscription: Object, items: list[Object]) -> list[int]:
    """What the items cost for a full period after the discounts that are current: the base of prorations."""
    probe: list[Object] = [item_line(account, "", subscription, item, (0, DAY)) for item in items]
    fake: dict[str, Any] = {
        "discounts": current_discounts(account, subscription),
        "automatic_tax": {"enabled": False},
        "currency": subscription["currency"],
    }
    total(account, fake, probe, account.get("customer", subscription["customer"]))
    return [_net(each) for each in probe]


def current_discounts(account: Account, subscription: Object, at: int | None = None) -> list[str]:
    """The discounts of a subscription, else that of its customer."""
    customer = account.get("customer", subscription["customer"])
    names = list(subscription["discounts"])
    if not names and not customer.get("deleted") and customer["discount"]:
        names = [customer["discount"]["id"]]
    return [name for name in names if coupons.is_current(account, account.get("discount", name), at)]
