"""Invoice items: what waits for the next invoice of a customer, prorations among them."""

from local.stripe import money, taxes
from local.stripe.account import Account
from local.stripe.api import resource, route, update
from local.stripe.coupons import DISCOUNTS, redeem
from local.stripe.errors import ApiError
from local.stripe.lines import add_lines, line, pricing
from local.stripe.parameters import merged
from local.stripe.prices import price_of
from local.stripe.store import Object

resource("invoiceitems", "invoiceitem", filters="created:range customer invoice pending:bool")


@route(
    "POST /v1/invoiceitems",
    "customer! amount:int currency:currency description discountable:bool invoice"
    " metadata:metadata period{start!:time end!:time} pricing{price} quantity:count subscription tax_rates[]"
    f" unit_amount_decimal:decimal {DISCOUNTS}",
)
def create_invoice_item(account: Account, values: Object, _place: dict[str, str]) -> Object:
    customer = account.referred("customer", values["customer"], "customer")
    name, quantity = (values.get("pricing") or {}).get("price"), values.get("quantity", 1)
    price = price_of(account, {"price": name}, "pricing", recurring=False) if name else None
    if (price is None) == ("amount" not in values and "unit_amount_decimal" not in values):
        raise ApiError("You must pass either `pricing` or `amount` with `currency`.", param="amount")
    if not price and not values.get("currency"):
        raise ApiError("Missing required param: currency.", code="parameter_missing", param="currency")
    amount = values.get("amount")
    if amount is None:
        amount = money.amount_of(price or {"unit_amount_decimal": str(values["unit_amount_decimal"])}, quantity)
    owner = None
    if subscription := values.get("subscription"):
        owner = account.referred("subscription", subscription, "subscription")
    invoice = None
    if values.get("invoice"):
        invoice = account.referred("invoice", values["invoice"], "invoice")
        if invoice["status"] != "draft":
            raise ApiError(
                "You can only add invoice items to a draft invoice.", code="invoice_not_editable", param="invoice"
            )
    now, currency = account.now(), price["currency"] if price else values["currency"]
    made = new_item(
        account,
        customer["id"],
        amount=amount,
        currency=currency,
        description=values.get("description"),
        discountable=values.get("discountable", True),
        invoice=invoice["id"] if invoice else None,
        metadata=values.get("metadata", {}),
        period=values.get("period") or {"start": now, "end": now},
        price=price,
        quantity=quantity,
        subscription=owner["id"] if owner else None,
        tax_rates=taxes.check_rates(account, values.get("tax_rates"), "tax_rates"),
    )
    if values.get("discounts"):
        names = redeem(account, values["discounts"], amount, currency, customer=customer["id"], invoice_item=made["id"])
        account.change(made, None, discounts=names)
    if invoice:
        add_lines(account, invoice, [line_of(account, invoice["id"], made)])
    return made


@route(
    "POST /v1/invoiceitems/{id}",
    "amount:int description discountable:bool metadata:metadata quantity:count period{start!:time end!:time}",
)
def update_invoice_item(account: Account, values: Object, place: dict[str, str]) -> Object:
    _expect_pending(account, place["id"])
    return update("invoiceitem", None)(account, values, place)


@route("DELETE /v1/invoiceitems/{id}")
def delete_invoice_item(account: Account, _values: Object, place: dict[str, str]) -> Object:
    item = _expect_pending(account, place["id"])
    account.change(item, "invoiceitem.deleted", deleted=True)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


def _expect_pending(account: Account, name: str) -> Object:
    item = account.get("invoiceitem", name)
    if item.get("deleted"):
        raise account.missing("invoiceitem", name)
    if item["invoice"] and account.get("invoice", item["invoice"])["status"] != "draft":
        raise ApiError(
            "You can only change an invoice item before its invoice is finalized.", code="invoice_not_editable"
        )
    return item


def new_item(
    account: Account,
    customer: str,
    *,
    amount: int,
    currency: str,
    description: str | None,
    period: Object,
    price: Object | None = None,
    quantity: int = 1,
    subscription: str | None = None,
    item: str | None = None,
    proration: bool = False,
    tax_rates: list[Object] | None = None,
    **more: object,
) -> Object:
    details = {"subscription": subscription, "subscription_item": item}
    return account.new(
        "invoiceitem",
        "invoiceitem.created",
        **{name: value for name, value in more.items() if value is not None},
        amount=amount,
        currency=currency,
        customer=customer,
        date=account.now(),
        description=description,
        net_amount=amount,
        parent={"type": "subscription_details", "subscription_details": details} if subscription else None,
        period=period,
        pricing=pricing(price) if price else None,
        proration=proration,
        proration_details={"credited_items": None, "discount_amounts": []} if proration else None,
        quantity=quantity,
        quantity_decimal=str(quantity),
        tax_rates=tax_rates or [],
        _price=price["id"] if price else None,
    )


def subscription_of(item: Object) -> str | None:
    return str(item["parent"]["subscription_details"]["subscription"]) if item["parent"] else None


def pending(account: Account, customer: str, subscription: str | None, currency: str) -> list[Object]:
    """Oldest first: what waits for an invoice of this subscription, or of the customer alone."""
    found = account.store.of("invoiceitem", customer)
    return [
        item
        for item in found
        if not item["invoice"]
        and not item.get("deleted")
        and item["currency"] == currency
        and subscription_of(item) in {None, subscription}
    ][::-1]


def line_of(account: Account, invoice: str, item: Object) -> Object:
    """The item as a line of an invoice; from then on it is no longer pending."""
    if item["invoice"] != invoice:
        account.change(item, None, invoice=invoice)
    owner = item["parent"]["subscription_details"] if item["parent"] else {}
    proration = {"credited_items": None}
    if owner.get("subscription_item"):
        parent: Object = {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": item["id"],
                "proration": item["proration"],
                "proration_details": proration,
                **owner,
            },
        }
    else:
        parent = {
            "type": "invoice_item_details",
            "subscription_item_details": None,
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": item["proration"],
                "proration_details": proration,
                "subscription": owner.get("subscription"),
            },
        }
    return line(
        account,
        invoice,
        amount=item["amount"],
        currency=item["currency"],
        description=item["description"],
        period=(item["period"]["start"], item["period"]["end"]),
        parent=parent,
        price=account.get("price", item["_price"]) if item["_price"] else None,
        quantity=item["quantity"],
        discountable=item["discountable"],
        discounts=item["discounts"],
        rates=[rate["id"] for rate in item["tax_rates"]],
        metadata=merged({}, item["metadata"]),
        subscription=owner.get("subscription"),
    )
