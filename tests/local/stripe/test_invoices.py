"""Invoices: by hand, credit notes, the balance, voiding, and invoices that are sent."""

from typing import Any

import pytest

from tests.support.lives import Life, seconds
from tests.support.stripe_shop import Shop, stripe_error

MONTH = 69_900


@pytest.fixture
def life(shop: Shop) -> Life:
    return Life.begin(shop.double, shop.client)


def manual(life: Life, amount: int, **more: Any) -> Any:
    life.client.v1.invoice_items.create({"customer": life.customer, "amount": amount, "currency": "usd"})
    wanted: Any = {"customer": life.customer, "pending_invoice_items_behavior": "include", **more}
    return life.client.v1.invoices.create(wanted)


def test_invoice_items_become_an_invoice(life: Life) -> None:
    draft = manual(life, 1_500)
    assert (draft.status, draft.total, draft.number) == ("draft", 1_500, None)
    opened = life.client.v1.invoices.finalize_invoice(draft.id)
    assert opened.number.endswith("-0001")
    assert life.client.v1.invoices.pay(draft.id).status == "paid"
    assert not life.client.v1.invoice_items.list({"customer": life.customer, "pending": True}).data
    with pytest.raises(stripe_error.InvalidRequestError, match="already paid"):
        life.client.v1.invoices.pay(draft.id)


def test_invoice_that_advances_is_charged_within_the_hour(life: Life) -> None:
    opened = life.client.v1.invoices.finalize_invoice(manual(life, 1_500).id, {"auto_advance": True})
    assert (opened.status, life.days(0.1).invoices()[0].status) == ("open", "paid")


def test_invoice_numbers_count_per_customer(life: Life) -> None:
    numbers = [life.client.v1.invoices.pay(manual(life, 1_000).id).number for _ in range(3)]
    assert [number[-5:] for number in numbers] == ["-0001", "-0002", "-0003"]


def test_amount_below_the_minimum_waits_on_the_balance(life: Life) -> None:
    small = life.client.v1.invoices.finalize_invoice(manual(life, 30).id)
    assert (small.status, small.amount_due, small.ending_balance) == ("paid", 0, 30)
    assert life.client.v1.invoices.pay(manual(life, 100).id).amount_paid == 130


def test_credit_on_the_balance_pays_first(life: Life) -> None:
    v1 = life.client.v1
    v1.customers.balance_transactions.create(life.customer, {"amount": -50_000, "currency": "usd"})
    life.subscribe(life.client.v1.prices.list({"lookup_keys": ["month"]}).data[0].id)
    assert (life.latest().total, life.latest().amount_paid) == (MONTH, MONTH - 50_000)
    kinds = [each.type for each in v1.customers.balance_transactions.list(life.customer).data]
    assert kinds == ["applied_to_invoice", "adjustment"]


def test_credit_note_lowers_an_open_invoice(life: Life) -> None:
    v1 = life.client.v1
    opened = v1.invoices.finalize_invoice(manual(life, 1_000).id)
    note = v1.credit_notes.create({"invoice": opened.id, "amount": 400, "reason": "order_change"})
    assert (note.type, note.number) == ("pre_payment", f"{opened.number}-CN-01")
    paid = v1.invoices.pay(opened.id)
    assert (paid.amount_paid, paid.pre_payment_credit_notes_amount, life.books()) == (600, 400, {"usd": 600})
    with pytest.raises(stripe_error.InvalidRequestError):
        v1.credit_notes.void_credit_note(note.id)


def test_credit_note_refunds_the_payment(life: Life, shop: Shop) -> None:
    v1 = shop.client.v1
    life.subscribe(shop.price)
    wanted: Any = {"invoice": life.latest().id, "amount": 1_000, "refund_amount": 600, "credit_amount": 400}
    note = v1.credit_notes.create(wanted)
    refund = v1.refunds.retrieve(note.refunds[0].refund)
    assert (refund.amount, v1.customers.retrieve(life.customer).balance) == (600, -400)
    assert life.latest().post_payment_credit_notes_amount == 1_000
    assert [each.id for each in v1.credit_notes.list({"invoice": life.latest().id}).data] == [note.id]
    for amount, refunded in (MONTH, MONTH), (500, 400):
        with pytest.raises(stripe_error.InvalidRequestError):
            v1.credit_notes.create({"invoice": life.latest().id, "amount": amount, "refund_amount": refunded})


