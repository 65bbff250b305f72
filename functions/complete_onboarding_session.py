import json
from typing import Any

from shared.app.call import Call, Result
from shared.app.function import function
from shared.errors import ApiError
from shared.onboarding.sessions import OnboardingSession, SessionReference

HINTS = {
    "PENDING": "Pay first, with the client secret of start-onboarding-payment.",
    "FAILED": "Try again, or pay with another card; the client secret stays the same.",
    "REQUIRES_ACTION": "The bank wants the customer to confirm the payment.",
    "PROCESSING": "Wait; the organization is created as soon as the payment has succeeded, even without this call.",
    "CANCELLED": "Start a new session.",
}


@function(
    "user",
    "publishable",
    errors={
        404: "There is no such session for this caller.",
        409: "A step is missing, or the payment has not succeeded; details say which.",
        410: "The session has expired, or its payment is being refunded.",
        503: "Stripe is unavailable; nothing is lost, and a paid session completes even without this call.",
    },
)
async def complete_onboarding_session(call: Call[SessionReference]) -> Result[OnboardingSession]:
    """Do step 4: create the organization, with the caller as its OWNER.

    The payment is fetched from Stripe and must agree with the offer in price, plan, currency and session. Repeated
    calls, also at the same time, create nothing more and return the same. A caller who is not signed in gets 401:
    sign up and send the token again. Then name the organization in `x-org-id`.
    """
    answer = json.loads((await call.run("private.complete_onboarding_session", call.body.request())).json)
    if payment := answer.get("payment"):
        await call.load_stripe("shared.onboarding.payments")
        from shared.onboarding.payments import fetch, run  # noqa: PLC0415 - a FREE session needs no Stripe

        fetched = await fetch(call, payment["stripe_subscription_id"])
        answer = await run(call, "private.complete_onboarding_session", call.body.request(fetched=fetched.facts()))
    if not answer["session"]["is_completed"]:
        raise refusal(answer)
    return Result(json.dumps(answer["session"]))


def refusal(answer: dict[str, Any]) -> ApiError:
    if answer["outcome"] == "MISMATCH":
        return ApiError(
            409,
            "payment_differs",
            "The payment at Stripe is not the one that was offered",
            details=f"At Stripe {answer['problem']}.",
            hint="Our administrators check it; the money is not lost.",
        )
    if answer["outcome"] in {"REPLACED", "ENDED"}:
        return ApiError(
            410, "payment_refunded", "The payment of this session is being refunded", hint="Start a new session."
        )
    if answer["expired"]:
        return ApiError(410, "session_expired", "This onboarding session has expired", hint="Start a new one.")
    status = answer["session"]["payment_status"]
    return ApiError(
        409,
        "payment_not_done",
        "The payment has not succeeded",
        details={"payment_status": status},
        hint=HINTS.get(status, "Try again in a moment."),
    )
