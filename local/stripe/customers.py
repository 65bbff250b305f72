"""Customers and their default payment method."""

from local.stripe import coupons, endings, payment_methods, taxes
from local.stripe.account import Account
from local.stripe.api import listing, resource, route, update
from local.stripe.errors import ApiError
from local.stripe.store import Object

ADDRESS = "{city country line1 line2 postal_code state}"
FIELDS = (
    f"name email:email phone description address{ADDRESS} shipping{{name! phone address!{ADDRESS}}} metadata:metadata"
    " balance:int preferred_locales[] tax_exempt:(none|exempt|reverse) invoice_prefix"
    " invoice_settings{default_payment_method footer}"
)

resource("customers", "customer", filters="created:range email test_clock")


@route(
    "POST /v1/customers",
    f"{FIELDS} payment_method test_clock tax_id_data[]{{type!:({'|'.join(taxes.TAX_IDS)}) value!}}",
)
def create_customer(account: Account, values: Object, _place: dict[str, str]) -> Object:
    paid_with, settings = values.pop("payment_method", None), values.pop("invoice_settings", None)
    tax_ids, clock = values.pop("tax_id_data", []), values.pop("test_clock", None)
    if clock:
        expect_room(account, account.referred("test_helpers.test_clock", clock, "test_clock")["id"])
    prefix = values.pop("invoice_prefix", None)
    customer = account.new("customer", None, **_checked(values))
    account.change(customer, None, invoice_prefix=prefix or customer["id"][-8:].upper())
    account.announce("customer.created", customer)
    for each in tax_ids:
        taxes.create_tax_id(account, each, {"id": customer["id"]})
    if paid_with:
        try:
            attached = payment_methods.attach(account, payment_methods.find(account, paid_with), customer["id"])
        except ApiError as error:
            error.kept = False  # no customer without the card
            raise
        # The name of a test card stands for the payment method that was just made of it.
        if settings and settings.get("default_payment_method") == paid_with:
            settings["default_payment_method"] = attached["id"]
    return _set_defaults(account, customer, settings) if settings else customer


LARGEST_CLOCK = 3


def expect_room(account: Account, clock: str) -> None:
    here = [each for each in account.store.all("customer") if each.get("_clock") == clock and not each.get("deleted")]
    if len(here) >= LARGEST_CLOCK:
        raise ApiError(f"A test clock can have at most {LARGEST_CLOCK} customers.", param="test_clock")


@route("POST /v1/customers/{id}", FIELDS)
def update_customer(account: Account, values: Object, place: dict[str, str]) -> Object:
    settings = values.pop("invoice_settings", None)
    customer = update("customer", "customer.updated")(account, _checked(values), place)
    return _set_defaults(account, customer, settings) if settings else customer


def _checked(values: Object) -> Object:
    """Addresses have all their members; numbers may not be unset."""
    if values.get("address"):
        values["address"] = full_address(values["address"])
    return {name: value for name, value in values.items() if value is not None or name not in {"balance", "tax_exempt"}}


def full_address(address: Object) -> Object:
    country = address.get("country")
    if country and (len(country) != 2 or not country.isalpha()):  # noqa: PLR2004 - ISO 3166-1 alpha-2
        raise ApiError(
            f"Country '{country}' is unknown. Try using a 2-character alphanumeric country code instead, such as 'US'.",
            param="address[country]",
        )
    return {**dict.fromkeys(ADDRESS.strip("{}").split()), **address, "country": country and country.upper()}


def _set_defaults(account: Account, customer: Object, settings: Object) -> Object:
    if card := settings.get("default_payment_method"):
        settings["default_payment_method"] = own_method(
            account, card, customer["id"], "invoice_settings[default_payment_method]"
        )["id"]
    merged = {**customer["invoice_settings"], **settings}
    return account.change(account.get("customer", customer["id"]), "customer.updated", invoice_settings=merged)


def own_method(account: Account, name: str, customer: str, param: str = "default_payment_method") -> Object:
    paid_with = account.referred("payment_method", name, param)
    if paid_with["customer"] != customer:
        raise ApiError(
            f"The customer does not have a payment method with the ID {name}. The payment method must be attached to"
            f" the"
            " customer.",
            code="resource_missing",
            param=param,
        )
    return paid_with


@route("DELETE /v1/customers/{id}")
def delete_customer(account: Account, _values: Object, place: dict[str, str]) -> Object:
    customer = account.get("customer", place["id"])
    if customer.get("deleted"):
        raise account.missing("customer", place["id"])
    for subscription in account.store.of("subscription", customer["id"]):
        if not subscription["ended_at"]:
            endings.end(account, subscription)
    account.announce("customer.deleted", customer)
    gone = {"id": customer["id"], "object": "customer", "deleted": True, "_clock": customer.get("_clock")}
    account.put(gone)
    return gone


@route("DELETE /v1/customers/{id}/discount")
def delete_customer_discount(account: Account, _values: Object, place: dict[str, str]) -> Object:
    customer = account.get("customer", place["id"])
    discount = customer["discount"]
    if not discount:
        raise ApiError("This customer has no discount.", status=404, code="resource_missing", param="id")
    account.change(customer, "customer.updated", discount=None)
    coupons.drop(account, account.get("discount", discount["id"]))
    return {"id": discount["id"], "object": "discount", "deleted": True}


@route("GET /v1/customers/{id}/payment_methods", "type limit:int starting_after ending_before")
def list_payment_methods(account: Account, values: Object, place: dict[str, str]) -> Object:
    customer = account.get("customer", place["id"])
    listed = listing("payment_method", f"/v1/customers/{place['id']}/payment_methods")
    return listed(account, {**values, "customer": customer["id"]}, place)
