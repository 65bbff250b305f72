"""Histories of customers as data: actions at Stripe, played on the double with a test clock each."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stripe import CardError, HTTPXClient, StripeClient

from local.stripe.server import Double
from tests.support.world import Row

DAY = 86_400
Step = tuple[Any, ...]

# Each step is a method of Customer with its arguments; the expected state is computed from Stripe's objects.
HALF_ONCE = {"coupon": {"percent_off": 50, "duration": "once"}}
FIFTH = {"coupon": {"percent_off": 20, "duration": "forever"}}
ALL = {"coupon": {"percent_off": 100, "duration": "forever"}}

LIVES: dict[str, Sequence[Step]] = {
    "buys and stays": [("buy", "GROWTH"), ("days", 32), ("days", 31)],
    "buys a year": [("buy", "GROWTH", "YEARLY"), ("days", 366)],
    "never pays": [("begin", "STARTER"), ("days", 2)],
    "is declined, then pays": [("begin", "STARTER", "tok_chargeCustomerFail"), ("pay", "tok_visa"), ("days", 31)],
    "tries for free and stays": [("trial", "GROWTH", 14), ("days", 15), ("days", 31)],
    "tries for free and leaves": [("trial", "GROWTH", 14), ("days", 5), ("cancel_at_end",), ("days", 12)],
    "tries for free without a card": [("trial", "STARTER", 7, None), ("days", 8)],
    "gets a longer trial": [("trial", "GROWTH", 7), ("days", 3), ("extend_trial", 20), ("days", 5), ("days", 20)],
    "upgrades now": [("buy", "STARTER"), ("days", 10), ("change", "GROWTH"), ("days", 30)],
    "upgrades twice": [("buy", "STARTER"), ("change", "GROWTH"), ("days", 3), ("change", "ELITE"), ("days", 31)],
    "downgrades now": [("buy", "ELITE"), ("days", 12), ("change", "STARTER"), ("days", 31)],
    "downgrades at period end": [("buy", "ELITE"), ("days", 5), ("schedule", "STARTER"), ("days", 27), ("days", 31)],
    "changes the mind about a downgrade": [("buy", "ELITE"), ("schedule", "STARTER"), ("release",), ("days", 32)],
    "waits for a scheduled year": [("buy", "GROWTH"), ("schedule", "GROWTH", "YEARLY"), ("days", 3)],
    "goes from month to year": [("buy", "GROWTH"), ("days", 9), ("change", "GROWTH", "YEARLY"), ("days", 20)],
    "goes from year to month": [("buy", "GROWTH", "YEARLY"), ("days", 40), ("change", "GROWTH"), ("days", 20)],
    "upgrades with a card that fails": [("buy", "STARTER"), ("card", "tok_chargeCustomerFail"), ("change", "ELITE")],
    "fails once and recovers": [
        ("buy", "GROWTH"), ("card", "tok_chargeCustomerFail"), ("days", 32), ("card", "tok_visa"), ("days", 5),
    ],
    "fails and pays the invoice": [
        ("buy", "GROWTH"), ("card", "tok_chargeCustomerFail"), ("days", 32), ("card", "tok_visa"), ("pay_open",),
    ],
    "fails for good": [("buy", "GROWTH"), ("card", "tok_chargeCustomerFail"), ("days", 32), ("days", 20)],
    "pays after the end": [
        ("buy", "GROWTH"), ("card", "tok_chargeCustomerFail"), ("days", 32), ("days", 20), ("card", "tok_visa"),
        ("pay_open",),
    ],
    "leaves at once": [("buy", "GROWTH"), ("days", 3), ("cancel",)],
    "leaves at period end": [("buy", "GROWTH"), ("days", 3), ("cancel_at_end",), ("days", 32)],
    "changes the mind about leaving": [("buy", "GROWTH"), ("cancel_at_end",), ("days", 3), ("resume",), ("days", 31)],
    "leaves in a year": [("buy", "GROWTH"), ("cancel_at", 200), ("days", 31)],
    "toggles the cancellation": [("buy", "GROWTH"), ("cancel_at_end",), ("resume",), ("cancel_at_end",)],
    "comes back": [("buy", "GROWTH"), ("cancel",), ("days", 40), ("buy", "ELITE"), ("days", 31)],
    "comes back twice": [("buy", "STARTER"), ("cancel",), ("buy", "GROWTH"), ("cancel",), ("buy", "ELITE")],
    "pays twice": [("buy", "GROWTH"), ("days", 1), ("buy", "GROWTH")],
    "pays twice and ends one": [("buy", "GROWTH"), ("days", 2), ("buy", "ELITE"), ("cancel",), ("days", 31)],
    "is refunded in full": [("buy", "GROWTH"), ("refund",), ("cancel",)],
    "is refunded in part": [("buy", "GROWTH"), ("refund", 10_000), ("days", 31)],
    "is refunded twice in part": [("buy", "GROWTH"), ("refund", 10_000), ("days", 1), ("refund", 5_000)],
    "gets a credit note": [("buy", "GROWTH"), ("credit", 20_000), ("days", 31)],
    "disputes and wins": [("buy", "GROWTH"), ("dispute", "lost")],
    "disputes and loses": [("buy", "GROWTH"), ("dispute", "won"), ("days", 31)],
    "disputes and waits": [("buy", "GROWTH"), ("dispute", None)],
    "has a coupon for ever": [("buy", "GROWTH", "MONTHLY", FIFTH), ("days", 31)],
    "has a coupon once": [("buy", "GROWTH", "MONTHLY", HALF_ONCE), ("days", 31)],
    "has a coupon of everything": [("buy", "GROWTH", "MONTHLY", ALL), ("days", 31)],
    "has an amount off for months": [
        ("buy", "GROWTH", "MONTHLY", {
            "coupon": {"amount_off": 10_000, "currency": "usd", "duration": "repeating", "duration_in_months": 2},
        }),
        ("days", 31),
    ],
    "gets a coupon later": [("buy", "GROWTH"), ("coupon", {"percent_off": 10, "duration": "forever"}), ("days", 31)],
    "pays tax": [("buy", "GROWTH", "MONTHLY", {"tax": True}), ("days", 31)],
    "pays in euros": [("buy_price", "eur", 59_900), ("days", 31)],
    "pays in yen": [("buy_price", "jpy", 60_000), ("days", 31)],
    "pays in dinars": [("buy_price", "kwd", 199_990), ("days", 31)],
    "pays fractions of a cent": [("buy_price", "usd", "1050.5"), ("days", 31)],
    "has seats": [("buy", "GROWTH", "MONTHLY", {"quantity": 3}), ("days", 3), ("seats", 5), ("days", 30)],
    "has two items": [("buy", "GROWTH"), ("add_item", 5_000), ("days", 31)],
    "has an unknown price": [("buy_price", "usd", 12_300, None), ("days", 31)],
    "is deleted at Stripe": [("buy", "GROWTH"), ("days", 3), ("delete",)],
    "is deleted and was cancelled": [("buy", "GROWTH"), ("cancel_at_end",), ("delete",)],
    "has an invoice written off": [
        ("buy", "GROWTH"), ("card", "tok_chargeCustomerFail"), ("days", 32), ("write_off",),
    ],
}  # fmt: skip


@dataclass
class Customer:
    """One customer at Stripe. A step that Stripe refuses (a card that is declined) is part of the life."""

    name: str
    v1: Any
    double: Double
    prices: dict[tuple[str, str], str]
    clock: str
    id: str
    subscriptions: list[str] = field(default_factory=list)

    def play(self, steps: Sequence[Step]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    # Buying -----------------------------------------------------------------------------------------------------------

    def begin(
        self, tier: str, card: str = "tok_visa", cycle: str = "MONTHLY", price: str | None = None, **more: Any
    ) -> Any:
        request: Row = {
            "customer": self.id,
            "items": [{"price": price or self.prices[tier, cycle], "quantity": more.pop("quantity", 1)}],
            "payment_behavior": "default_incomplete",
            "payment_settings": {"save_default_payment_method": "on_subscription"},
            "expand": ["latest_invoice.payments"],
        }
        if coupon := more.pop("coupon", None):
            request["discounts"] = [{"coupon": self.v1.coupons.create(coupon).id}]
        if more.pop("tax", False):
            self.v1.customers.update(self.id, {"address": {"country": "DE", "postal_code": "10115"}})
            request["automatic_tax"] = {"enabled": True}
        made = self.v1.subscriptions.create(request | more)
        self.subscriptions.append(made.id)
        self.card(card)
        return made

    def buy(self, tier: str, cycle: str = "MONTHLY", more: Row | None = None, **others: Any) -> None:
        made = self.begin(tier, cycle=cycle, **(more or {}), **others)
        if made.status == "incomplete":
            self.pay("tok_visa")

    def buy_price(self, currency: str, amount: int | str, tier: str | None = "GROWTH") -> None:
        exact = {"unit_amount_decimal": amount} if isinstance(amount, str) else {"unit_amount": amount}
        product = self.v1.products.create({"name": self.name})
        price = self.v1.prices.create(
            {
                "product": product.id,
                "currency": currency,
                "recurring": {"interval": "month"},
                "metadata": {"tier": tier} if tier else {},
                **exact,
            }
        )
        self.buy("", price=price.id)

    def trial(self, tier: str, days: int, card: str | None = "tok_visa") -> None:
        behavior = {"trial_settings": {"end_behavior": {"missing_payment_method": "pause"}}}
        made = self.v1.subscriptions.create(
            {
                "customer": self.id,
                "items": [{"price": self.prices[tier, "MONTHLY"]}],
                "trial_period_days": days,
                **({} if card else behavior),
                "payment_behavior": "default_incomplete",
            }
        )
        self.subscriptions.append(made.id)
        if card:
            self.card(card)

    def pay(self, card: str) -> None:
        invoice = self.v1.subscriptions.retrieve(
            self.subscriptions[-1], {"expand": ["latest_invoice.payments"]}
        ).latest_invoice
        number = "4242424242424242" if card == "tok_visa" else "4000000000000341"
        self.double.pay(invoice.payments.data[0].payment.payment_intent, number)

    def card(self, token: str) -> None:
        method = self.v1.payment_methods.create({"type": "card", "card": {"token": token}})
        self.v1.payment_methods.attach(method.id, {"customer": self.id})
        if not self.v1.subscriptions.retrieve(self.subscriptions[-1]).ended_at:
            self.v1.subscriptions.update(self.subscriptions[-1], {"default_payment_method": method.id})

    # Changing ---------------------------------------------------------------------------------------------------------

    def _item(self) -> Any:
        return self.v1.subscriptions.retrieve(self.subscriptions[-1])["items"].data[0]

    def _update(self, request: Row) -> None:
        with suppress(CardError):  # a card that is declined is part of the life
            self.v1.subscriptions.update(self.subscriptions[-1], request)

    def change(self, tier: str, cycle: str = "MONTHLY") -> None:
        item = {"id": self._item().id, "price": self.prices[tier, cycle]}
        behavior = {"proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
        self._update({"items": [item], **behavior})

    def seats(self, quantity: int) -> None:
        self._update({"items": [{"id": self._item().id, "quantity": quantity}], "proration_behavior": "always_invoice"})

    def add_item(self, amount: int) -> None:
        product = self.v1.products.create({"name": "Extra"})
        price = self.v1.prices.create(
            {"product": product.id, "currency": "usd", "unit_amount": amount, "recurring": {"interval": "month"}}
        )
        self._update({"items": [{"price": price.id}], "proration_behavior": "none"})

    def coupon(self, terms: Row) -> None:
        self._update({"discounts": [{"coupon": self.v1.coupons.create(terms).id}]})

    def schedule(self, tier: str, cycle: str = "MONTHLY") -> None:
        schedule = self.v1.subscription_schedules.create({"from_subscription": self.subscriptions[-1]})
        item = self._item()
        phases = [
            {
                "items": [{"price": item.price.id, "quantity": 1}],
                "start_date": schedule.phases[0].start_date,
                "end_date": item.current_period_end,
            },
            {
                "items": [{"price": self.prices[tier, cycle], "quantity": 1}],
                "duration": {"interval": "year" if cycle == "YEARLY" else "month", "interval_count": 1},
            },
        ]
        self.v1.subscription_schedules.update(schedule.id, {"phases": phases, "end_behavior": "release"})

    def release(self) -> None:
        self.v1.subscription_schedules.release(self.v1.subscriptions.retrieve(self.subscriptions[-1]).schedule)

    def extend_trial(self, days: int) -> None:
        self._update({"trial_end": self._now() + days * DAY, "proration_behavior": "none"})

    # Leaving ----------------------------------------------------------------------------------------------------------

    def cancel_at_end(self) -> None:
        self._update({"cancel_at_period_end": True})

    def cancel_at(self, days: int) -> None:
        self._update({"cancel_at": self._now() + days * DAY, "proration_behavior": "none"})

    def resume(self) -> None:
        self._update({"cancel_at_period_end": False})

    def cancel(self) -> None:
        self.v1.subscriptions.cancel(self.subscriptions[-1])

    def delete(self) -> None:
        self.v1.customers.delete(self.id)

    # Money ------------------------------------------------------------------------------------------------------------

    def _paid_intent(self) -> str:
        paid = self.v1.invoices.list({"customer": self.id, "status": "paid", "expand": ["data.payments"]}).data
        newest = next(invoice for invoice in paid if invoice.amount_paid)
        return str(newest.payments.data[0].payment.payment_intent)

    def refund(self, amount: int | None = None) -> None:
        self.v1.refunds.create({"payment_intent": self._paid_intent(), **({"amount": amount} if amount else {})})

    def credit(self, amount: int) -> None:
        paid = self.v1.invoices.list({"customer": self.id, "status": "paid"}).data[0]
        self.v1.credit_notes.create({"invoice": paid.id, "amount": amount, "credit_amount": amount})

    def dispute(self, ends: str | None) -> None:
        made = self.double.dispute(self._paid_intent())
        if ends:
            self.double.close_dispute(made["id"], ends)

    def pay_open(self) -> None:
        for invoice in self.v1.invoices.list({"customer": self.id, "status": "open"}).data:
            method = self.v1.customers.payment_methods.list(self.id).data[0].id
            self.v1.invoices.pay(invoice.id, {"payment_method": method})

    def write_off(self) -> None:
        for invoice in self.v1.invoices.list({"customer": self.id, "status": "open"}).data:
            self.v1.invoices.mark_uncollectible(invoice.id)

    # Time -------------------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self.v1.test_helpers.test_clocks.retrieve(self.clock).frozen_time)

    def days(self, count: int) -> None:
        self.v1.test_helpers.test_clocks.advance(self.clock, {"frozen_time": self._now() + count * DAY})


def client_of(double: Double) -> tuple[Any, HTTPXClient]:
    http = HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False)
    return StripeClient(double.key, base_addresses={"api": double.url}, http_client=http).v1, http


def play(double: Double, v1: Any, prices: dict[tuple[str, str], str], name: str, start: int) -> Customer:
    clock = v1.test_helpers.test_clocks.create({"frozen_time": start}).id
    made = v1.customers.create({"name": name, "email": "owner@lives.test", "test_clock": clock})
    customer = Customer(name, v1, double, prices, clock, made.id)
    customer.play(LIVES[name])
    return customer
