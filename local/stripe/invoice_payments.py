"""Which payment belongs to which invoice, since `invoice.payment_intent` is gone."""

from local.stripe.account import Account
from local.stripe.api import FILTERS, resource
from local.stripe.expansion import includes
from local.stripe.store import Object

resource(
    "invoice_payments",
    "invoice_payment",
    filters="created:range invoice status:(open|paid|canceled) payment{type!:(payment_intent) payment_intent}",
)
FILTERS["payment"] = lambda thing, wanted: wanted.get(wanted["type"]) in {None, thing["payment"].get(wanted["type"])}


def begin(account: Account, invoice: Object, intent: Object) -> Object:
    return account.new(
        "invoice_payment",
        amount_requested=intent["amount"],
        currency=invoice["currency"],
        invoice=invoice["id"],
        payment={"type": "payment_intent", "payment_intent": intent["id"]},
    )


def settle(account: Account, invoice: Object, status: str) -> None:
    """`paid` or `canceled`."""
    for payment in of(account, invoice["id"]):
        if payment["status"] == "open":
            fields = {"status": status, "amount_paid": payment["amount_requested"] if status == "paid" else None}
            moments = {**payment["status_transitions"], f"{status}_at": account.now()}
            account.change(payment, None, **fields, status_transitions=moments)
            if status == "paid":
                account.announce("invoice_payment.paid", payment)


def of(account: Account, invoice: str) -> list[Object]:
    return account.store.of("invoice_payment", invoice)


includes("invoice", "payments", "invoice_payment", "invoice", "invoices")
