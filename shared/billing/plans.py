"""What the billing functions of owners share: the wanted plan, the return addresses, the subscription in a response."""

import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field

from shared.app.call import Call
from shared.app.function import RequestModel, ResponseModel
from shared.billing.events import parse_object
from shared.errors import ApiError
from shared.schema import BillingCycle, SubscriptionStatus, SubscriptionTier
from shared.settings import Settings

Address = Annotated[
    str,
    Field(
        max_length=2000,
        pattern=r"^https?://[^\s\\]+$",
        description="The address to which Stripe returns: of an origin in RETURN_ORIGINS.",
    ),
]
Effect = Literal["NOW", "PERIOD_END", "NONE"]
EXPAND = ["discounts", "items.data.discounts"]
INTERVALS: dict[str, Literal["month", "year"]] = {"MONTHLY": "month", "YEARLY": "year"}


class WantedPlan(RequestModel):
    """`quantity` is the number of seats, for plans that are sold per seat."""

    tier: SubscriptionTier
    billing_cycle: BillingCycle
    quantity: Annotated[int, Field(ge=1, le=100_000)] | None = None


class Subscription(ResponseModel):
    tier: SubscriptionTier
    billing_cycle: BillingCycle
    status: SubscriptionStatus
    quantity: int
    currency: str
    amount_cents: Annotated[int, Field(description="List price per billing cycle, before discounts and tax.")]
    current_period_start: AwareDatetime
    current_period_end: AwareDatetime
    trial_ends_at: AwareDatetime | None
    ends_at: Annotated[AwareDatetime | None, Field(description="When it ends; null while it renews.")]


async def run(call: Call[Any], operation: str, request: Any = None) -> Any:
    """Run an operation of the database as the caller and parse its result."""
    result = (await call.run(operation, json.dumps(request if request is not None else {}))).json
    return json.loads(result) if result else None


async def show(call: Call[Any], subscription: Any) -> Any:
    """A subscription in the form of the API, as Stripe has just returned it: its events may arrive later."""
    return await run(call, "private.show_subscription", parse_object(subscription.to_dict()))


def check_origin(address: str, settings: Settings) -> None:
    """Refuse return addresses of other sites, whose pages could look like ours."""
    try:
        found = urlsplit(address)
        origin = f"{found.scheme}://{found.netloc}".lower()
    except ValueError:  # brackets that do not close
        origin = address
    if origin not in settings.return_origins:
        raise ApiError(
            422,
            "unknown_origin",
            "This return address is not accepted",
            details=f"Found {origin}.",
            hint=f"Known origins are: {', '.join(settings.return_origins) or 'none; set RETURN_ORIGINS'}.",
        )
