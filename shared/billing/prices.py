"""Create what is sold at Stripe: a product for each tier on sale, a price for each plan, found by its lookup key."""

import base64
import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg

from local import StackError

INTERVALS = {"MONTHLY": "month", "YEARLY": "year"}
ON_SALE = """
select id, tier::text, billing_cycle::text, amount_cents, currency, stripe_price_id from public.plans
where is_active and amount_cents > 0 order by amount_cents
"""


def put_on_sale(connection: psycopg.Connection[Any], address: str, key: str) -> list[str]:
    """Create missing prices and save them in their plans; returns the lookup keys of the plans that changed."""
    catalogue = _Catalogue(address, key)
    try:
        return catalogue.put_on_sale(connection)
    finally:
        catalogue.close()


class _Catalogue:
    """Products and prices of one Stripe account. Nothing is created twice."""

    def __init__(self, address: str, key: str) -> None:
        at = urlsplit(address)
        secure = at.scheme == "https"
        self._connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
            at.netloc, timeout=30
        )
        self._address = address
        self._headers = {
            "authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode(),
            "content-type": "application/x-www-form-urlencoded",
        }

    def close(self) -> None:
        self._connection.close()

    def put_on_sale(self, connection: psycopg.Connection[Any]) -> list[str]:
        """A price at Stripe never changes its amount: for another amount a new price takes over the lookup key."""
        plans = connection.execute(ON_SALE).fetchall()
        keys = {plan[0]: f"strive_{plan[1]}_{plan[2]}".lower() for plan in plans}
        query = urlencode([("lookup_keys[]", key) for key in keys.values()] + [("active", "true"), ("limit", "100")])
        known = {price["lookup_key"]: price for price in self._ask("GET", f"/v1/prices?{query}")["data"]}
        changed = []
        for plan, tier, cycle, amount, currency, saved in plans:
            key, interval = keys[plan], INTERVALS[cycle]
            price = known.get(key)
            sold = price and (price["unit_amount"], price["currency"], (price["recurring"] or {}).get("interval"))
            if sold != (amount, currency, interval):
                price = self._price(key, tier, amount, currency, interval)
            assert price  # noqa: S101 - found or made
            if price["id"] != saved:
                with connection.transaction():
                    # The event of the new price may have arrived first, and made a plan that is not on sale.
                    connection.execute("lock table public.plans in share row exclusive mode")
                    connection.execute(
                        "delete from public.plans where stripe_price_id = %s and not is_active", (price["id"],)
                    )
                    connection.execute(
                        "update public.plans set stripe_price_id = %s where id = %s", (price["id"], plan)
                    )
                changed.append(key)
        return changed

    def _price(self, key: str, tier: str, amount: int, currency: str, interval: str) -> dict[str, Any]:
        product = f"strive_{tier.lower()}"
        if self._ask("GET", f"/v1/products/{product}", missing=True) is None:
            named = {"id": product, "name": f"Strive {tier.title()}", "metadata[tier]": tier}
            self._ask("POST", "/v1/products", named)
        price: dict[str, Any] = self._ask(
            "POST",
            "/v1/prices",
            {
                "product": product,
                "currency": currency,
                "unit_amount": amount,
                "lookup_key": key,
                "transfer_lookup_key": "true",
                "recurring[interval]": interval,
                "metadata[tier]": tier,
            },
        )
        return price

    def _ask(self, method: str, path: str, given: Mapping[str, Any] = {}, *, missing: bool = False) -> Any:
        try:
            self._connection.request(method, path, urlencode(given), self._headers)
            response = self._connection.getresponse()
            found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise StackError(f"Stripe at {self._address} does not answer: {problem}.") from None
        if missing and response.status == http.HTTPStatus.NOT_FOUND:
            return None
        if response.status != http.HTTPStatus.OK:
            raise StackError(f"Stripe refused: {found['error']['message']}")
        return found
