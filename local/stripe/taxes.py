"""Tax rates, automatic tax by the customer's address, and tax ids."""

import re
from decimal import Decimal
from typing import Any

from local.stripe import money
from local.stripe.account import Account
from local.stripe.api import list_of, resource, route
from local.stripe.errors import ApiError, missing
from local.stripe.expansion import INCLUDED, includes
from local.stripe.store import Object

# What the double collects where `automatic_tax` is enabled; it has no registrations. Other countries: not collecting.
COUNTRIES = {"AT": 20, "AU": 10, "BE": 21, "CH": 8.1, "DE": 19, "DK": 25, "ES": 21, "FI": 25.5, "FR": 20, "GB": 20,
             "IE": 23, "IT": 22, "JP": 10, "NL": 21, "NO": 25, "PL": 23, "PT": 23, "SE": 25}  # fmt: skip
STATES = {"CA": 7.25, "IL": 6.25, "NY": 4, "TX": 6.25, "WA": 6.5}
TAX_IDS = {
    "eu_vat": r"[A-Z]{2}[0-9A-Z]{2,13}",
    "gb_vat": r"GB\d{9}|GB\d{12}",
    "us_ein": r"\d{2}-\d{7}",
    "ch_vat": r"CHE.*",
    "au_abn": r"\d{11}",
    "jp_cn": r"\d{13}",
    "no_vat": r"\d{9}MVA",
    "ca_bn": r"\d{9}",
    "in_gst": r"[0-9A-Z]{15}",
}

resource(
    "tax_rates",
    "tax_rate",
    filters="created:range active:bool inclusive:bool",
    fields="active:bool display_name description jurisdiction country state tax_type",
)


@route(
    "POST /v1/tax_rates",
    "display_name! inclusive!:bool percentage!:decimal active:bool country description jurisdiction"
    " metadata:metadata state tax_type:(gst|hst|igst|jct|pst|qst|rst|sales_tax|service_tax|vat)",
)
def create_tax_rate(account: Account, values: Object, _place: dict[str, str]) -> Object:
    if not 0 <= values["percentage"] <= 100:  # noqa: PLR2004 - a percentage
        raise ApiError("Invalid percentage: must be between 0 and 100", param="percentage")
    return account.new("tax_rate", "tax_rate.created", **{**values, "percentage": float(values["percentage"])})


@route("POST /v1/customers/{id}/tax_ids", f"type!:({'|'.join(TAX_IDS)}) value!")
def create_tax_id(account: Account, values: Object, place: dict[str, str]) -> Object:
    customer = account.get("customer", place["id"])
    if not re.fullmatch(TAX_IDS[values["type"]], values["value"].replace(" ", "")):
        raise ApiError(f"Invalid value for {values['type']}.", code="tax_id_invalid", param="value")
    return account.new(
        "tax_id",
        "customer.tax_id.created",
        **values,
        country=values["value"][:2] if values["type"].endswith("_vat") else None,
        customer=customer["id"],
        owner={"type": "customer", "customer": customer["id"], "customer_account": None},
    )


