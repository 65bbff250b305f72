"""Products and prices."""

from decimal import Decimal

from local.stripe import money
from local.stripe.account import Account
from local.stripe.api import resource, route, update
from local.stripe.errors import ApiError
from local.stripe.parameters import picked
from local.stripe.store import Object

INTERVAL = "interval!:(day|week|month|year) interval_count:positive"
PERIOD = f"{{{INTERVAL}}}"
RECURRING = f"{{{INTERVAL} usage_type:(licensed|metered) trial_period_days:count}}"
ONCE = "currency!:currency unit_amount:count unit_amount_decimal:decimal tax_behavior:(exclusive|inclusive|unspecified)"
# The longest period Stripe accepts: three years.
LONGEST = {"day": 1095, "week": 156, "month": 36, "year": 3}
MOST_DECIMALS = 12

resource("products", "product", filters="created:range active:bool ids[]")
resource(
    "prices",
    "price",
    filters="created:range active:bool product currency:currency type:(one_time|recurring) lookup_keys[]"
    " recurring{interval usage_type}",
)


@route(
    "POST /v1/products",
    "id name! active:bool description metadata:metadata statement_descriptor tax_code unit_label"
    f" default_price_data{{{ONCE} recurring{PERIOD} metadata:metadata}}",
)
def create_product(account: Account, values: Object, _place: dict[str, str]) -> Object:
    if values.get("id") and account.store.get(values["id"]):
        raise ApiError("Product already exists.", code="resource_already_exists", param="id")
    default = values.pop("default_price_data", None)
    product = account.new("product", None, **values, updated=account.now())
    if default:
        price = new_price(account, {**default, "product": product["id"]})
        account.change(product, None, default_price=price["id"])
    account.announce("product.created", product)
    return product


@route(
    "POST /v1/products/{id}",
    "name active:bool description default_price metadata:metadata statement_descriptor tax_code unit_label",
)
def update_product(account: Account, values: Object, place: dict[str, str]) -> Object:
    return update("product", "product.updated")(account, {**values, "updated": account.now()}, place)


@route(
    "POST /v1/prices",
    f"{ONCE} recurring{RECURRING} product product_data{{name! metadata:metadata}} active:bool lookup_key"
    " metadata:metadata nickname transfer_lookup_key:bool",
)
def create_price(account: Account, values: Object, _place: dict[str, str]) -> Object:
    if data := values.pop("product_data", None):
        values["product"] = create_product(account, data, {})["id"]
    if not values.get("product"):
        raise ApiError("You must specify either `product` or `product_data` when creating a price.", param="product")
    account.referred("product", values["product"], "product")
    _free_lookup_key(account, values)
    values.pop("transfer_lookup_key", None)
    return new_price(account, values)


@route(
    "POST /v1/prices/{id}",
    "active:bool metadata:metadata nickname lookup_key transfer_lookup_key:bool"
    " tax_behavior:(exclusive|inclusive|unspecified)",
)
def update_price(account: Account, values: Object, place: dict[str, str]) -> Object:
    price = account.get("price", place["id"])
    if values.get("tax_behavior", price["tax_behavior"]) != price["tax_behavior"] != "unspecified":
        raise ApiError("You cannot change `tax_behavior` once it is specified.", param="tax_behavior")
    _free_lookup_key(account, values, price["id"])
    values.pop("transfer_lookup_key", None)
    return update("price", "price.updated")(account, values, place)


def new_price(account: Account, values: Object) -> Object:
    amount, exact = values.get("unit_amount"), values.get("unit_amount_decimal")
    if (amount is None) == (exact is None):
        raise ApiError("You must specify exactly one of `unit_amount` and `unit_amount_decimal`.", param="unit_amount")
    exact = Decimal(amount or 0) if exact is None else exact
    if exact < 0 or -int(exact.normalize().as_tuple().exponent) > MOST_DECIMALS:
        raise ApiError(
            f"Invalid decimal: {exact}; must be at least 0 with at most {MOST_DECIMALS} decimal places",
            code="parameter_invalid_integer",
            param="unit_amount_decimal",
        )
    money.check_last_digit(exact, values["currency"], "unit_amount")
    recurring = values.get("recurring")
    if recurring:
        recurring = {
            "interval_count": 1,
            "usage_type": "licensed",
            "meter": None,
            "trial_period_days": None,
            **recurring,
        }
        if recurring["usage_type"] == "metered":
            raise ApiError("The double does not imitate metered prices.", param="recurring[usage_type]")
        if recurring["interval_count"] > LONGEST[recurring["interval"]]:
            raise ApiError("A period can be at most three years long.", param="recurring[interval_count]")
    whole = exact == exact.to_integral_value()
    return account.new(
        "price",
        "price.created",
        **picked(values, "active currency lookup_key metadata nickname product tax_behavior"),
        recurring=recurring,
        type="recurring" if recurring else "one_time",
        unit_amount=int(exact) if whole else None,
        unit_amount_decimal=f"{exact.normalize():f}",
    )


def _free_lookup_key(account: Account, values: Object, own: str | None = None) -> None:
    for other in account.store.all("price"):
        if values.get("lookup_key") and other["lookup_key"] == values["lookup_key"] and other["id"] != own:
            if not values.get("transfer_lookup_key"):
                raise ApiError(f"A price (`{other['id']}`) already uses that lookup key.", param="lookup_key")
            account.change(other, "price.updated", lookup_key=None)


def price_of(account: Account, item: Object, param: str, *, recurring: bool | None = None) -> Object:
    """The price an item names or describes (`price_data`)."""
    if data := item.get("price_data"):
        if "product_data" in data:
            data["product"] = create_product(account, data.pop("product_data"), {})["id"]
        account.referred("product", data.get("product"), f"{param}[price_data][product]")
        price = new_price(account, data)
    else:
        if not item.get("price"):
            raise ApiError(
                f"Missing required param: {param}[price].", code="parameter_missing", param=f"{param}[price]"
            )
        price = account.referred("price", item["price"], f"{param}[price]")
        if not (price["active"] or item.get("scheduled")):
            raise ApiError(
                "The price specified is inactive. This field only accepts active prices.", param=f"{param}[price]"
            )
    if recurring is not None and bool(price["recurring"]) != recurring:
        is_type, needed = price["type"], "recurring" if recurring else "one_time"
        raise ApiError(
            f"The price specified is set to `type={is_type}` but this field only accepts prices with `type={needed}`.",
            param=f"{param}[price]",
        )
    return price


def plan_of(price: Object) -> Object:
    """The legacy `plan` that items still have beside their price."""
    recurring = price["recurring"]
    return {
        **picked(price, "id active billing_scheme created currency livemode metadata nickname product tiers_mode"),
        **picked(recurring, "interval interval_count meter trial_period_days usage_type"),
        "object": "plan",
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "transform_usage": None,
    }


def name_of(account: Account, price: Object) -> str:
    return str(account.get("product", price["product"])["name"])


def described(account: Account, price: Object, quantity: int) -> str:
    """As a line of an invoice says it: `2 × Growth (at $699.00 / month)`."""
    amount = money.formatted(money.amount_of(price, 1), price["currency"])
    recurring = price["recurring"]
    every = ""
    if recurring:
        count = recurring["interval_count"]
        every = f" / {recurring['interval']}" if count == 1 else f" / every {count} {recurring['interval']}s"
    return f"{quantity} × {name_of(account, price)} (at {amount}{every})"
