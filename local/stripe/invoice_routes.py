"""The routes of invoices."""

from local.stripe import collection, invoice_items, taxes
from local.stripe.account import Account
from local.stripe.api import resource, route, update
from local.stripe.coupons import DISCOUNTS, redeem
from local.stripe.errors import ApiError
from local.stripe.invoices import AUTOMATIC, cancel_payment, finalize, issue, void, write_off
from local.stripe.parameters import picked
from local.stripe.payment_methods import find
from local.stripe.store import Object

DETAILS = (
    "auto_advance:bool collection_method:(charge_automatically|send_invoice) days_until_due:count description footer"
    f" default_payment_method default_tax_rates[] due_date:time metadata:metadata {AUTOMATIC} {DISCOUNTS}"
)

resource(
    "invoices",
    "invoice",
    filters="created:range customer subscription status:(draft|open|paid|uncollectible|void) due_date:range"
    " collection_method:(charge_automatically|send_invoice)",
)


@route(
    "POST /v1/invoices",
    f"customer! currency:currency subscription {DETAILS} pending_invoice_items_behavior:(exclude|include)",
)
def create_invoice(account: Account, values: Object, _place: dict[str, str]) -> Object:
    customer = account.referred("customer", values["customer"], "customer")
    owner = (
        account.referred("subscription", values["subscription"], "subscription") if values.get("subscription") else None
    )
    currency = values.get("currency") or (owner or customer)["currency"] or "usd"
    takes = owner is not None or values.get("pending_invoice_items_behavior") == "include"
    waiting = invoice_items.pending(account, customer["id"], owner["id"] if owner else None, currency) if takes else []
    if owner and not waiting:
        raise ApiError("Nothing to invoice for subscription", code="invoice_no_subscription_line_items")
    taxes.expect_location(account, customer["id"], values.get("automatic_tax"))
    name, now = account.name("invoice"), account.now()
    discounts = redeem(account, values.get("discounts") or [], 0, currency, customer=customer["id"], invoice=name)
    if not discounts and "discounts" not in values and customer["discount"]:
        discounts = [customer["discount"]["id"]]
    fields = picked(
        values,
        "auto_advance collection_method days_until_due description footer metadata due_date default_payment_method",
    )
    if values.get("automatic_tax"):
        fields["automatic_tax"] = {
            "disabled_reason": None,
            "liability": None,
            "provider": None,
            "status": None,
            **values["automatic_tax"],
        }
    lines = [invoice_items.line_of(account, name, item) for item in waiting]
    rates = taxes.check_rates(account, values.get("default_tax_rates"), "default_tax_rates")
    for each in lines:
        each["_rates"] = each["_rates"] or [rate["id"] for rate in rates]
    return issue(
        account,
        customer["id"],
        lines,
        name=name,
        currency=currency,
        reason="manual",
        period=(now, now),
        subscription=owner,
        discounts=discounts,
        default_tax_rates=rates,
        **{"auto_advance": False, **fields},
    )


@route(
    "POST /v1/invoices/{id}",
    "auto_advance:bool description footer metadata:metadata default_payment_method due_date:time",
)
def update_invoice(account: Account, values: Object, place: dict[str, str]) -> Object:
    return update("invoice", "invoice.updated")(account, values, place)


@route("DELETE /v1/invoices/{id}")
def delete_invoice(account: Account, _values: Object, place: dict[str, str]) -> Object:
    invoice = account.get("invoice", place["id"])
    if invoice["status"] != "draft" or invoice["parent"]:
        raise ApiError("You can only delete draft invoices without a subscription.", code="invoice_not_editable")
    account.change(invoice, "invoice.deleted", deleted=True)
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


@route("GET /v1/invoices/{id}/lines", "limit:int starting_after ending_before")
def list_lines(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return dict(account.get("invoice", place["id"])["lines"])


@route("POST /v1/invoices/{id}/finalize", "auto_advance:bool")
def finalize_invoice(account: Account, values: Object, place: dict[str, str]) -> Object:
    invoice = account.get("invoice", place["id"])
    if "auto_advance" in values:
        account.change(invoice, None, auto_advance=values["auto_advance"])
    invoice = finalize(account, invoice)
    if (
        invoice["status"] == "open"
        and invoice["auto_advance"]
        and invoice["collection_method"] == "charge_automatically"
    ):
        account.change(invoice, None, next_payment_attempt=account.now() + 3600)
    return account.get("invoice", invoice["id"])


@route("POST /v1/invoices/{id}/pay", "payment_method off_session:bool paid_out_of_band:bool")
def pay_invoice(account: Account, values: Object, place: dict[str, str]) -> Object:
    invoice = account.get("invoice", place["id"])
    if invoice["status"] == "draft":
        invoice = finalize(account, invoice)
    if invoice["status"] not in {"open", "uncollectible"}:
        raise ApiError(f"Invoice is already {invoice['status']}", code="invoice_not_open")
    if values.get("paid_out_of_band"):
        cancel_payment(account, invoice)
        collection.paid(account, account.get("invoice", invoice["id"]), None, out_of_band=True)
        return account.get("invoice", invoice["id"])
    paid_with = find(account, values["payment_method"]) if values.get("payment_method") else None
    if not paid_with and not collection.card_on_file(account, collection.owner(account, invoice), invoice["customer"]):
        raise ApiError(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set one, or pass"
            " `payment_method`.",
            code="missing",
        )
    invoice = collection.charge(account, invoice, paid_with)
    if invoice["status"] != "paid":
        intent = account.get("payment_intent", invoice["_intent"])
        error = intent["last_payment_error"] or {
            "message": "The payment needs authentication.",
            "code": "invoice_payment_intent_requires_action",
        }
        raise ApiError(
            error["message"],
            status=402,
            kind="card_error",
            code=error["code"],
            decline_code=error.get("decline_code"),
            kept=True,
        )
    return invoice


@route("POST /v1/invoices/{id}/send")
def send_invoice(account: Account, _values: Object, place: dict[str, str]) -> Object:
    invoice = account.get("invoice", place["id"])
    if invoice["status"] == "draft":
        invoice = finalize(account, invoice)
    account.announce("invoice.sent", invoice)
    return invoice


@route("POST /v1/invoices/{id}/void")
def void_invoice(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return void(account, account.get("invoice", place["id"]))


@route("POST /v1/invoices/{id}/mark_uncollectible")
def mark_uncollectible(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return write_off(account, account.get("invoice", place["id"]))
