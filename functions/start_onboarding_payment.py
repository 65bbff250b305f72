import json
from typing import Annotated

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import function
from shared.errors import ApiError
from shared.onboarding.sessions import Named, Session

UNPAID = {"PENDING", "REQUIRES_ACTION", "FAILED"}


class Payment(Session):
    client_secret: Annotated[
        str | None,
        Field(description="For Stripe's own form in the browser; none once there is nothing left to be done in it."),
    ]


@function(
    "user",
    "publishable",
    errors={
        404: "There is no such session for this caller.",
        409: "The session is not at its payment, or its payment was cancelled.",
        410: "The session has expired.",
        503: "Stripe cannot be reached, or is not set up; nothing is lost by trying again.",
    },
)
async def start_onboarding_payment(call: Call[Named]) -> Result[Payment]:
    """Do step 3: start the payment, or go on with the one that was started.

    Repeated at any time it never makes a second subscription. The price is that of the plan. After a declined card the
    same client secret takes another. Once it is paid, complete-onboarding-session.
    """
    from shared.onboarding.payments import follow, let_go_if_possible, start  # noqa: PLC0415 - brings Stripe's library

    seen = await start(call, call.body.asked())
    followed = await follow(call, seen)
    if followed["outcome"] == "MISMATCH":
        await let_go_if_possible(call, [followed["payment"]])
        raise ApiError(
            503,
            "price_differs",
            "This plan cannot be paid for at present",
            details=f"At Stripe {followed['problem']}.",
            hint="Nothing was charged. The administrators make plans and the prices at Stripe agree.",
            headers={"retry-after": "300"},
        )
    session = followed["session"]
    secret = seen.client_secret if session["payment_status"] in UNPAID else None
    return Result(json.dumps({**session, "client_secret": secret}))
