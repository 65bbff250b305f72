"""Coupons, promotion codes, and the discounts they become."""

import re
import secrets
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from local.stripe import money
from local.stripe.account import Account
from local.stripe.api import resource, route, update
from local.stripe.errors import ApiError
from local.stripe.periods import months_after
from local.stripe.store import Object

# What a parameter `discounts` takes.
DISCOUNTS = "discounts[]{coupon promotion_code discount}"

resource("coupons", "coupon", fields="name")
resource("promotion_codes", "promotion_code", filters="created:range active:bool code coupon customer")


@route(
    "POST /v1/coupons",
    "id amount_off:positive currency:currency percent_off:decimal metadata:metadata name"
    " duration:(forever|once|repeating) duration_in_months:positive max_redemptions:positive redeem_by:time"
    " applies_to{products[]}",
)
def create_coupon(account: Account, values: Object, _place: dict[str, str]) -> Object:
    amount, percent = values.get("amount_off"), values.get("percent_off")
    if (amount is None) == (percent is None):
        raise ApiError("You must pass exactly one of `percent_off` and `amount_off`.", param="percent_off")
    if amount is not None and not values.get("currency"):
        raise ApiError("You must pass currency when passing amount_off.", code="parameter_missing", param="currency")
    if percent is not None:
        if not 0 < percent <= 100:  # noqa: PLR2004 - a percentage
            raise ApiError(
                f"Invalid percent_off: {percent} must be greater than 0 and at most 100", param="percent_off"
            )
        values["percent_off"] = float(percent)
    repeats = values.get("duration") == "repeating"
    if repeats != ("duration_in_months" in values):
        raise ApiError(
            "`duration_in_months` is required when, and only when, `duration` is `repeating`.",
            param="duration_in_months",
        )
    if values.get("redeem_by", account.now() + 1) <= account.now():
        raise ApiError("Invalid timestamp: `redeem_by` must be in the future", param="redeem_by")
    name = values.get("id") or secrets.token_urlsafe(6).replace("_", "x").replace("-", "y")
    if account.store.get(name):
        raise ApiError("Coupon already exists.", code="resource_already_exists", param="id")
    return account.new("coupon", "coupon.created", **{**values, "id": name})


@route("DELETE /v1/coupons/{id}")
def delete_coupon(account: Account, _values: Object, place: dict[str, str]) -> Object:
    """Discounts that exist keep their coupon; new ones are refused."""
    coupon = account.get("coupon", place["id"])
    account.change(coupon, None, valid=False, deleted=True)
    account.announce("coupon.deleted", coupon)
    return {"id": coupon["id"], "object": "coupon", "deleted": True}


@route(
    "POST /v1/promotion_codes",
    "promotion!{type!:(coupon) coupon!} code active:bool customer expires_at:time"
    " max_redemptions:positive metadata:metadata restrictions{first_time_transaction:bool minimum_amount:count"
    " minimum_amount_currency:currency}",
)
def create_promotion_code(account: Account, values: Object, _place: dict[str, str]) -> Object:
    param = "promotion[coupon]"
    coupon = account.referred("coupon", values.pop("promotion")["coupon"], param)
    if not is_valid(account, coupon):
        raise ApiError("This coupon is not valid: it expired or was redeemed as often as it can be.", param=param)
    if customer := values.get("customer"):
        account.referred("customer", customer, "customer")
    if values.get("expires_at", account.now() + 1) <= account.now():
        raise ApiError("Invalid timestamp: `expires_at` must be in the future", param="expires_at")
    code = values.pop("code", None) or secrets.token_hex(4).upper()
    if not re.fullmatch(r"[A-Za-z0-9-]+", code):
        raise ApiError("Invalid code: only letters, digits and dashes are accepted", param="code")
    for other in account.store.all("promotion_code"):
        if other["active"] and other["code"].lower() == code.lower() and other["customer"] == values.get("customer"):
            raise ApiError(
                "An active promotion code with `code: " + code + "` already exists.",
                code="resource_already_exists",
                param="code",
            )
    plain = {"first_time_transaction": False, "minimum_amount": None, "minimum_amount_currency": None}
    return account.new(
        "promotion_code",
        "promotion_code.created",
        **{**values, "restrictions": plain | (values.get("restrictions") or {})},
        code=code,
        promotion={"type": "coupon", "coupon": coupon["id"]},
    )


@route("POST /v1/promotion_codes/{id}", "active:bool metadata:metadata")
def update_promotion_code(account: Account, values: Object, place: dict[str, str]) -> Object:
    code = account.get("promotion_code", place["id"])
    if values.get("active") and not is_valid(account, account.get("coupon", code["promotion"]["coupon"])):
        raise ApiError("The promotion code cannot be activated: its coupon is not valid.", param="active")
    return update("promotion_code", "promotion_code.updated")(account, values, place)


# Redeeming -----------------------------------------------------------------------------------------------------------


def is_valid(account: Account, coupon: Object) -> bool:
    used_up = coupon["max_redemptions"] is not None and coupon["times_redeemed"] >= coupon["max_redemptions"]
    late = coupon["redeem_by"] is not None and coupon["redeem_by"] <= account.now()
    return bool(coupon["valid"]) and not used_up and not late


