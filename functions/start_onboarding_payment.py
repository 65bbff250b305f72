import json
from typing import Annotated

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import function
from shared.errors import ApiError
from shared.onboarding.sessions import OnboardingSession, SessionReference

UNPAID = {"PENDING", "REQUIRES_ACTION", "FAILED"}


class StartPayment(SessionReference):
    """The address is needed where automatic tax is configured."""

    promotion_code: (
        Annotated[str, Field(min_length=1, max_length=200, description="As the customer typed it.")] | None
    ) = None
    country: Annotated[str, Field(pattern="^[A-Z]{2}$", description="Two letters, such as DE.")] | None = None
    postal_code: Annotated[str, Field(min_length=1, max_length=20)] | None = None


class OnboardingPayment(OnboardingSession):
    client_secret: Annotated[
        str | None,
        Field(description="For Stripe's form in the browser; null once nothing is left to do in it."),
    ]


@function(
    "user",
    "publishable",
    errors={
        404: "There is no such session for this caller.",
        409: "The session is not at the payment step, or its payment was cancelled.",
        410: "The session has expired.",
        503: "Stripe is unavailable or not configured; retrying loses nothing.",
    },
)
async def start_onboarding_payment(call: Call[StartPayment]) -> Result[OnboardingPayment]:
    """Do step 3: start the payment, or continue the one that was started.

    Repeating it never makes a second subscription. The price is the plan's; a promotion code and tax change what is
    paid. After a declined card the same client secret accepts another. Once it is paid, call complete-onboarding-
    session.
    """
    await call.load_stripe("shared.onboarding.payments")
    from shared.onboarding.payments import (  # noqa: PLC0415 - imports Stripe's library
        cancel_if_possible,
        promotion_code_of,
        record,
        start,
    )

    more: dict[str, str | None] = {}
    if call.body.promotion_code is not None:
        more["promotion_code"] = await promotion_code_of(call, call.body.promotion_code)
    if call.settings.stripe_automatic_tax:
        if call.body.country is None:
            raise ApiError(
                422,
                "country_required",
                "The country decides the tax",
                details="Found no country.",
                hint="Send country (two letters), and postal_code where there is one.",
            )
        more |= {"country": call.body.country, "postal_code": call.body.postal_code}
    fetched = await start(call, call.body.request(**more))
    result = await record(call, fetched)
    if result["outcome"] == "MISMATCH":
        await cancel_if_possible(call, [result["payment"]])
        raise ApiError(
            503,
            "price_differs",
            "This plan cannot be paid for at present",
            details=f"At Stripe {result['problem']}.",
            hint="Nothing was charged. An administrator has to make plans and the prices at Stripe agree.",
            headers={"retry-after": "300"},
        )
    session = result["session"]
    secret = fetched.client_secret if session["payment_status"] in UNPAID else None
    return Result(json.dumps({**session, "client_secret": secret}))
