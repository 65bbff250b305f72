"""Reconciliation fetches what the webhook missed; afterwards Strive and Stripe agree."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stripe as library

from local.stripe.server import Double
from tests.support.paying import ANOTHER_CARD, AUTHENTICATED
from tests.support.responses import refused
from tests.support.serving import SECRET_KEY, Serving, environment, serving
from tests.support.stripe_events import SECRET, WEBHOOK
from tests.support.world import Connection, Database, Row

RECONCILE = "/functions/v1/reconcile-stripe"
# The clock of the double may run ahead of this machine's.
HERE = {"trialing": "TRIAL", "active": "ACTIVE", "past_due": "PAST_DUE", "canceled": "CANCELLED"}


@dataclass
class Shop:
    """The Stripe double, functions on its webhook, and the state of both."""

    double: Double
    client: Any
    functions: Serving
    connection: Connection
    price: str
    other_price: str

    def subscribe(self, name: str, card: str = "4242424242424242") -> Any:
        customer = self.client.v1.customers.create({"name": name, "email": f"{name}@private.test"})
        self.connection.execute(
            "insert into public.organizations (name, slug, stripe_customer_id) values (%s, %s, %s)",
            [name, name, customer.id],
        )
        made = self.client.v1.subscriptions.create(
            {
                "customer": customer.id,
                "items": [{"price": self.price}],
                "payment_behavior": "default_incomplete",
                "payment_settings": {"save_default_payment_method": "on_subscription"},
                "expand": ["latest_invoice.payments"],
            }
        )
        self.double.pay(made.latest_invoice.payments.data[0].payment.payment_intent, card)
        return made

    def reconcile(self, **body: Any) -> Row:
        with self.functions.client(None) as client:
            answer = client.post(RECONCILE, json=body, headers={"apikey": SECRET_KEY})
        assert answer.status_code == 200, answer.text
        assert answer.json()["outcome"] == "DONE"
        return dict(answer.json()["result"])

    def differences(self) -> list[tuple[Any, ...]]:
        """Differences between Strive and Stripe, in both directions."""
        here = set(
            self.connection.execute(
                "select stripe_subscription_id, status::text, cancel_at_period_end, tier::text"
                " from public.subscriptions"
            )
        )
        tiers = {self.price: "GROWTH", self.other_price: "ELITE"}
        listed = self.client.v1.subscriptions.list({"status": "all", "limit": 100}).auto_paging_iter()
        there = {
            (
                each.id,
                HERE.get(each.status, "INACTIVE"),
                each.cancel_at is not None,
                tiers[each["items"].data[0].price.id],
            )
            for each in listed
        }
        return sorted(here ^ there)


@pytest.fixture
def shop(tmp_path: Path, fresh_database: Database) -> Iterator[Shop]:
    double = Double().start()
    http = library.HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False)
    client: Any = library.StripeClient(double.key, base_addresses={"api": double.url}, http_client=http)
    variables = environment(fresh_database.url("strive_functions")) | double.environment(SECRET)
    try:
        with serving(tmp_path, variables) as functions, fresh_database.connect() as connection:
            product = client.v1.products.create({"name": "Strive"})
            prices = [
                client.v1.prices.create(
                    {
                        "product": product.id,
                        "currency": "usd",
                        "unit_amount": amount,
                        "recurring": {"interval": "month"},
                        "metadata": {"tier": tier},
                    }
                ).id
                for tier, amount in (("GROWTH", 69_900), ("ELITE", 199_900))
            ]
            double.send_events_to(f"{functions.url}{WEBHOOK}", SECRET)
            yield Shop(double, client, functions, connection, *prices)
    finally:
        double.stop()
        http.close()  # type: ignore[no-untyped-call]  # the library leaves it untyped


def live(shop: Shop, count: int = 12) -> list[Any]:
    """Subscriptions with a change each."""
    made = [shop.subscribe(f"org-{number}") for number in range(count)]
    update, cancel = shop.client.v1.subscriptions.update, shop.client.v1.subscriptions.cancel
    for number, each in enumerate(made):
        if number % 4 == 1:
            update(each.id, {"cancel_at_period_end": True})
        elif number % 4 == 2:
            (item,) = shop.client.v1.subscriptions.retrieve(each.id)["items"].data
            update(each.id, {"items": [{"id": item.id, "price": shop.other_price}]})
        elif number % 4 == 3:
            cancel(each.id)
    return made


def test_older_prices_are_synced_from_the_event_list(shop: Shop) -> None:
    result = shop.reconcile()
    assert [each["type"] for each in result["changed"]] == ["product.created", "price.created", "price.created"]
    linked = shop.connection.execute(
        "select tier::text, stripe_price_id from public.plans where stripe_price_id is not null and is_active"
    ).fetchall()
    assert sorted(linked) == [("ELITE", shop.other_price), ("GROWTH", shop.price)]


def test_reconciliation_repairs_lost_shuffled_and_repeated_deliveries(shop: Shop) -> None:
    shop.reconcile()
    shop.double.mischief(seed=7, drop=0.05, duplicate=0.1, shuffle=20)
    live(shop)
    shop.double.deliveries.settle()
    shop.double.lag(60)
    shop.reconcile()  # changes of the last minute are not in the list yet
    shop.double.advance(seconds=90)
    shop.reconcile()
    assert shop.differences() == []
    assert shop.reconcile()["changes"] == 0


def test_reconciliation_repairs_an_outage_without_deliveries(shop: Shop) -> None:
    shop.reconcile()
    shop.double.mischief(seed=1, drop=1.0)
    live(shop)
    assert shop.differences() != []
    result = shop.reconcile(compare=False)
    assert result["missed_events"] > 50
    assert shop.differences() == []


def test_reconciliation_finds_changes_missing_from_the_event_list(shop: Shop) -> None:
    shop.reconcile()
    live(shop)
    shop.double.deliveries.settle()
    assert shop.differences() == []
    # As if no event had arrived in the last hour and Stripe no longer listed its events.
    shop.double.store._rows("delete from objects where kind = 'event'")
    shop.connection.execute(
        "delete from public.stripe_events where type <> 'customer.subscription.created';"
        "update public.stripe_events set created = created - interval '1 hour';"
        "update public.stripe_objects o set is_last = false, state_at = f.state_at, state = f.state"
        " from public.stripe_objects p cross join lateral private.fold_stripe_object(p.id, 'infinity') f"
        " where o.id = p.id and o.type = 'subscription';"
        "select private.settle_stripe_object(o) from public.stripe_objects o where o.type = 'subscription'"
    )
    assert shop.differences() != []
    shop.reconcile(compare=True)
    assert shop.differences() == []
    assert shop.reconcile(compare=True)["changes"] == 0


def test_ambiguous_object_is_fetched(shop: Shop) -> None:
    shop.reconcile()
    made = shop.subscribe("org-doubted")
    shop.double.deliveries.settle()
    shop.connection.execute(
        "update public.stripe_objects set in_doubt_since = now() - interval '5 minutes',"
        ' state = state || \'{"status": "unpaid"}\' where id = %s',
        [made.id],
    )
    (change,) = shop.reconcile(compare=False)["changed"]
    assert (change["before"], change["after"]) == ({"status": "unpaid"}, {"status": "active"})
    assert shop.differences() == []


def test_payment_with_ambiguous_events_is_fetched(shop: Shop) -> None:
    shop.reconcile()
    shop.double.deliveries.paused = True
    made = shop.subscribe("org-doubted", ANOTHER_CARD)
    shop.double.pay(made.latest_invoice.payments.data[0].payment.payment_intent, AUTHENTICATED)
    shop.double.deliveries.paused = False
    shop.double.deliveries.settle()
    shown = "select state ->> 'status', in_doubt_since is null from public.stripe_objects where type = 'payment_intent'"
    assert shop.connection.execute(shown).fetchone() == ("requires_payment_method", False)
    shop.connection.execute(
        "update public.stripe_events set created = created - interval '5 minutes';"
        "update public.stripe_objects set in_doubt_since = in_doubt_since - interval '5 minutes'"
    )
    shop.reconcile(compare=False)
    assert shop.connection.execute(shown).fetchone() == ("requires_action", True)


def test_reconciliation_reads_all_pages_of_lost_events(shop: Shop) -> None:
    shop.double.mischief(seed=1, drop=1.0)
    live(shop, 14)
    result = shop.reconcile(compare=False)
    assert result["missed_events"] == result["changes"] > 100  # events of one page
    assert shop.differences() == []
    assert shop.reconcile()["changes"] == 0


@pytest.mark.parametrize("how", ["429", "500", "timeout"])
def test_stripe_failure_during_reconciliation_loses_no_event(shop: Shop, how: str) -> None:
    shop.reconcile()
    shop.double.mischief(seed=1, drop=1.0)
    live(shop, 4)
    shop.double.fail(how, times=9, path="events")
    with shop.functions.client(None) as client:
        failed = client.post(RECONCILE, json={}, headers={"apikey": SECRET_KEY})
    refused(failed, 500, "job_failed")
    shop.double.faults.clear()
    shop.reconcile()
    assert shop.differences() == []


def test_reconciliation_requires_a_secret_key(shop: Shop) -> None:
    with shop.functions.client("super_admin") as client:
        refused(client.post(RECONCILE, json={}), 401, "missing_credentials")
