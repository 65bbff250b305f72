"""What a checkout session costs: its rows, discounts and taxes."""

from local.stripe import coupons, lines, money
from local.stripe.account import Account
from local.stripe.errors import ApiError
from local.stripe.parameters import picked
from local.stripe.prices import name_of, price_of
from local.stripe.store import Object

NO_CUSTOMER = {"id": None, "balance": 0, "currency": None, "address": None, "tax_exempt": "none"}


def rows(account: Account, values: Object) -> list[Object]:
    made = []
    for n, each in enumerate(values.get("line_items") or []):
        price = price_of(account, each, f"line_items[{n}]")
        if values["mode"] == "payment" and price["recurring"]:
            raise ApiError(
                "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or"
                " use only"
                " one-time prices.",
                param="mode",
            )
        if each.get("quantity") is None:
            param = f"line_items[{n}][quantity]"
            raise ApiError(
                "Quantity is required. Add `quantity` to `" + param[:-10] + "`", code="parameter_missing", param=param
            )
        made.append(
            {
                "id": account.name("item"),
                "price": price["id"],
                "currency": price["currency"],
                "recurring": price["recurring"],
                "quantity": each["quantity"],
                "tax_rates": each.get("tax_rates") or [],
                "metadata": each.get("metadata") or {},
                "adjustable_quantity": each.get("adjustable_quantity"),
            }
        )
    if values["mode"] == "subscription" and not any(row["recurring"] for row in made):
        raise ApiError(
            "You must provide at least one recurring price in `subscription` mode when using prices.",
            param="line_items",
        )
    if len({row["currency"] for row in made}) > 1:
        raise ApiError("All line items must have the same currency.", param="line_items")
    return made


def update(account: Account, session: Object, customer: Object | None = None) -> None:
    """Make the sums of a session again, after a code or an address was entered."""
    customer = customer or (account.get("customer", session["customer"]) if session["customer"] else NO_CUSTOMER)
    drafts, invoice = _priced(account, session, customer)
    if not drafts:
        return
    discounts = [
        {"coupon": each.get("coupon"), "promotion_code": each.get("promotion_code")} for each in session["_discounts"]
    ]
    session |= {
        "amount_subtotal": invoice["subtotal"],
        "amount_total": invoice["total"],
        "discounts": discounts,
        "total_details": {
            "amount_discount": sum(each["amount"] for each in invoice["total_discount_amounts"]),
            "amount_shipping": 0,
            "amount_tax": sum(each["amount"] for each in invoice["total_taxes"]),
        },
    }
    if session["automatic_tax"]["enabled"]:
        status = invoice["automatic_tax"]["status"]
        session["automatic_tax"] = {**session["automatic_tax"], "status": status, "provider": "stripe"}


def items_of(account: Account, session: Object) -> list[Object]:
    customer = account.get("customer", session["customer"]) if session["customer"] else NO_CUSTOMER
    drafts, _ = _priced(account, session, customer)
    made = []
    for row, draft in zip(session["_rows"], drafts, strict=True):
        discount = sum(each["amount"] for each in draft["discount_amounts"])
        exclusive = sum(tax["amount"] for tax in draft["taxes"] if tax["tax_behavior"] == "exclusive")
        made.append(
            {
                **picked(row, "id quantity metadata adjustable_quantity currency"),
                "object": "item",
                "amount_discount": discount,
                "amount_subtotal": draft["amount"],
                "amount_tax": sum(tax["amount"] for tax in draft["taxes"]),
                "amount_total": draft["amount"] - discount + exclusive,
                "description": draft["description"],
                "price": account.get("price", row["price"]),
            }
        )
    return made


def _priced(account: Account, session: Object, customer: Object) -> tuple[list[Object], Object]:
    """The rows as lines of an invoice. Discounts are redeemed for the sums only, and that is undone."""
    data = session["_data"].get("subscription_data", {})
    trial = bool(data.get("trial_period_days") or data.get("trial_end"))
    drafts = []
    for row in session["_rows"]:
        price = account.get("price", row["price"])
        amount = 0 if trial and row["recurring"] else money.amount_of(price, row["quantity"])
        drafts.append(
            lines.line(
                account,
                "",
                amount=amount,
                currency=price["currency"],
                description=name_of(account, price),
                period=(0, 0),
                parent={},
                price=price,
                quantity=row["quantity"],
                rates=row["tax_rates"] or (data.get("default_tax_rates") if row["recurring"] else None),
            )
        )
    invoice: Object = {
        "discounts": [],
        "currency": session["currency"],
        "automatic_tax": {"enabled": session["automatic_tax"]["enabled"], "status": None},
    }
    if drafts:
        with account.store.rehearsal():
            full = sum(draft["amount"] for draft in drafts) or sum(
                money.amount_of(account.get("price", row["price"]), row["quantity"]) for row in session["_rows"]
            )
            invoice["discounts"] = coupons.redeem(
                account,
                session["_discounts"],
                full,
                session["currency"],
                customer=session["customer"],
                checkout_session=session["id"],
            )
            lines.total(account, invoice, drafts, customer)
    return drafts, invoice
