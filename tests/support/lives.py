"""The life of one customer at the Stripe double: subscribe, upgrade, fail, recover, cancel, come back, refund, dispute.

A life has a test clock of its own, or runs in the double's time where the customer already exists (as one that Strive
made). Every verb acts through Stripe's own client, as Strive or the customer would; `days` and `until` let time pass.
Whole lives as data are in tests/support/histories.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from local.stripe.server import Double
from tests.support.stripe_shop import intent_of, stripe_error

GOOD = "4242424242424242"
FAILING = "4000000000000341"  # can be saved, and fails when it is charged
DAY = 86_400


def seconds(year: int, month: int, day: int = 1, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp())


@dataclass
class Life:
    double: Double
    client: Any  # stripe.StripeClient
    customer: str
    clock: str | None = None
    subscription: str = ""  # the newest one
    subscriptions: list[str] = field(default_factory=list)
    former: list[str] = field(default_factory=list)  # customers
    plans: Mapping[str, str] = field(default_factory=dict)  # prices by the names of plans, which may be used instead
    notes: list[str] = field(default_factory=list)  # the steps so far, for the message of a failing test

    @classmethod
    def begin(
        cls, double: Double, client: Any, at: int = seconds(2026, 1), card: str | None = GOOD, **more: Any
    ) -> "Life":
        """A new customer on a test clock."""
        clock = client.v1.test_helpers.test_clocks.create({"frozen_time": at})
        customer = client.v1.customers.create({"email": "owner@acme.test", "test_clock": clock.id, **more})
        life = cls(double, client, customer.id, clock.id)
        if card:
            life.use_card(card)
        return life

    # Time -------------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        if self.clock:
            return int(self.client.v1.test_helpers.test_clocks.retrieve(self.clock).frozen_time)
        return self.double.account.now()

    def days(self, count: float) -> "Life":
        """Let days pass, in steps that Stripe allows."""
        return self.until(self.now() + round(count * DAY))

    def until(self, moment: int) -> "Life":
        self.notes.append(f"until {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}")
        if not self.clock:
            self.double.advance(seconds=moment - self.now())
            return self
        step, now = 31 * DAY, self.now()
        while now < moment:
            now = min(moment, now + step)
            self.client.v1.test_helpers.test_clocks.advance(self.clock, {"frozen_time": now})
        return self

    def renew(self) -> "Life":
        """To two hours after the end of the period: the renewal is finalized and charged."""
        return self.until(self.period_end() + 7200)

    # Cards ------------------------------------------------------------------------------------------------------------

    def use_card(self, number: str = GOOD, **expires: int) -> str:
        """A new default card, of the customer and of every live subscription."""
        v1 = self.client.v1
        made = v1.payment_methods.create({"type": "card", "card": {"number": number, **expires}})
        v1.payment_methods.attach(made.id, {"customer": self.customer})
        v1.customers.update(self.customer, {"invoice_settings": {"default_payment_method": made.id}})
        for each in v1.subscriptions.list({"customer": self.customer}).data:
            if each.default_payment_method:
                v1.subscriptions.update(each.id, {"default_payment_method": made.id})
        self.notes.append(f"use card {number[-4:]}")
        return str(made.id)

    def fail(self) -> "Life":
        """From now on charges are declined."""
        self.use_card(FAILING)
        return self

    def recover(self) -> "Life":
        """A good card, and every open invoice paid with it."""
        self.use_card()
        for invoice in self.invoices("open"):
            self.client.v1.invoices.pay(invoice.id)
        return self

    def lose_card(self) -> "Life":
        for each in self.client.v1.customers.payment_methods.list(self.customer).data:
            self.client.v1.payment_methods.detach(each.id)
        return self

    # Subscriptions ----------------------------------------------------------------------------------------------------

    def subscribe(self, price: str, quantity: int = 1, *, trial: int | None = None, **more: Any) -> "Life":
        items = more.pop("items", [{"price": self.price(price), "quantity": quantity}])
        days = {"trial_period_days": trial} if trial else {}
        made = self.client.v1.subscriptions.create({"customer": self.customer, "items": items, **days, **more})
        return self._began(made.id, f"subscribe {price}")

    def _began(self, subscription: str, note: str) -> "Life":
        self.subscription = subscription
        self.subscriptions.append(subscription)
        self.notes.append(note)
        return self

    def price(self, name: str) -> str:
        return self.plans.get(name, name)

    def sell(self, amount: int | str, currency: str = "usd", tier: str | None = None) -> str:
        """A monthly price that no plan has; `amount` as text may have decimals."""
        v1 = self.client.v1
        exact = {"unit_amount_decimal": amount} if isinstance(amount, str) else {"unit_amount": amount}
        terms = {"currency": currency, "recurring": {"interval": "month"}, "metadata": {"tier": tier} if tier else {}}
        return str(v1.prices.create({"product": v1.products.create({"name": "Extra"}).id, **terms, **exact}).id)

    def begin_unpaid(self, price: str, card: str | None = GOOD) -> "Life":
        """As onboarding does: the first payment is made by the browser, if it is."""
        self.subscribe(
            price,
            payment_behavior="default_incomplete",
            payment_settings={"save_default_payment_method": "on_subscription"},
        )
        return self.pay(card) if card else self

    def pay(self, card: str = GOOD) -> "Life":
        expanded = {"expand": ["latest_invoice.payments"]}
        self.double.pay(intent_of(self.client.v1.subscriptions.retrieve(self.subscription, expanded)), card)
        return self

    def sold(self, amount: int | str, currency: str = "usd", tier: str | None = "GROWTH", **more: Any) -> "Life":
        """Subscribe to a price that Strive did not make."""
        return self.subscribe(self.sell(amount, currency, tier), **more)

    def discounted(self, price: str, **terms: Any) -> "Life":
        return self.subscribe(price, discounts=[{"coupon": self.client.v1.coupons.create(terms).id}])

    def coupon(self, **terms: Any) -> "Life":
        return self.update(discounts=[{"coupon": self.client.v1.coupons.create(terms).id}])

    def taxed(self, price: str) -> "Life":
        self.client.v1.customers.update(self.customer, {"address": {"country": "DE", "postal_code": "10115"}})
        return self.subscribe(price, automatic_tax={"enabled": True})

    def add_item(self, amount: int) -> "Life":
        return self.update(items=[{"price": self.sell(amount)}], proration_behavior="none")

    def extend_trial(self, days: int) -> "Life":
        return self.update(trial_end=self.now() + days * DAY, proration_behavior="none")

    def become_another_customer(self) -> "Life":
        """The same person, as a customer that Strive does not know."""
        made = self.client.v1.customers.create({"email": "owner@acme.test", "test_clock": self.clock})
        self.former.append(self.customer)
        self.customer = made.id
        self.use_card()
        return self

    def with_foreign_item(self, price: str) -> "Life":
        """The first item is nothing that Strive sells."""
        return self.subscribe(price, items=[{"price": self.sell(5_000)}, {"price": self.price(price)}])

    def check_out(self, price: str, quantity: int = 1, *, card: str = GOOD, promotion_code: str | None = None,
                  trial: int | None = None, **more: Any) -> "Life":  # fmt: skip
        data = more.pop("subscription_data", {}) | ({"trial_period_days": trial} if trial else {})
        session = self.client.v1.checkout.sessions.create({
            "mode": "subscription",
            "customer": self.customer,
            "line_items": [{"price": self.price(price), "quantity": quantity}],
            "success_url": "https://app.test/",
            **({"allow_promotion_codes": True} if promotion_code else {}),
            **({"subscription_data": data} if data else {}),
            **more,
        })  # fmt: skip
        done = self.double.check_out(session.id, card, promotion_code=promotion_code)
        return self._began(done["subscription"], f"check out {price}")

    def change(self, price: str | None = None, quantity: int | None = None, *, prorate: str = "always_invoice",
               **more: Any) -> "Life":  # fmt: skip
        """Upgrade now; the difference is billed at once."""
        wanted: dict[str, Any] = {"id": self.item().id, **({"price": self.price(price)} if price else {})}
        if quantity is not None:
            wanted["quantity"] = quantity
        self.update(items=[wanted], proration_behavior=prorate, **more)
        self.notes.append(f"change to {price or 'the same'} x {quantity or 'the same'}")
        return self

    def schedule(self, price: str, quantity: int = 1) -> "Life":
        """Another price at the end of the period, without proration."""
        v1, now, price = self.client.v1, self.current(), self.price(price)
        plan = v1.subscription_schedules.create({"from_subscription": self.subscription})
        phase = plan.phases[0]
        kept = [{"price": item.price, "quantity": item.quantity} for item in phase["items"]]
        discounts = [{"discount": each} for each in now.discounts]
        interval = v1.prices.retrieve(price).recurring
        first = {"items": kept, "start_date": phase.start_date, "end_date": phase.end_date, "discounts": discounts}
        then = {"items": [{"price": price, "quantity": quantity}], "proration_behavior": "none", "discounts": discounts,
                "duration": {"interval": interval.interval, "interval_count": interval.interval_count}}  # fmt: skip
        v1.subscription_schedules.update(plan.id, {"end_behavior": "release", "phases": [first, then]})
        self.notes.append(f"schedule {price}")
        return self

    def change_mind(self) -> "Life":
        """Release the schedule, so that nothing changes at the end of the period."""
        self.client.v1.subscription_schedules.release(self.current().schedule)
        return self

    def cancel(self, *, now: bool = False, **more: Any) -> "Life":
        if now:
            self.client.v1.subscriptions.cancel(self.subscription, more)
        else:
            self.update(cancel_at_period_end=True, **more)
        self.notes.append("cancel now" if now else "cancel at period end")
        return self

    def cancel_in(self, days: int) -> "Life":
        return self.update(cancel_at=self.now() + days * DAY, proration_behavior="none")

    def resume(self) -> "Life":
        return self.update(cancel_at_period_end=False)

    def begin_billing(self) -> "Life":
        """Begin the billing of a trial that ended without a card."""
        self.client.v1.subscriptions.resume(self.subscription, {"billing_cycle_anchor": "now"})
        return self

    def drop_item(self) -> "Life":
        """Without the newest item."""
        newest = self.current()["items"].data[-1].id
        return self.update(items=[{"id": newest, "deleted": True}], proration_behavior="none")

    def update(self, **fields: Any) -> "Life":
        self.client.v1.subscriptions.update(self.subscription, fields)
        return self

    # Money ------------------------------------------------------------------------------------------------------------

    def refund(self, amount: int | None = None) -> "Life":
        """Of the newest paid charge."""
        part = {} if amount is None else {"amount": amount}
        self.client.v1.refunds.create({"charge": self.charges()[0].id, **part})
        self.notes.append(f"refund {amount or 'all'}")
        return self

    def dispute(self, *, wins: bool | None = None) -> "Life":
        """The bank takes the newest payment back; `wins` closes the dispute."""
        made = self.double.dispute(self.charges()[0].id)
        if wins is not None:
            self.double.close_dispute(made["id"], "won" if wins else "lost")
        self.notes.append(f"dispute, wins={wins}")
        return self

    def credit(self, amount: int) -> "Life":
        """A credit note on the newest paid invoice, for the next ones."""
        self.client.v1.credit_notes.create(
            {"invoice": self.invoices("paid")[0].id, "amount": amount, "credit_amount": amount}
        )
        return self

    def pay_outside(self) -> "Life":
        """Open invoices are paid by a bank transfer that Stripe does not see."""
        for invoice in self.invoices("open"):
            self.client.v1.invoices.pay(invoice.id, {"paid_out_of_band": True})
        return self

    def write_off(self) -> "Life":
        for invoice in self.invoices("open"):
            self.client.v1.invoices.mark_uncollectible(invoice.id)
        return self

    def pay_written_off(self) -> "Life":
        for invoice in self.invoices("uncollectible"):
            self.client.v1.invoices.pay(invoice.id)
        return self

    def void(self) -> "Life":
        for invoice in self.invoices("open"):
            self.client.v1.invoices.void_invoice(invoice.id)
        return self

    def delete(self) -> "Life":
        """Delete the customer at Stripe."""
        self.client.v1.customers.delete(self.customer)
        self.notes.append("delete the customer")
        return self

    # Whole lives ------------------------------------------------------------------------------------------------------

    def play(self, steps: Iterable[Sequence[Any]]) -> "Life":
        """Each step is the name of a verb, its arguments and perhaps a last mapping of named ones."""
        for verb, *arguments in steps:
            named = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            getattr(self, verb)(*arguments, **named)
        return self

    def declined(self, verb: str, *arguments: Any, **named: Any) -> "Life":
        """A step that the bank declines."""
        return self._refused(stripe_error.CardError, verb, *arguments, **named)

    def refused(self, verb: str, *arguments: Any, **named: Any) -> "Life":
        """A step that Stripe refuses."""
        return self._refused(stripe_error.InvalidRequestError, verb, *arguments, **named)

    def _refused(self, error: type[Exception], verb: str, *arguments: Any, **named: Any) -> "Life":
        try:
            getattr(self, verb)(*arguments, **named)
        except error:
            return self
        raise AssertionError(f"{verb} {arguments} was not refused, after: {'; '.join(self.notes)}")

    @property
    def customers(self) -> list[str]:
        """Oldest first."""
        return [*self.former, self.customer]

    # What is so -------------------------------------------------------------------------------------------------------

    def current(self) -> Any:
        return self.client.v1.subscriptions.retrieve(self.subscription)

    def status(self) -> str:
        return str(self.current().status)

    def item(self) -> Any:
        return self.current()["items"].data[0]

    def prices(self) -> list[str]:
        return [item.price.id for item in self.current()["items"].data]

    def period_end(self) -> int:
        return int(self.item().current_period_end)

    def invoices(self, status: str | None = None) -> list[Any]:
        """Newest first."""
        wanted = {"status": status} if status else {}
        listed = self.client.v1.invoices.list({"customer": self.customer, "limit": 100, **wanted})
        return list(listed.auto_paging_iter())

    def latest(self) -> Any:
        """The newest invoice of the subscription."""
        return self.client.v1.invoices.retrieve(self.current().latest_invoice)

    def charges(self) -> list[Any]:
        """Paid charges, newest first."""
        listed = self.client.v1.charges.list({"customer": self.customer, "limit": 100})
        return [each for each in listed.auto_paging_iter() if each.paid]

    def books(self) -> dict[str, int]:
        """Money by currency: paid, less refunds and disputes that are lost or open."""
        found: dict[str, int] = {}
        for charge in self.charges():
            kept = 0 if charge.disputed else charge.amount_captured - charge.amount_refunded
            found[charge.currency] = found.get(charge.currency, 0) + kept
        return found

    def events(self, kinds: Iterable[str] = ()) -> list[str]:
        """The types of the events about this customer, oldest first."""
        wanted = set(kinds)
        mine = [
            event["type"]
            for event in self.double.store.all("event")
            if self.customer in (event["data"]["object"].get("customer"), event["data"]["object"]["id"])
        ]
        return [kind for kind in reversed(mine) if not wanted or kind in wanted]
