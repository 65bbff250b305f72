"""Credit notes: they lower an open invoice, or give back money of a paid one."""

from local.stripe import balances, collection, money, refunds
from local.stripe.account import Account
from local.stripe.api import list_of, resource, route, update
from local.stripe.errors import ApiError
from local.stripe.parameters import picked
from local.stripe.store import Object

resource("credit_notes", "credit_note", filters="created:range customer invoice")
LINES = (
    "lines[]{type!:(custom_line_item|invoice_line_item) invoice_line_item amount:positive quantity:count description"
    " unit_amount:count}"
)
FIELDS = (
    f"invoice! amount:positive {LINES} memo metadata:metadata"
    f" reason:(duplicate|fraudulent|order_change|product_unsatisfactory)"
    " refund_amount:count credit_amount:count out_of_band_amount:count refunds[]{refund! amount_refunded:positive}"
    " effective_at:time"
)


@route("POST /v1/credit_notes", FIELDS)
def create_credit_note(account: Account, values: Object, _place: dict[str, str]) -> Object:
    note = _build(account, values)
    invoice = account.get("invoice", note["invoice"])
    account.put(note)
    if note["pre_payment_amount"]:
        _lower(account, invoice, note["pre_payment_amount"])
    if note["post_payment_amount"]:
        credited = invoice["post_payment_credit_notes_amount"] + note["post_payment_amount"]
        account.change(invoice, "invoice.updated", post_payment_credit_notes_amount=credited)
        _give_back(account, note, invoice, values)
    account.announce("credit_note.created", note)
    return note


@route("GET /v1/credit_notes/preview", FIELDS)
def preview_credit_note(account: Account, values: Object, _place: dict[str, str]) -> Object:
    with account.store.rehearsal():
        return _build(account, values)


@route("POST /v1/credit_notes/{id}", "memo metadata:metadata")
def update_credit_note(account: Account, values: Object, place: dict[str, str]) -> Object:
    return update("credit_note", "credit_note.updated")(account, values, place)


@route("GET /v1/credit_notes/{id}/lines", "limit:int")
def list_lines(account: Account, _values: Object, place: dict[str, str]) -> Object:
    return dict(account.get("credit_note", place["id"])["lines"])


@route("POST /v1/credit_notes/{id}/void")
def void_credit_note(account: Account, _values: Object, place: dict[str, str]) -> Object:
    note = account.get("credit_note", place["id"])
    invoice = account.get("invoice", note["invoice"])
    if note["status"] == "void" or note["post_payment_amount"] or invoice["status"] != "open":
        raise ApiError("You can only void credit notes of open invoices.", param="id")
    _lower(account, invoice, -note["pre_payment_amount"])
    return account.change(note, "credit_note.voided", status="void", voided_at=account.now())


def _build(account: Account, values: Object) -> Object:
    invoice = account.referred("invoice", values["invoice"], "invoice")
    if invoice["status"] not in {"open", "paid"}:
        raise ApiError(
            f"You can only create credit notes for open or paid invoices; this one is {invoice['status']}.",
            param="invoice",
        )
    rows = _rows(account, values, invoice)
    subtotal = sum(row["amount"] for row in rows)
    tax = sum(each["amount"] for row in rows for each in row["taxes"] if each["tax_behavior"] == "exclusive")
    total = values.get("amount") or subtotal - sum(row["discount_amount"] for row in rows) + tax
    before = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
    if not 0 < total <= invoice["total"] - before:
        left = money.formatted(invoice["total"] - before, invoice["currency"])
        raise ApiError(
            f"The sum of credit notes for an invoice cannot be more than its total; {left} is left.", param="amount"
        )
    paid = invoice["status"] == "paid"
    person = account.get("customer", invoice["customer"])
    count = sum(note["invoice"] == invoice["id"] for note in account.store.of("credit_note", invoice["customer"])) + 1
    name = account.name("credit_note")
    return account.new(
        "credit_note",
        **picked(values, "memo metadata reason out_of_band_amount"),
        id=name,
        amount=total,
        currency=invoice["currency"],
        customer=person["id"],
        discount_amount=sum(row["discount_amount"] for row in rows),
        effective_at=values.get("effective_at") or account.now(),
        invoice=invoice["id"],
        lines=list_of(rows, f"/v1/credit_notes/{name}/lines"),
        number=f"{invoice['number']}-CN-{count:02}",
        pdf=f"{account.address}/credit_note/{name}/pdf",
        post_payment_amount=total if paid else 0,
        pre_payment_amount=0 if paid else total,
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal,
        total=total,
        total_excluding_tax=total - tax,
        total_taxes=[each for row in rows for each in row["taxes"]],
        type="post_payment" if paid else "pre_payment",
    )