@route("GET /v1/customers/{id}/tax_ids", "limit:int")
def list_tax_ids(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return list_of(tax_ids(account, place["id"]), f"/v1/customers/{place['id']}/tax_ids")


@route("DELETE /v1/customers/{id}/tax_ids/{tax_id}")
def delete_tax_id(account: Account, _values: Object, place: dict[str, str]) -> Object:
    found = account.get("tax_id", place["tax_id"])
    if found["customer"] != place["id"] or found.get("deleted"):
        raise missing("tax id", place["tax_id"], "id", 404)
    account.change(found, "customer.tax_id.deleted", deleted=True)
    return {"id": found["id"], "object": "tax_id", "deleted": True}


def tax_ids(account: Account, customer: str) -> list[Object]:
    return [each for each in account.store.of("tax_id", customer) if not each.get("deleted")]


# Rates of a line -----------------------------------------------------------------------------------------------------


def check_rates(account: Account, names: list[str] | None, param: str) -> list[Object]:
    return [account.referred("tax_rate", name, f"{param}[{n}]") for n, name in enumerate(names or [])]


def location(customer: Object) -> str | None:
    address = customer["address"] or {}
    return address.get("country")


def expect_location(
    account: Account, customer: str, automatic_tax: Object | None, param: str = "automatic_tax"
) -> None:
    if automatic_tax and automatic_tax.get("enabled") and not location(account.get("customer", customer)):
        raise ApiError(
            "The customer's location isn't recognized. Set a valid customer address in order to automatically calculate"
            " tax.",
            code="customer_tax_location_invalid",
            param=f"{param}[enabled]",
        )


def automatic_rate(account: Account, customer: Object, behavior: str) -> Object | None:
    """The rate of the customer's country (or state), made when it is first needed; None where nothing is collected."""
    country, state = location(customer), (customer["address"] or {}).get("state")
    percentage = account.store.note("tax", STATES.get(state or "") if country == "US" else COUNTRIES.get(country or ""))
    if not percentage or customer["tax_exempt"] != "none":
        return None
    fields: dict[str, Any] = {
        "country": country,
        "state": state if country == "US" else None,
        "percentage": float(percentage),
        "inclusive": behavior == "inclusive",
    }
    for rate in account.store.all("tax_rate"):
        if rate.get("_automatic") and all(rate[name] == value for name, value in fields.items()):
            return rate
    kind, words = ("sales_tax", "Sales tax") if country == "US" else ("vat", "VAT")
    return account.new(
        "tax_rate",
        **fields,
        display_name=words,
        tax_type=kind,
        jurisdiction=state or country,
        jurisdiction_level="state" if country == "US" else "country",
        effective_percentage=float(percentage),
        _automatic=True,
    )


REASONS = {"exempt": "customer_exempt", "reverse": "reverse_charge"}


def taxes(account: Account, line: Object, net: int, customer: Object | None) -> list[Object]:
    """The taxes of a line after discounts: by its own rates, or by address where `customer` is given."""
    rates, reason = [account.get("tax_rate", name) for name in line["_rates"]], "standard_rated"
    if customer is not None:
        rate = automatic_rate(account, customer, line["_behavior"])
        rates, reason = ([rate], reason) if rate else ([], REASONS.get(customer["tax_exempt"], "not_collecting"))
        if not rate:
            return [_tax(0, net, "exclusive", None, reason)]
    inclusive = sum((Decimal(str(rate["percentage"])) for rate in rates if rate["inclusive"]), Decimal(0))
    base = Decimal(net) / (1 + inclusive / 100)
    reason = "standard_rated" if customer is not None else "not_available"
    found = []
    for rate in rates:
        amount = money.rounded(base * Decimal(str(rate["percentage"])) / 100)
        behavior = "inclusive" if rate["inclusive"] else "exclusive"
        found.append(_tax(amount, net - amount if rate["inclusive"] else net, behavior, rate["id"], reason))
    return found


def _tax(amount: int, taxable: int, behavior: str, rate: str | None, reason: str) -> Object:
    return {
        "amount": amount,
        "tax_behavior": behavior,
        "tax_rate_details": {"tax_rate": rate} if rate else None,
        "taxability_reason": reason,
        "taxable_amount": taxable,
        "type": "tax_rate_details",
    }


def _tax_of(_account: Account, customer: Object) -> Object:
    country = location(customer)
    state = (customer["address"] or {}).get("state")
    return {
        "automatic_tax": "supported" if country else "unrecognized_location",
        "ip_address": None,
        "location": {"country": country, "source": "billing_address", "state": state} if country else None,
        "provider": "stripe",
    }


INCLUDED["customer", "tax"] = _tax_of
includes("customer", "tax_ids", "tax_id", "customer", "customers")
