"""Create what is sold at Stripe: a product for each tier on sale, a price for each plan, found by its lookup key."""

from contextlib import closing
from http import HTTPStatus
from typing import Any, Literal
from uuid import UUID

import psycopg
import stripe

from shared.billing.plans import INTERVALS

ON_SALE = """
select id, tier::text, billing_cycle::text, amount_cents, currency, stripe_price_id from public.plans
where is_active and amount_cents > 0 order by amount_cents
"""


def put_on_sale(connection: psycopg.Connection[Any], address: str, key: str) -> list[str]:
    """Create missing prices and save them in their plans; returns the lookup keys of the plans that changed.

    A price at Stripe never changes its amount: for another amount a new price takes over the lookup key.
    """
    secure = address.startswith("https:")
    with closing(stripe.HTTPXClient(30, allow_sync_methods=True, verify_ssl_certs=secure)) as http:
        return _put_on_sale(connection, stripe.StripeClient(key, base_addresses={"api": address}, http_client=http))


def _put_on_sale(connection: psycopg.Connection[Any], client: stripe.StripeClient) -> list[str]:
    plans = connection.execute(ON_SALE).fetchall()
    keys = {plan[0]: f"strive_{plan[1]}_{plan[2]}".lower() for plan in plans}
    found = client.v1.prices.list({"lookup_keys": list(keys.values()), "active": True, "limit": 100}) if keys else ()
    known = {price.lookup_key: price for price in found}
    changed = []
    for plan, tier, cycle, amount, currency, saved in plans:
        key, interval = keys[plan], INTERVALS[cycle]
        price = known.get(key)
        sold = price and (price.unit_amount, price.currency, price.recurring and price.recurring.interval)
        if price is None or sold != (amount, currency, interval):
            price = _create_price(client, key, tier, amount, currency, interval)
        if price.id != saved:
            _save_price(connection, plan, price.id)
            changed.append(key)
    return changed


def _create_price(
    client: stripe.StripeClient, key: str, tier: str, amount: int, currency: str, interval: Literal["month", "year"]
) -> stripe.Price:
    product = f"strive_{tier.lower()}"
    try:
        client.v1.products.retrieve(product)
    except stripe.InvalidRequestError as error:
        if error.http_status != HTTPStatus.NOT_FOUND:
            raise
        client.v1.products.create({"id": product, "name": f"Strive {tier.title()}", "metadata": {"tier": tier}})
    return client.v1.prices.create(
        {
            "product": product,
            "currency": currency,
            "unit_amount": amount,
            "lookup_key": key,
            "transfer_lookup_key": True,
            "recurring": {"interval": interval},
            "metadata": {"tier": tier},
        }
    )


def _save_price(connection: psycopg.Connection[Any], plan: UUID, price: str) -> None:
    with connection.transaction():
        # The event of the new price may have arrived first and made a plan that is not on sale.
        connection.execute("lock table public.plans in share row exclusive mode")
        connection.execute("delete from public.plans where stripe_price_id = %s and not is_active", (price,))
        connection.execute("update public.plans set stripe_price_id = %s where id = %s", (price, plan))
