import json
from typing import Annotated

from pydantic import AnyHttpUrl, Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.billing.plans import Address, check_origin
from shared.errors import ApiError


class PortalRequest(RequestModel):
    """Without `return_url` the portal shows no way back."""

    return_url: Address | None = None


class PortalSession(ResponseModel):
    url: Annotated[
        AnyHttpUrl, Field(description="Redirect the owner there soon, and no other person: the address signs them in.")
    ]


@function(
    "user",
    status=201,
    errors={409: "The organization has never bought anything, or Stripe no longer knows it."},
)
async def create_billing_portal_session(call: Call[PortalRequest]) -> Result[PortalSession]:
    """Open Stripe's customer portal.

    There the OWNER of the organization changes cards, addresses and tax ids, and sees its invoices. Stripe's events
    report the changes.
    """
    customer = json.loads((await call.run("private.billing_customer", "{}")).json)["stripe_customer_id"]
    if call.body.return_url:
        check_origin(call.body.return_url, call.settings)
    await call.load_stripe("shared.billing.client", "stripe")
    from stripe import InvalidRequestError  # noqa: PLC0415 - a large library

    stripe = call.stripe()
    try:
        session = await stripe.v1.billing_portal.sessions.create_async(
            {"customer": customer, **({"return_url": call.body.return_url} if call.body.return_url else {})}
        )
    except InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
        raise ApiError(
            409,
            "unknown_customer",
            "Stripe does not know this organization",
            details=f"Its customer is {customer}.",
            hint="It was deleted there, or belongs to another account; support has to look into it.",
        ) from None
    return Result(json.dumps({"url": session.url}))
