"""Hosted invoices, their PDF, receipts and credit notes."""

from html import escape
from typing import TYPE_CHECKING

from local.stripe import money
from local.stripe.errors import ApiError
from local.stripe.gateway import Response
from local.stripe.pages.html import amount, cards, chosen_card, day, form, good, link, page, state, table
from local.stripe.pages.pdf import pdf
from local.stripe.store import Object

if TYPE_CHECKING:
    from local.stripe.server import Double


def show(double: "Double", name: str) -> Response:
    invoice = double.account.get("invoice", name)
    currency = invoice["currency"]
    body = f"<p>{escape(invoice['customer_email'] or '')} {state(invoice['status'])}</p>"
    rows = [[escape(words), amount(value, currency)] for words, value in _rows(invoice)]
    body += table(rows)
    if invoice["status"] == "open":
        body += form(cards(), pay=f"pay|Pay {money.formatted(invoice['amount_remaining'], currency)}")
    elif invoice["status"] == "paid":
        body += good(f"Paid on {day(invoice['status_transitions']['paid_at'])}.")
    pdf_link = link(f"/invoice/{name}/pdf", "PDF") if invoice["number"] else ""
    return page(f"Invoice {invoice['number'] or '(draft)'}", f"{body}<p>{pdf_link} {link('/', 'All objects')}</p>")


def act(double: "Double", name: str, given: dict[str, str]) -> None:
    """The customer is present, so that a bank may ask them."""
    invoice = double.account.get("invoice", name)
    if not invoice["_intent"] or invoice["status"] != "open":
        raise ApiError(f"This invoice is {invoice['status']}.")
    double.pay(invoice["_intent"], chosen_card(given))


def _rows(invoice: Object) -> list[tuple[str, int]]:
    rows = [(each["description"] or "Item", each["amount"]) for each in invoice["lines"]["data"]]
    rows += [("Discount", -each["amount"]) for each in invoice["total_discount_amounts"]]
    rows += [(f"Tax ({each['tax_behavior']})", each["amount"]) for each in invoice["total_taxes"] if each["amount"]]
    rows.append(("Total", invoice["total"]))
    applied = invoice["total"] - invoice["amount_due"]
    if applied:
        rows.append(("Applied balance and credit notes", -applied))
    return [*rows, ("Amount due", invoice["amount_due"]), ("Amount paid", invoice["amount_paid"])]


def show_pdf(double: "Double", name: str) -> Response:
    invoice = double.account.get("invoice", name)
    head = [
        f"Invoice {invoice['number']}",
        f"To: {invoice['customer_name'] or ''} {invoice['customer_email'] or ''}",
        f"Date: {day(invoice['created'])}   Status: {invoice['status']}",
        "",
    ]
    rows = [f"{money.formatted(value, invoice['currency']):>20}   {words}" for words, value in _rows(invoice)]
    return _file(f"{invoice['number'] or invoice['id']}.pdf", [*head, *rows])


def show_credit_note(double: "Double", name: str) -> Response:
    note = double.account.get("credit_note", name)
    text = f"{money.formatted(note['total'], note['currency'])} credited to invoice {note['invoice']}"
    return _file(f"{note['number']}.pdf", [f"Credit note {note['number']}", text])


def show_receipt(double: "Double", name: str) -> Response:
    charge = double.account.get("charge", name)
    card = charge["payment_method_details"]["card"]
    body = (
        f"<p>{amount(charge['amount'], charge['currency'])} paid by {escape(card['brand'])} … {escape(card['last4'])}"
    )
    body += f" on {day(charge['created'])} {state(charge['status'])}</p>"
    if charge["amount_refunded"]:
        body += f"<p>{amount(charge['amount_refunded'], charge['currency'])} refunded.</p>"
    return page("Receipt", body)


def _file(name: str, lines: list[str]) -> Response:
    headers = {"content-disposition": f'inline; filename="{name}"', "cache-control": "no-store"}
    return Response(200, pdf(lines), headers, "application/pdf")
