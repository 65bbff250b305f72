"""`strive stripe`: what a person does with the Stripe double from the shell."""

from datetime import UTC, datetime

import httpx

from local import StackError
from local.stack import Stack

PATIENCE_S = 120  # a year of renewals takes seconds


def clock(stack: Stack, days: float) -> str:
    """Move the time of the double, and say what it is then."""
    if not stack.ports or not stack.ports.stripe:
        raise StackError(
            "There is no Stripe double: this stack uses your own account, or does not run.",
            "Start one without STRIPE_SECRET_KEY: strive start. In your own account use Stripe's test clocks.",
        )
    address = stack.values()["STRIPE_API_BASE"]
    try:
        response = httpx.post(f"{address}/control", json={"advance": {"days": days}}, timeout=PATIENCE_S)
    except httpx.HTTPError as error:
        raise StackError(f"The Stripe double does not answer: {error}", "Start it with: strive start") from error
    if response.is_error:
        raise StackError(response.text)
    then = datetime.fromtimestamp(response.json()["now"], UTC)
    return f"At Stripe it is {then:%Y-%m-%d %H:%M} UTC. Subscriptions and payments: {address}/"
