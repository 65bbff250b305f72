"""Whole lives of customers as data: verbs of tests.support.lives.Life, played on the double with a test clock each."""

from collections.abc import Sequence
from typing import Any

from local.stripe.server import Double
from tests.support.lives import Life

Step = tuple[Any, ...]

FIFTH = {"percent_off": 20, "duration": "forever"}
UNCOLLECTED = {"pause_collection": {"behavior": "void"}}

# What is expected of each is computed from Stripe's objects at its end.
LIVES: dict[str, Sequence[Step]] = {
    # Buying
    "buys and stays": [("begin_unpaid", "GROWTH"), ("days", 63)],
    "buys a year": [("begin_unpaid", "GROWTH YEARLY"), ("days", 366)],
    "never pays": [("begin_unpaid", "STARTER", None), ("days", 2)],
    "is declined, then pays": [("begin_unpaid", "STARTER", "4000000000000002"), ("pay",), ("days", 31)],
    "buys in Checkout": [("check_out", "GROWTH"), ("days", 31)],
    "pays twice": [("subscribe", "GROWTH"), ("days", 1), ("subscribe", "GROWTH")],
    "pays twice and ends one": [
        ("subscribe", "GROWTH"), ("days", 2), ("subscribe", "ELITE"), ("cancel", {"now": True}), ("days", 31),
    ],
    # Trials
    "tries for free and stays": [("subscribe", "GROWTH", {"trial": 14}), ("days", 46)],
    "tries for free and leaves": [("subscribe", "GROWTH", {"trial": 14}), ("days", 5), ("cancel",), ("days", 12)],
    "tries for free without a card": [
        ("lose_card",), ("subscribe", "STARTER", {
            "trial": 7, "trial_settings": {"end_behavior": {"missing_payment_method": "pause"}},
        }), ("days", 8),
    ],
    "tries for free and cannot pay": [("subscribe", "GROWTH", {"trial": 7}), ("fail",), ("days", 9)],
    "gets a longer trial": [("subscribe", "GROWTH", {"trial": 7}), ("days", 3), ("extend_trial", 20), ("days", 25)],
    "gets a longer trial twice and leaves": [
        ("subscribe", "GROWTH", {"trial": 7}), ("extend_trial", 20), ("days", 15), ("extend_trial", 30),
        ("days", 20), ("cancel", {"now": True}),
    ],
    "gets a longer trial and leaves": [
        ("subscribe", "GROWTH", {"trial": 7}), ("extend_trial", 20), ("days", 3), ("cancel",), ("days", 25),
    ],
    "gets a longer trial, leaves and changes the mind": [
        ("subscribe", "GROWTH", {"trial": 7}), ("extend_trial", 20), ("cancel",), ("days", 3), ("resume",),
        ("days", 25),
    ],
    "has a paused trial and gives a card": [
        ("lose_card",), ("subscribe", "STARTER", {
            "trial": 7, "trial_settings": {"end_behavior": {"missing_payment_method": "pause"}},
        }), ("days", 8), ("use_card",), ("begin_billing",), ("days", 31),
    ],
    # Changing
    "upgrades now": [("subscribe", "STARTER"), ("days", 10), ("change", "GROWTH"), ("days", 30)],
    "upgrades twice": [("subscribe", "STARTER"), ("change", "GROWTH"), ("days", 3), ("change", "ELITE"), ("days", 31)],
    "downgrades now": [("subscribe", "ELITE"), ("days", 12), ("change", "STARTER"), ("days", 31)],
    "downgrades at period end": [("subscribe", "ELITE"), ("days", 5), ("schedule", "STARTER"), ("days", 58)],
    "schedules twice": [
        ("subscribe", "ELITE"), ("schedule", "GROWTH"), ("days", 2), ("change_mind",), ("schedule", "STARTER"),
        ("days", 33),
    ],
    "has more seats while a downgrade waits": [
        ("subscribe", "ELITE", 5), ("schedule", "STARTER", 5), ("days", 3), ("change", None, 7), ("days", 31),
    ],
    "has more seats, and no downgrade after all": [
        ("subscribe", "GROWTH", 5), ("schedule", "STARTER", 2), ("days", 3), ("change", None, 8), ("change_mind",),
        ("days", 31),
    ],
    "changes the mind about a downgrade": [
        ("subscribe", "ELITE"), ("schedule", "STARTER"), ("change_mind",), ("days", 32),
    ],
    "waits for a scheduled year": [("subscribe", "GROWTH"), ("schedule", "GROWTH YEARLY"), ("days", 3)],
    "leaves while a downgrade waits": [
        ("subscribe", "ELITE"), ("schedule", "STARTER"), ("days", 3), ("cancel", {"now": True}),
    ],
    "is deleted while a downgrade waits": [("subscribe", "ELITE"), ("schedule", "STARTER"), ("delete",)],
    "goes from month to year": [("subscribe", "GROWTH"), ("days", 9), ("change", "GROWTH YEARLY"), ("days", 20)],
    "goes from year to month": [("subscribe", "GROWTH YEARLY"), ("days", 40), ("change", "GROWTH"), ("days", 20)],
    "goes to a year and back": [
        ("subscribe", "GROWTH"), ("days", 9), ("change", "GROWTH YEARLY"), ("days", 5), ("change", "GROWTH"),
        ("days", 31),
    ],
    "upgrades with a card that fails": [
        ("subscribe", "STARTER"), ("fail",),
        ("declined", "change", "ELITE", {"payment_behavior": "error_if_incomplete"}),
    ],
    "upgrades while a payment is late": [
        ("subscribe", "STARTER"), ("fail",), ("days", 32), ("use_card",), ("change", "ELITE"), ("days", 5),
    ],
    "has seats": [("subscribe", "GROWTH", 3), ("days", 3), ("change", None, 5), ("days", 30)],
    "gives up every seat": [("subscribe", "GROWTH", 3), ("days", 3), ("change", None, 0), ("days", 30)],
    "has seats, a coupon and euros": [
        ("sold", 59_900, "eur", {"quantity": 3}), ("coupon", FIFTH), ("days", 3), ("change", None, 5), ("days", 31),
    ],
    "has two items": [("subscribe", "GROWTH"), ("add_item", 5_000), ("days", 31)],
    "has two items and one again": [
        ("subscribe", "GROWTH"), ("add_item", 5_000), ("days", 31), ("drop_item",), ("days", 31),
    ],
    "has a foreign item first": [("with_foreign_item", "GROWTH"), ("days", 31)],
    "upgrades within the trial": [
        ("subscribe", "STARTER", {"trial": 14}), ("days", 5), ("change", "ELITE"), ("days", 12),
    ],
    "has fewer seats from the next period on": [
        ("subscribe", "GROWTH", 5), ("days", 3), ("schedule", "GROWTH", 2), ("days", 30),
    ],
    # Failing
    "fails once and recovers": [("subscribe", "GROWTH"), ("fail",), ("days", 32), ("use_card",), ("days", 5)],
    "fails and pays the invoice": [("subscribe", "GROWTH"), ("fail",), ("days", 32), ("recover",)],
    "fails and pays by bank transfer": [
        ("subscribe", "GROWTH"), ("fail",), ("days", 32), ("pay_outside",), ("days", 3),
    ],
    "fails for good": [("subscribe", "GROWTH"), ("fail",), ("days", 52)],
    "pays after the end": [("subscribe", "GROWTH"), ("fail",), ("days", 52), ("recover",)],
    "has an invoice written off": [("subscribe", "GROWTH"), ("fail",), ("days", 32), ("write_off",)],
    "has an invoice written off and pays it": [
        ("subscribe", "GROWTH"), ("fail",), ("days", 32), ("write_off",), ("use_card",), ("pay_written_off",),
    ],
    "has an invoice voided": [("subscribe", "GROWTH"), ("fail",), ("days", 32), ("void",), ("days", 2)],
    "downgrades while a payment is late": [
        ("subscribe", "ELITE"), ("fail",), ("days", 32), ("use_card",), ("change", "STARTER"), ("recover",),
        ("days", 31),
    ],
    "leaves while a payment is late, pays and stays": [
        ("subscribe", "GROWTH"), ("fail",), ("days", 32), ("cancel",), ("recover",), ("resume",), ("days", 31),
    ],
    "has an invoice voided and fails again": [
        ("subscribe", "GROWTH"), ("fail",), ("days", 32), ("void",), ("days", 31),
    ],
    "pays tax by bank transfer": [
        ("taxed", "GROWTH"), ("fail",), ("days", 32), ("pay_outside",), ("use_card",), ("days", 31),
    ],
    "pays by bank transfer after the end": [("subscribe", "GROWTH"), ("fail",), ("days", 52), ("pay_outside",)],
    "is not collected for a month": [
        ("subscribe", "GROWTH"), ("update", UNCOLLECTED), ("days", 32), ("update", {"pause_collection": ""}),
        ("days", 31),
    ],
    "leaves while nothing is collected": [("subscribe", "GROWTH"), ("update", UNCOLLECTED), ("cancel",), ("days", 32)],
    # Leaving and coming back
    "leaves at once": [("subscribe", "GROWTH"), ("days", 3), ("cancel", {"now": True})],
    "leaves at once with a credit": [
        ("subscribe", "GROWTH"), ("days", 3), ("cancel", {"now": True, "prorate": True, "invoice_now": True}),
    ],
    "leaves at period end": [("subscribe", "GROWTH"), ("days", 3), ("cancel",), ("days", 32)],
    "changes the mind about leaving": [("subscribe", "GROWTH"), ("cancel",), ("days", 3), ("resume",), ("days", 31)],
    "leaves in a year": [("subscribe", "GROWTH"), ("cancel_in", 200), ("days", 31)],
    "leaves within the period": [("subscribe", "GROWTH"), ("cancel_in", 10), ("days", 12)],
    "moves the date of leaving": [
        ("subscribe", "GROWTH"), ("cancel_in", 10), ("days", 5), ("cancel_in", 60), ("days", 31),
    ],
    "wants to have left yesterday": [("subscribe", "GROWTH"), ("days", 3), ("refused", "cancel_in", -1)],
    "toggles the cancellation": [("subscribe", "GROWTH"), ("cancel",), ("resume",), ("cancel",)],
    "comes back": [
        ("subscribe", "GROWTH"), ("cancel", {"now": True}), ("days", 40), ("subscribe", "ELITE"), ("days", 31),
    ],
    "comes back twice in a second": [
        ("subscribe", "STARTER"), ("cancel", {"now": True}), ("subscribe", "GROWTH"), ("cancel", {"now": True}),
        ("subscribe", "ELITE"),
    ],
    "comes back as another customer": [
        ("subscribe", "GROWTH"), ("cancel", {"now": True}), ("days", 3), ("become_another_customer",),
        ("subscribe", "ELITE"),
    ],
    "comes back in euros": [
        ("subscribe", "GROWTH"), ("days", 3), ("cancel", {"now": True}), ("sold", 59_900, "eur"), ("days", 31),
    ],
    "runs under two customers": [
        ("subscribe", "GROWTH"), ("days", 3), ("become_another_customer",), ("subscribe", "ELITE"), ("days", 31),
    ],
    "is deleted with one subscription of two late": [
        ("subscribe", "GROWTH"), ("fail",), ("days", 32), ("use_card",), ("subscribe", "ELITE"), ("delete",),
    ],
    "does everything in a second": [
        ("subscribe", "STARTER"), ("change", "GROWTH"), ("change", "ELITE"), ("change", "STARTER"), ("cancel",),
        ("resume",), ("coupon", FIFTH), ("cancel", {"now": True}), ("subscribe", "GROWTH"),
    ],
    "is deleted at Stripe": [("subscribe", "GROWTH"), ("days", 3), ("delete",)],
    "is deleted and was cancelled": [("subscribe", "GROWTH"), ("cancel",), ("delete",)],
    "is deleted while a payment is late": [("subscribe", "GROWTH"), ("fail",), ("days", 32), ("delete",)],
    "is deleted within the trial": [("subscribe", "GROWTH", {"trial": 14}), ("days", 3), ("delete",)],
    # Money back
    "is refunded in full": [("subscribe", "GROWTH"), ("refund",), ("cancel", {"now": True})],
    "is refunded in part": [("subscribe", "GROWTH"), ("refund", 10_000), ("days", 31)],
    "is refunded twice in part": [("subscribe", "GROWTH"), ("refund", 10_000), ("days", 1), ("refund", 5_000)],
    "wants more back than was paid": [("subscribe", "GROWTH"), ("refused", "refund", 70_000)],
    "gets a credit note": [("subscribe", "GROWTH"), ("credit", 20_000), ("days", 31)],
    "gets a credit note and wants more": [
        ("subscribe", "GROWTH"), ("credit", 20_000), ("refused", "credit", 50_000), ("days", 31),
    ],
    "disputes and loses": [("subscribe", "GROWTH"), ("dispute", {"wins": False})],
    "disputes and wins": [("subscribe", "GROWTH"), ("dispute", {"wins": True}), ("days", 31)],
    "disputes and waits": [("subscribe", "GROWTH"), ("dispute",)],
    "is refunded in part and disputes": [("subscribe", "GROWTH"), ("refund", 10_000), ("dispute",), ("days", 31)],
    "is refunded in full and disputes": [("subscribe", "GROWTH"), ("refund",), ("dispute",), ("days", 31)],
    "disputes after a refund and is refunded the rest": [
        ("subscribe", "GROWTH"), ("refund", 10_000), ("dispute", {"wins": True}), ("days", 31), ("refund",),
    ],
    "disputes a year and goes to a month": [
        ("subscribe", "GROWTH YEARLY"), ("credit", 20_000), ("refund", 30_000), ("days", 40), ("dispute",),
        ("change", "GROWTH"), ("days", 5),
    ],
    "disputes and leaves": [("subscribe", "GROWTH"), ("dispute",), ("cancel", {"now": True})],
    # Prices, discounts, tax
    "has a coupon for ever": [("discounted", "GROWTH", FIFTH), ("days", 31)],
    "has a coupon once": [("discounted", "GROWTH", {"percent_off": 50, "duration": "once"}), ("days", 31)],
    "has a coupon of everything": [("discounted", "GROWTH", {"percent_off": 100, "duration": "forever"}), ("days", 31)],
    "upgrades under a coupon of everything": [
        ("discounted", "STARTER", {"percent_off": 100, "duration": "forever"}), ("days", 9), ("change", "GROWTH"),
        ("days", 31),
    ],
    "has a coupon when a downgrade came, and leaves": [
        ("discounted", "ELITE", FIFTH), ("schedule", "STARTER"), ("days", 40), ("change_mind",), ("cancel",),
        ("days", 31),
    ],
    "has an amount off for months": [
        ("discounted", "GROWTH", {
            "amount_off": 10_000, "currency": "usd", "duration": "repeating", "duration_in_months": 2,
        }), ("days", 31),
    ],
    "has more off than the price": [
        ("discounted", "STARTER", {"amount_off": 99_000, "currency": "usd", "duration": "forever"}), ("days", 31),
    ],
    "has a coupon of everything for a month": [
        ("discounted", "GROWTH", {"percent_off": 100, "duration": "repeating", "duration_in_months": 1}), ("days", 63),
    ],
    "has a coupon that ends while a downgrade waits": [
        ("discounted", "ELITE", {"percent_off": 50, "duration": "repeating", "duration_in_months": 2}), ("days", 32),
        ("schedule", "STARTER"), ("days", 62),
    ],
    "has another coupon instead": [
        ("discounted", "GROWTH", FIFTH), ("days", 3),
        ("coupon", {"amount_off": 5_000, "currency": "usd", "duration": "forever"}), ("days", 31),
    ],
    "gets a coupon later": [("subscribe", "GROWTH"), ("coupon", FIFTH), ("days", 31)],
    "pays tax": [("taxed", "GROWTH"), ("days", 31)],
    "pays tax on an upgrade": [("taxed", "STARTER"), ("days", 9), ("change", "GROWTH"), ("days", 31)],
    "goes to a year with tax and a coupon": [
        ("taxed", "STARTER"), ("coupon", FIFTH), ("days", 9), ("change", "GROWTH YEARLY"), ("days", 20),
        ("refund", 5_000),
    ],
    "pays in euros": [("sold", 59_900, "eur"), ("days", 31)],
    "pays in yen": [("sold", 60_000, "jpy"), ("days", 31)],
    "pays in dinars": [("sold", 199_990, "kwd"), ("days", 31)],
    "pays fractions of a cent": [("sold", "1050.5"), ("days", 31)],
    "has an unknown price": [("sold", 12_300, "usd", None), ("days", 31)],
}  # fmt: skip


def play(double: Double, client: Any, plans: dict[str, str], name: str, start: int) -> Life:
    life = Life.begin(double, client, start, name=name)
    life.plans = plans
    return life.play(LIVES[name])
