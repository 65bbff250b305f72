import json
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl, Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.errors import ApiError
from shared.settings import Settings


class PortalVisit(RequestModel):
    """Without `return_url` the portal leads nowhere back."""

    return_url: (
        Annotated[
            str,
            Field(
                max_length=2000,
                pattern=r"^https?://[^\s\\]+$",
                description="Where the portal leads back to: an address of an origin this service knows.",
            ),
        ]
        | None
    ) = None


class PortalSession(ResponseModel):
    url: Annotated[AnyHttpUrl, Field(description="Send the owner there soon, and nobody else: it is their way in.")]


@function(
    "user",
    status=201,
    errors={409: "The organisation has never bought anything, or Stripe no longer knows it."},
)
async def create_billing_portal_session(call: Call[PortalVisit]) -> Result[PortalSession]:
    """Open Stripe's customer portal.

    There the OWNER of the organisation sees its invoices, changes the card, changes or cancels the plan. What they do
    comes back by the webhook.
    """
    customer = json.loads((await call.run("private.billing_customer", "{}")).json)["stripe_customer_id"]
    if call.body.return_url:
        _check_origin(call.body.return_url, call.settings)
    stripe = call.stripe()
    from stripe import InvalidRequestError  # noqa: PLC0415 - loaded by the line above, and by nobody before

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
            "Stripe does not know this organisation",
            details=f"Its customer is {customer}.",
            hint="It was deleted there, or belongs to another account; support has to look into it.",
        ) from None
    return Result(json.dumps({"url": session.url}))


def _check_origin(address: str, settings: Settings) -> None:
    """A link of ours that leads to a stranger's page would make them look like us."""
    try:
        found = urlsplit(address)
        origin = f"{found.scheme}://{found.netloc}".lower()
    except ValueError:  # brackets that do not close
        origin = address
    if origin not in settings.return_origins:
        raise ApiError(
            422,
            "unknown_origin",
            "This service does not lead back there",
            details=f"Found {origin}.",
            hint=f"Known origins are: {', '.join(settings.return_origins) or 'none; set RETURN_ORIGINS'}.",
        )