def test_voided_credit_note_restores_the_amount(life: Life) -> None:
    v1 = life.client.v1
    opened = v1.invoices.finalize_invoice(manual(life, 1_000).id)
    note = v1.credit_notes.create({"invoice": opened.id, "amount": 400})
    assert v1.credit_notes.void_credit_note(note.id).status == "void"
    assert v1.invoices.retrieve(opened.id).amount_remaining == 1_000


def test_written_off_invoice_can_still_be_paid(life: Life) -> None:
    v1 = life.client.v1
    opened = v1.invoices.finalize_invoice(manual(life, 1_000).id)
    assert v1.invoices.mark_uncollectible(opened.id).status == "uncollectible"
    assert v1.invoices.pay(opened.id).status == "paid"


def test_invoice_paid_outside_of_stripe_has_no_charge(life: Life) -> None:
    v1 = life.client.v1
    opened = v1.invoices.finalize_invoice(manual(life, 1_000).id)
    paid = v1.invoices.pay(opened.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_remaining, life.books()) == ("paid", 0, {})


def test_sent_invoice_is_overdue_and_paid_by_hand(life: Life, shop: Shop) -> None:
    life.subscribe(shop.price, collection_method="send_invoice", days_until_due=10)
    assert (life.status(), life.latest().status, life.latest().due_date) == ("active", "open", seconds(2026, 1, 11))
    life.days(11)
    assert life.status() == "past_due"
    assert life.events(["invoice.sent", "invoice.overdue"]) == ["invoice.sent", "invoice.overdue"]
    shop.client.v1.invoices.pay(life.latest().id)
    assert life.status() == "active"


@pytest.mark.parametrize("action", ["void", "write_off"])
def test_status_follows_the_latest_invoice_that_counts(life: Life, shop: Shop, action: str) -> None:
    life.subscribe(shop.price, collection_method="send_invoice", days_until_due=5)
    life.days(37)
    latest, first = life.invoices()
    assert (life.status(), first.status, latest.status) == ("past_due", "open", "open")
    invoices = shop.client.v1.invoices
    act = {"void": invoices.void_invoice, "write_off": invoices.mark_uncollectible}[action]
    act(first.id)
    assert life.status() == "past_due"
    act(latest.id)
    assert life.status() == "active"


def test_void_invoice_returns_the_balance_it_used(life: Life) -> None:
    v1 = life.client.v1
    v1.customers.balance_transactions.create(life.customer, {"amount": -400, "currency": "usd"})
    opened = v1.invoices.finalize_invoice(manual(life, 1_000).id)
    assert (opened.amount_due, v1.customers.retrieve(life.customer).balance) == (600, 0)
    v1.invoices.void_invoice(opened.id)
    assert v1.customers.retrieve(life.customer).balance == -400
    kinds = [each.type for each in v1.customers.balance_transactions.list(life.customer).data]
    assert kinds == ["unapplied_from_invoice", "applied_to_invoice", "adjustment"]


def test_void_invoice_cannot_be_paid(life: Life) -> None:
    v1 = life.client.v1
    opened = v1.invoices.finalize_invoice(manual(life, 1_000).id)
    v1.invoices.void_invoice(opened.id)
    for action in v1.invoices.pay, v1.invoices.void_invoice, v1.invoices.finalize_invoice:
        with pytest.raises(stripe_error.InvalidRequestError):
            action(opened.id)


def test_payment_of_an_invoice_is_linked_and_announced(life: Life, shop: Shop) -> None:
    life.subscribe(shop.price)
    (payment,) = shop.client.v1.invoice_payments.list({"invoice": life.latest().id, "status": "paid"}).data
    assert (payment.amount_paid, payment.is_default, payment.payment.type) == (MONTH, True, "payment_intent")
    assert "invoice_payment.paid" in shop.events()
    assert "payments" not in life.latest().to_dict()
