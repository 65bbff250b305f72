"""Events as Stripe sends them: signed, in the shape of 2024 or of 2026."""

import hmac
import itertools
import json
import time
from typing import Any

import httpx

from tests.support.serving import Serving
from tests.support.world import Connection, Row

WEBHOOK = "/functions/v1/stripe-webhook"
SECRET = "whsec_of_the_tests"
OLD_SECRET = "whsec_of_the_tests_before"
SHAPES = ("2024-06-20", "2026-10-28.endive")
PRICES = {
    ("STARTER", "MONTHLY"): "price_starter",
    ("GROWTH", "MONTHLY"): "price_growth",
    ("ELITE", "MONTHLY"): "price_elite",
    ("GROWTH", "YEARLY"): "price_growth_yearly",
}
NOW = 1_795_000_000
MONTH = 30 * 86_400

_serial = itertools.count(1)


def event(kind: str, of: Any, *, created: int = NOW, before: Any = None, **fields: Any) -> Row:
    data = {"object": of} | ({"previous_attributes": before} if before is not None else {})
    return {
        "id": f"evt_{next(_serial):08}",
        "object": "event",
        "api_version": SHAPES[1],
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
        **fields,
    }


def subscription(
    name: str = "sub_1",
    customer: str | None = "cus_1",
    *,
    status: str = "active",
    price: str = "price_growth",
    amount: int = 69_900,
    start: int = NOW,
    end: int = NOW + MONTH,
    shape: str = SHAPES[1],
    **fields: Any,
) -> Row:
    period = {"current_period_start": start, "current_period_end": end}
    item = {
        "id": f"si_{name}",
        "object": "subscription_item",
        "price": {"id": price, "object": "price", "unit_amount": amount, "currency": "usd"},
        "quantity": 1,
    }
    return {
        "id": name,
        "object": "subscription",
        "created": NOW,
        "customer": customer,
        "status": status,
        "cancel_at_period_end": False,
        "cancel_at": None,
        "canceled_at": None,
        "ended_at": None,
        "latest_invoice": f"in_{name}",
        "metadata": {},
        "items": {"object": "list", "data": [item | (period if shape == SHAPES[1] else {})]},
        **(period if shape == SHAPES[0] else {}),
        **fields,
    }


def differences(before: Row, after: Row) -> Row:
    """previous_attributes: changed fields only, lists whole, null for missing fields."""
    found: Row = {}
    for name in before.keys() | after.keys():
        was, now = before.get(name), after.get(name)
        if was != now:
            found[name] = differences(was, now) if isinstance(was, dict) and isinstance(now, dict) else was
    return found


def signed(body: bytes, *, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    timestamp = int(time.time() if at is None else at)
    signature = hmac.digest(secret.encode(), b"%d.%s" % (timestamp, body), "sha256").hex()
    return {"content-type": "application/json; charset=utf-8", "stripe-signature": f"t={timestamp},v1={signature}"}


def send(functions: Serving, sent_event: Any, client: httpx.Client | None = None, **headers: str) -> httpx.Response:
    body = sent_event if isinstance(sent_event, bytes) else json.dumps(sent_event).encode()
    if client:
        return client.post(WEBHOOK, content=body, headers=signed(body) | headers)
    with functions.client(None) as one:
        return one.post(WEBHOOK, content=body, headers=signed(body) | headers)


def sell(connection: Connection) -> None:
    """Set the Stripe prices of the plans."""
    for (tier, cycle), price in PRICES.items():
        connection.execute(
            "update public.plans set stripe_price_id = %s where tier = %s and billing_cycle = %s", [price, tier, cycle]
        )