def redeem(
    account: Account, given: Sequence[Object], amount: int, currency: str, param: str = "discounts", **owner: Any
) -> list[str]:
    """Discounts of an owner (customer, subscription, …) from what a parameter `discounts` names."""
    made = []
    for n, each in enumerate(given):
        where = f"{param}[{n}]"
        if name := each.get("discount"):
            made.append(account.referred("discount", name, f"{where}[discount]")["id"])
            continue
        code = None
        if name := each.get("promotion_code"):
            code = account.referred("promotion_code", name, f"{where}[promotion_code]")
            check_code(account, code, owner.get("customer"), amount, currency, f"{where}[promotion_code]")
        coupon_name = code["promotion"]["coupon"] if code else each.get("coupon")
        coupon = account.get("coupon", coupon_name, f"{where}[coupon]", status=400)
        made.append(new_discount(account, coupon, code, currency, f"{where}[coupon]", **owner)["id"])
    return made


def new_discount(
    account: Account, coupon: Object, code: Object | None, currency: str, param: str, **owner: Any
) -> Object:
    if not is_valid(account, coupon):
        raise ApiError(f"Coupon expired: {coupon['id']}", code="coupon_expired", param=param)
    if coupon["amount_off"] and coupon["currency"] != currency:
        raise ApiError(
            f"The coupon {coupon['id']} is in {coupon['currency']}, but the prices are in {currency}.", param=param
        )
    for used in filter(None, (coupon, code)):
        used = account.get(used["object"], used["id"])  # noqa: PLW2901 - the newest of it
        fields: Object = {"times_redeemed": used["times_redeemed"] + 1}
        if used["object"] == "coupon":
            fields["valid"] = is_valid(account, {**used, **fields})
        elif used["max_redemptions"] is not None and fields["times_redeemed"] >= used["max_redemptions"]:
            fields["active"] = False
        account.change(used, f"{used['object']}.updated", **fields)
    now = account.now()
    discount = account.new(
        "discount",
        **owner,
        start=now,
        end=months_after(now, coupon["duration_in_months"]) if coupon["duration"] == "repeating" else None,
        promotion_code=code["id"] if code else None,
        source={"type": "coupon", "coupon": coupon["id"]},
    )
    if owner.get("customer") and not owner.get("invoice"):
        account.announce("customer.discount.created", discount)
    return discount


def check_code(account: Account, code: Object, customer: str | None, amount: int, currency: str, param: str) -> None:
    rules = code["restrictions"]
    late = code["expires_at"] is not None and code["expires_at"] <= account.now()
    if not code["active"] or late or not is_valid(account, account.get("coupon", code["promotion"]["coupon"])):
        raise ApiError("This promotion code is expired or inactive.", code="promotion_code_expired", param=param)
    if code["customer"] and code["customer"] != customer:
        message = "This promotion code cannot be redeemed by this customer."
        raise ApiError(message, code="promotion_code_customer_mismatch", param=param)
    if rules["first_time_transaction"] and customer and _has_paid(account, customer):
        raise ApiError(
            "This promotion code cannot be redeemed because the associated customer has prior transactions.",
            code="customer_has_prior_transactions",
            param=param,
        )
    if rules["minimum_amount"] and (currency != rules["minimum_amount_currency"] or amount < rules["minimum_amount"]):
        raise ApiError(
            "This promotion code cannot be redeemed because the amount is below the minimum of "
            f"{money.formatted(rules['minimum_amount'], rules['minimum_amount_currency'] or currency)}.",
            code="promotion_code_minimum_amount_not_met",
            param=param,
        )


def _has_paid(account: Account, customer: str) -> bool:
    return any(charge["paid"] for charge in account.store.of("charge", customer))


def is_current(account: Account, discount: Object, at: int | None = None) -> bool:
    at = account.now() if at is None else at
    return not discount.get("deleted") and (discount["end"] is None or discount["end"] > at)


def coupon_of(account: Account, discount: Object) -> Object:
    return account.get("coupon", discount["source"]["coupon"])


def drop(account: Account, discount: Object) -> None:
    """A discount that was used once or has ended."""
    account.change(discount, None, deleted=True)
    if discount["customer"]:
        account.announce("customer.discount.deleted", discount)


def by_code(account: Account, text: str) -> Object:
    """The promotion code a customer types."""
    for code in account.store.all("promotion_code"):
        if code["code"].lower() == text.strip().lower() and code["active"]:
            return code
    raise ApiError("This code is invalid.", code="resource_missing", param="promotion_code")


# The amount ----------------------------------------------------------------------------------------------------------


def amounts(coupon: Object, lines: Sequence[tuple[int, str]]) -> list[int]:
    """What a coupon takes off lines of (amount left, product)."""
    products = (coupon.get("applies_to") or {}).get("products")
    left = [amount if amount > 0 and (not products or product in products) else 0 for amount, product in lines]
    if coupon["percent_off"] is not None:
        percent = Decimal(str(coupon["percent_off"]))
        return [money.rounded(Decimal(amount) * percent / 100) for amount in left]
    return money.split(min(coupon["amount_off"], sum(left)), left)