def _rows(account: Account, values: Object, invoice: Object) -> list[Object]:
    if (amount := values.get("amount")) is not None and not values.get("lines"):
        return [_row(account, "custom_line_item", amount, "Credit", unit_amount=amount)]
    if not values.get("lines"):
        raise ApiError("You must pass `amount` or `lines`.", code="parameter_missing", param="lines")
    made, by_id = [], {each["id"]: each for each in invoice["lines"]["data"]}
    for n, each in enumerate(values["lines"]):
        if each["type"] == "custom_line_item":
            amount = each.get("amount") or (each.get("unit_amount") or 0) * each.get("quantity", 1)
            made.append(
                _row(account, "custom_line_item", amount, each.get("description"), unit_amount=each.get("unit_amount"))
            )
            continue
        line = by_id.get(each.get("invoice_line_item") or "")
        if not line:
            raise ApiError(
                f"No such invoice line item: '{each.get('invoice_line_item')}'",
                code="resource_missing",
                param=f"lines[{n}][invoice_line_item]",
            )
        amount = each.get("amount") or money.share(
            line["amount"], each.get("quantity", line["quantity"]), line["quantity"]
        )
        discount = sum(part["amount"] for part in line["discount_amounts"])
        taxes = [{**tax, "amount": money.share(tax["amount"], amount, line["amount"])} for tax in line["taxes"]]
        made.append(
            _row(
                account,
                "invoice_line_item",
                amount,
                line["description"],
                invoice_line_item=line["id"],
                taxes=taxes,
                discount_amount=money.share(discount, amount, line["amount"]),
            )
        )
    return made


def _row(account: Account, kind: str, amount: int, words: str | None, **more: object) -> Object:
    plain: Object = {"discount_amount": 0, "invoice_line_item": None, "taxes": [], "unit_amount": None, **more}
    unit = plain["unit_amount"]
    return {
        "id": account.name("credit_note_line_item"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": words,
        "discount_amounts": [],
        "livemode": False,
        "metadata": {},
        "pretax_credit_amounts": [],
        "quantity": 1,
        "tax_rates": [],
        "type": kind,
        "unit_amount_decimal": None if unit is None else str(unit),
        **plain,
    }


def _lower(account: Account, invoice: Object, amount: int) -> None:
    left = invoice["amount_remaining"] - amount
    if left < 0:
        raise ApiError("The credit note is more than what remains to be paid.", param="amount")
    fields = {
        "amount_remaining": left,
        "amount_due": invoice["amount_due"] - amount,
        "pre_payment_credit_notes_amount": invoice["pre_payment_credit_notes_amount"] + amount,
    }
    account.change(invoice, "invoice.updated", **fields)
    if invoice["_intent"]:
        account.change(account.get("payment_intent", invoice["_intent"]), None, amount=left)
    if not left:
        collection.paid(account, account.get("invoice", invoice["id"]), None)


def _give_back(account: Account, note: Object, invoice: Object, values: Object) -> None:
    given = {name: values.get(name) or 0 for name in ("refund_amount", "credit_amount", "out_of_band_amount")}
    linked = [
        (account.referred("refund", each["refund"], f"refunds[{n}][refund]"), each)
        for n, each in enumerate(values.get("refunds") or [])
    ]
    given["refunds"] = sum(each.get("amount_refunded", refund["amount"]) for refund, each in linked)
    if sum(given.values()) != note["total"]:
        raise ApiError(
            "The sum of credit amount, refund amount and out of band amount must equal the amount of the credit note"
            f" ({note['total']}).",
            param="refund_amount",
        )
    made = [(refund["id"], each.get("amount_refunded", refund["amount"])) for refund, each in linked]
    if given["refund_amount"]:
        if not invoice["_charge"]:
            raise ApiError("This invoice has no payment to refund.", param="refund_amount")
        charge = account.get("charge", invoice["_charge"])
        made.append((refunds.refund(account, charge, given["refund_amount"], None, {})["id"], given["refund_amount"]))
    entry = None
    if given["credit_amount"]:
        entry = balances.book(
            account,
            note["customer"],
            -given["credit_amount"],
            note["currency"],
            "credit_note",
            credit_note=note["id"],
            invoice=invoice["id"],
        )
    rows = [
        {"amount_refunded": amount, "payment_record_refund": None, "refund": name, "type": "refund"}
        for name, amount in made
    ]
    account.change(note, None, refunds=rows, customer_balance_transaction=entry and entry["id"])
