"""Generated histories of subscriptions at Stripe: their events and expected final states."""

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.stripe_events import MONTH, NOW, SHAPES, differences, event, subscription
from tests.support.world import Row

if TYPE_CHECKING:
    from collections.abc import Callable

# status → where it may go by itself
COURSES = {
    "incomplete": ("active", "active", "active", "incomplete_expired"),
    "trialing": ("active", "past_due"),
    "active": ("past_due", "renewed", "renewed", "price", "price", "toggled", "toggled", "noted", "canceled"),
    "past_due": ("active", "unpaid", "canceled", "noted"),
    "unpaid": ("active", "canceled"),
}
PRICES = (("price_starter", 29_900, "STARTER"), ("price_growth", 69_900, "GROWTH"), ("price_elite", 199_900, "ELITE"))
STANDING = {"trialing": "TRIAL", "active": "ACTIVE", "past_due": "PAST_DUE", "canceled": "CANCELLED"}


@dataclass
class History:
    """One subscription; `state` is its final state."""

    name: str
    customer: str
    chance: random.Random
    events: list[Row] = field(default_factory=list)
    state: Row = field(default_factory=dict)
    tier: str = ""
    clock: int = NOW

    def run(self, steps: int) -> "History":
        price, amount, self.tier = self.chance.choice(PRICES)
        shape = self.chance.choice(SHAPES)
        status = self.chance.choice(("incomplete", "incomplete", "trialing", "active"))
        self.state = subscription(
            self.name, self.customer, status=status, price=price, amount=amount, shape=shape, created=NOW
        )
        self.events.append(event("customer.subscription.created", self.state, created=self.clock, api_version=shape))
        for _ in range(steps):
            if not (courses := COURSES.get(self.state["status"])):
                break
            self._step(self.chance.choice(courses), shape)
        return self

    def _step(self, course: str, shape: str) -> None:
        # Often within one second, where the order is lost.
        self.clock += self.chance.choice((0, 0, 0, 1, 60, 86_400))
        before = self.state
        after = self._changed(course)
        kind = "deleted" if course == "canceled" else "updated"
        all_histories = None if kind == "deleted" else differences(before, after)
        self.state = after
        self.events.append(
            event(f"customer.subscription.{kind}", after, created=self.clock, before=all_histories, api_version=shape)
        )

    def _changed(self, course: str) -> Row:
        state = self.state
        changes: dict[str, Callable[[], Row]] = {
            "price": self._repriced,
            "renewed": self._renewed,
            "toggled": lambda: {"cancel_at_period_end": not state["cancel_at_period_end"]},
            "noted": lambda: {"metadata": {"note": str(self.chance.getrandbits(20))}},
            "canceled": lambda: {"status": "canceled", "canceled_at": self.clock, "ended_at": self.clock},
        }
        return state | (changes[course]() if course in changes else {"status": course})

    def _repriced(self) -> Row:
        price, amount, self.tier = self.chance.choice([each for each in PRICES if each[2] != self.tier])
        (item,) = self.state["items"]["data"]
        bought = item | {"price": item["price"] | {"id": price, "unit_amount": amount}}
        return {"items": self.state["items"] | {"data": [bought]}}

    def _renewed(self) -> Row:
        (item,) = self.state["items"]["data"]
        of_item = "current_period_end" in item
        end = (item if of_item else self.state)["current_period_end"]
        period = {"current_period_start": end, "current_period_end": end + MONTH}
        invoice = {"latest_invoice": f"in_{self.chance.getrandbits(40)}"}
        return invoice | ({"items": self.state["items"] | {"data": [item | period]}} if of_item else period)

    @property
    def outcome(self) -> tuple[Any, ...]:
        """The expected row: status, tier, amount, cancel_at_period_end, end of the period."""
        (item,) = self.state["items"]["data"]
        status = STANDING.get(self.state["status"], "INACTIVE")
        end = item.get("current_period_end") or self.state["current_period_end"]
        return status, self.tier, item["price"]["unit_amount"], self.state["cancel_at_period_end"], end


def histories(seed: int, count: int, steps: int = 8) -> list[History]:
    chance = random.Random(seed)  # noqa: S311 - a seed makes it happen again
    return [
        History(f"sub_{seed}_{number}", f"cus_{seed}_{number}", chance).run(chance.randint(0, steps))
        for number in range(count)
    ]


def deliveries(seed: int, all_histories: list[History], *, repeated: float = 0.1) -> list[Row]:
    """All their events, some twice, in any order."""
    chance = random.Random(seed)  # noqa: S311 - as above
    sent = [each for history in all_histories for each in history.events]
    sent += [each for each in sent if chance.random() < repeated]
    chance.shuffle(sent)
    return sent
