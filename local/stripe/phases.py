"""The phases of a schedule, read from parameters."""

from local.stripe import coupons, invoices, items, taxes
from local.stripe.account import Account
from local.stripe.customers import own_method
from local.stripe.errors import ApiError
from local.stripe.periods import after
from local.stripe.prices import price_of
from local.stripe.store import Object

NEW_PHASES = (
    f"phases[]{{{items.NEW_ITEMS} {coupons.DISCOUNTS} {invoices.AUTOMATIC} end_date:moment"
    " duration{interval!:(day|week|month|year) interval_count:positive} currency:currency"
    " proration_behavior:(always_invoice|create_prorations|none) trial:bool trial_end:time default_payment_method"
    " default_tax_rates[] collection_method:(charge_automatically|send_invoice) description metadata:metadata"
    " billing_cycle_anchor:(automatic|phase_start)}"
)
PHASES = NEW_PHASES.removesuffix("}") + " start_date:moment}"
MOST_PHASES = 10


def read_phases(account: Account, given: list[Object], start: int, customer: str) -> list[Object]:
    if len(given) > MOST_PHASES:
        raise ApiError(f"A schedule can have at most {MOST_PHASES} phases.", param="phases")
    made = []
    for n, each in enumerate(given):
        param = f"phases[{n}]"
        if not each.get("items"):
            raise ApiError(
                f"Missing required param: {param}[items].", code="parameter_missing", param=f"{param}[items]"
            )
        begins = each.get("start_date")
        begins = start if begins in {None, "now"} else int(begins)
        if n and begins != start:
            raise ApiError("A phase must begin when the one before it ends.", param=f"{param}[start_date]")
        phase = {**new_phase(account, each, customer, param), "start_date": begins}
        phase["end_date"] = start = _end(account, each, begins, phase)
        if phase["end_date"] <= begins:
            raise ApiError("The end date of a phase must be after its start date.", param=f"{param}[end_date]")
        if phase["trial_end"] is None and each.get("trial"):
            phase["trial_end"] = phase["end_date"]
        made.append(phase)
    return made


def _end(account: Account, given: Object, begins: int, phase: Object) -> int:
    if (moment := given.get("end_date")) is not None:
        return account.now() if moment == "now" else int(moment)
    length = given.get("duration") or account.get("price", phase["items"][0]["price"])["recurring"]
    return after(begins, {"interval_count": 1, **length}, begins)


def new_phase(account: Account, given: Object, customer: str, param: str = "phases[0]") -> Object:
    card = given.get("default_payment_method")
    prices = [price_of(account, each, f"{param}[items][{n}]", recurring=True) for n, each in enumerate(given["items"])]
    rates = [
        taxes.check_rates(account, each.get("tax_rates"), f"{param}[items][{n}][tax_rates]")
        for n, each in enumerate(given["items"])
    ]
    automatic = given.get("automatic_tax")
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "liability": None, **automatic} if automatic else None,
        "billing_cycle_anchor": given.get("billing_cycle_anchor"),
        "billing_thresholds": None,
        "collection_method": given.get("collection_method"),
        "currency": prices[0]["currency"] if prices else "usd",
        "default_payment_method": own_method(account, card, customer)["id"] if card else None,
        "default_tax_rates": taxes.check_rates(account, given.get("default_tax_rates"), f"{param}[default_tax_rates]"),
        "description": given.get("description"),
        "discounts": [_full_discount(each) for each in given.get("discounts") or []],
        "invoice_settings": None,
        "items": [
            phase_item(price, each.get("quantity", 1), each.get("metadata") or {}, rate, each.get("discounts"))
            for price, each, rate in zip(prices, given["items"], rates, strict=True)
        ],
        "metadata": given.get("metadata") or {},
        "on_behalf_of": None,
        "proration_behavior": given.get("proration_behavior", "create_prorations"),
        "transfer_data": None,
        "trial_end": given.get("trial_end"),
    }


def phase_item(
    price: Object, quantity: int, metadata: Object, rates: list[Object], discounts: list[Object] | None = None
) -> Object:
    return {
        "billing_thresholds": None,
        "discounts": [_full_discount(each) for each in discounts or []],
        "metadata": metadata,
        "plan": price["id"],
        "price": price["id"],
        "quantity": quantity,
        "tax_rates": rates,
    }


def phase_discount(name: str) -> Object:
    return _full_discount({"discount": name})


def _full_discount(given: Object) -> Object:
    return {"coupon": None, "discount": None, "promotion_code": None, **given}
