"""The life of one customer at the Stripe double: subscribe, upgrade, fail, recover, cancel, come back, refund, dispute.

A life has a test clock of its own, or runs in the double's time where the customer already exists (as one that Strive
made). Every verb acts through Stripe's own client, as Strive or the customer would; `days` and `until` let time pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from local.stripe.server import Double

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
        step = 31 * DAY
        while (now := self.now()) < moment:
            self.client.v1.test_helpers.test_clocks.advance(self.clock, {"frozen_time": min(moment, now + step)})
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

    # Subscriptions ----------------------------------------------------------------------------------------------------

    def subscribe(self, price: str, quantity: int = 1, *, trial: int | None = None, **more: Any) -> "Life":
        items = more.pop("items", [{"price": price, "quantity": quantity}])
        days = {"trial_period_days": trial} if trial else {}
        made = self.client.v1.subscriptions.create({"customer": self.customer, "items": items, **days, **more})
        self.subscription = made.id
        self.notes.append(f"subscribe {price}")
        return self

    def check_out(self, price: str, quantity: int = 1, *, card: str = GOOD, promotion_code: str | None = None,
                  trial: int | None = None, **more: Any) -> "Life":  # fmt: skip
        data = more.pop("subscription_data", {}) | ({"trial_period_days": trial} if trial else {})
        session = self.client.v1.checkout.sessions.create({
            "mode": "subscription",
            "customer": self.customer,
            "line_items": [{"price": price, "quantity": quantity}],
            "success_url": "https://app.test/",
            **({"allow_promotion_codes": True} if promotion_code else {}),
            **({"subscription_data": data} if data else {}),
            **more,
        })  # fmt: skip
        done = self.double.check_out(session.id, card, promotion_code=promotion_code)
        self.subscription = done["subscription"]
        self.notes.append(f"check out {price}")
        return self

    def change(self, price: str | None = None, quantity: int | None = None, *, prorate: str = "always_invoice",
               **more: Any) -> "Life":  # fmt: skip
        """Upgrade now; the difference is billed at once."""
        wanted: dict[str, Any] = {"id": self.item().id, **({"price": price} if price else {})}
        if quantity is not None:
            wanted["quantity"] = quantity
        self.update(items=[wanted], proration_behavior=prorate, **more)
        self.notes.append(f"change to {price or 'the same'} x {quantity or 'the same'}")
        return self

    def schedule(self, price: str, quantity: int = 1) -> "Life":
        """Another price at the end of the period, without proration."""
        v1, now = self.client.v1, self.current()
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

    def resume(self) -> "Life":
        return self.update(cancel_at_period_end=False)

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

    def delete(self) -> "Life":
        """Delete the customer at Stripe."""
        self.client.v1.customers.delete(self.customer)
        self.notes.append("delete the customer")
        return self

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
