"""Items of subscriptions: read from parameters, priced, and their share of a period prorated."""

from datetime import UTC, datetime

from local.stripe import coupons, invoice_items, money, taxes
from local.stripe.account import Account
from local.stripe.errors import ApiError, missing
from local.stripe.lines import net_amounts, rates_of
from local.stripe.prices import ONCE, PERIOD, name_of, plan_of, price_of
from local.stripe.store import Object

PRICE_DATA = f"price_data{{{ONCE} product recurring!{PERIOD}}}"
NEW_ITEMS = f"items[]{{price {PRICE_DATA} quantity:count tax_rates[] metadata:metadata {coupons.DISCOUNTS}}}"
CHANGED_ITEMS = (
    f"items[]{{id price {PRICE_DATA} quantity:count deleted:bool tax_rates[] metadata:metadata {coupons.DISCOUNTS}}}"
)
EXTRA = f"add_invoice_items[]{{price price_data{{{ONCE} product!}} quantity:count tax_rates[]}}"
MOST_ITEMS = 20


def new_item(account: Account, given: Object, subscription: str, period: tuple[int, int], param: str) -> Object:
    price = price_of(account, given, param, recurring=True)
    return {
        "id": account.name("subscription_item"),
        "object": "subscription_item",
        "billed_until": None,
        "billing_thresholds": None,
        "created": account.now(),
        "current_period_start": period[0],
        "current_period_end": period[1],
        "discounts": [],
        "metadata": given.get("metadata") or {},
        "plan": plan_of(price),
        "price": price,
        "quantity": given.get("quantity", 1),
        "subscription": subscription,
        "tax_rates": taxes.check_rates(account, given.get("tax_rates"), f"{param}[tax_rates]"),
        "_debits": [],  # what was billed for the current period: the base of credits
    }


def changed_items(account: Account, subscription: Object, given: list[Object]) -> list[Object]:
    """The items after an update: named ones are changed or deleted, others added, the rest stays."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    first = next(iter(items.values()))
    period = first["current_period_start"], first["current_period_end"]
    for n, each in enumerate(given):
        param = f"items[{n}]"
        if not (name := each.get("id")):
            added = new_item(account, each, subscription["id"], period, param)
            items[added["id"]] = _discounted(account, subscription, added, each, param)
        elif name not in items:
            raise missing("subscription item", name, f"{param}[id]")
        elif each.get("deleted"):
            del items[name]
        else:
            changed = _changed(account, items[name], each, param)
            items[name] = _discounted(account, subscription, changed, each, param)
    if not items:
        raise ApiError(
            "A subscription must have at least one item; cancel it instead of deleting the last one.", param="items"
        )
    check_items(list(items.values()), subscription["currency"])
    return list(items.values())


def _changed(account: Account, item: Object, given: Object, param: str) -> Object:
    fields: Object = {name: given[name] for name in ("quantity", "metadata") if name in given}
    if given.get("price") not in {None, item["price"]["id"]} or given.get("price_data"):
        price = price_of(account, given, param, recurring=True)
        fields |= {"price": price, "plan": plan_of(price)}
    if "tax_rates" in given:
        fields["tax_rates"] = taxes.check_rates(account, given["tax_rates"], f"{param}[tax_rates]")
    return {**item, **fields}


def _discounted(account: Account, subscription: Object, item: Object, given: Object, param: str) -> Object:
    """The item with the discounts that the parameters name for it."""
    if "discounts" not in given:
        return item
    owner = {"customer": subscription["customer"], "subscription": subscription["id"], "subscription_item": item["id"]}
    names = coupons.redeem(
        account, given["discounts"], amount([item]), subscription["currency"], f"{param}[discounts]", **owner
    )
    return {**item, "discounts": names}


def check_items(items: list[Object], currency: str | None = None) -> None:
    if len(items) > MOST_ITEMS:
        raise ApiError(f"A subscription can have at most {MOST_ITEMS} items (found {len(items)}).", param="items")
    prices = [item["price"] for item in items]
    if len({price["id"] for price in prices}) < len(prices):
        raise ApiError("Cannot add multiple subscription items with the same price.", param="items")
    for price in prices:
        if currency and price["currency"] != currency:
            raise ApiError(
                f"The price specified only supports `{price['currency']}`. This doesn't match the expected currency:"
                f" `{currency}`.",
                param="items",
            )
    if len({price["currency"] for price in prices}) > 1:
        raise ApiError("All prices on a subscription must have the same `currency`.", param="items")
    intervals = {(price["recurring"]["interval"], price["recurring"]["interval_count"]) for price in prices}
    if len(intervals) > 1:
        raise ApiError(
            "All prices on a subscription must have the same `recurring.interval` and `recurring.interval_count`. If"
            " you"
            " meant to update an existing subscription item instead of creating a new one, make sure to include the"
            " subscription item ID in your request.",
            param="items",
        )


def amount(items: list[Object]) -> int:
    return sum(money.amount_of(item["price"], item["quantity"]) for item in items)


def billed(
    account: Account,
    subscription: Object,
    items: list[Object],
    period: tuple[int, int],
    share: tuple[int, int] = (1, 1),
) -> list[Object]:
    """The items with a note of what is billed for a period, after discounts."""
    amounts = net_amounts(account, subscription, items)
    return [
        {
            **item,
            "current_period_start": period[0],
            "current_period_end": period[1],
            "_debits": [{"amount": money.share(net, *share), "start": period[0], "end": period[1]}],
        }
        for item, net in zip(items, amounts, strict=True)
    ]


# Proration -----------------------------------------------------------------------------------------------------------


def differs(old: Object | None, new: Object | None) -> bool:
    if not old or not new:
        return old is not new
    return bool(old["price"]["id"] != new["price"]["id"] or old["quantity"] != new["quantity"])


def credit_unused(account: Account, subscription: Object, item: Object, at: int) -> None:
    """Give back what was billed for the time after `at`."""
    unused = [
        money.share(debit["amount"], debit["end"] - at, debit["end"] - debit["start"])
        for debit in item["_debits"]
        if debit["start"] <= at < debit["end"]
    ]
    if unused:
        words = f"Unused time on {_counted(account, item)} after {_day(at)}"
        _prorate(account, subscription, item, -sum(unused), words, (at, item["current_period_end"]))


def debit_remaining(account: Account, subscription: Object, item: Object, net: int, at: int) -> Object:
    """Bill the time that remains of the period; the item then notes this as billed."""
    start, end = item["current_period_start"], item["current_period_end"]
    owed = money.share(net, end - at, end - start)
    if at < end:
        words = f"Remaining time on {_counted(account, item)} after {_day(at)}"
        _prorate(account, subscription, item, owed, words, (at, end))
    return {**item, "_debits": [{"amount": owed, "start": at, "end": end}]}


def _prorate(
    account: Account, subscription: Object, item: Object, amount: int, words: str, period: tuple[int, int]
) -> None:
    invoice_items.new_item(
        account,
        subscription["customer"],
        amount=amount,
        currency=subscription["currency"],
        description=words,
        discountable=False,  # discounts are included in the amount
        period={"start": period[0], "end": period[1]},
        price=item["price"],
        quantity=item["quantity"],
        subscription=subscription["id"],
        item=item["id"],
        proration=True,
        tax_rates=[account.get("tax_rate", name) for name in rates_of(subscription, item)],
    )


def _counted(account: Account, item: Object) -> str:
    name, quantity = name_of(account, item["price"]), item["quantity"]
    return name if quantity == 1 else f"{quantity} × {name}"


def _day(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%d %b %Y}"
