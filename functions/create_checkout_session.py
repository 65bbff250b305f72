import json
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AnyHttpUrl, AwareDatetime, Field

from shared.app.call import Call, Result
from shared.app.function import ResponseModel, function
from shared.billing.plans import Address, WantedPlan, check_origin
from shared.schema import BillingCycle, SubscriptionTier


class CheckoutRequest(WantedPlan):
    success_url: Address
    cancel_url: Address


class CheckoutSession(ResponseModel):
    """Repeated requests while it is open get the same session, with the return addresses of the first."""

    url: Annotated[AnyHttpUrl, Field(description="Stripe's page where the plan is paid.")]
    expires_at: AwareDatetime
    tier: SubscriptionTier
    billing_cycle: BillingCycle
    quantity: int
    trial_days: Annotated[int, Field(description="Free days; only for the first subscription of an organization.")]


@function(
    "user",
    status=201,
    errors={
        409: "The organization has a plan, or it was bought a moment ago.",
        422: "The plan is not for sale here, or an address leads to an unknown origin.",
        503: "Stripe is unavailable or not configured; retrying never makes a second session.",
    },
)
async def create_checkout_session(call: Call[CheckoutRequest]) -> Result[CheckoutSession]:
    """Buy a plan for the current organization, for the first time or again after an end.

    For its OWNER. Stripe's page takes the payment, promotion codes and tax where they are configured. Two owners, or
    two tabs, get the same page; asking for another plan replaces it. The plan begins with Stripe's event, seconds
    after the payment.
    """
    await call.load_stripe("shared.billing.checkout")
    from shared.billing.checkout import open_checkout  # noqa: PLC0415 - imports Stripe's library

    for address in (call.body.success_url, call.body.cancel_url):
        check_origin(address, call.settings)
    opened = await open_checkout(call, call.body.model_dump(mode="json"))
    opened["expires_at"] = datetime.fromtimestamp(opened["expires_at"], UTC).isoformat()
    return Result(json.dumps(opened))
