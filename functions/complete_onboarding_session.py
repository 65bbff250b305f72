import json
from typing import Any

from shared.app.call import Call, Result
from shared.app.function import function
from shared.errors import ApiError
from shared.onboarding.sessions import Named, Session

HINTS = {
    "PENDING": "Pay first, with the client secret of start-onboarding-payment.",
    "FAILED": "Try again or another card, with the same client secret.",
    "REQUIRES_ACTION": "The bank wants the customer to confirm the payment.",
    "PROCESSING": "Wait; the organisation is made as soon as the payment has succeeded, also without this call.",
    "CANCELLED": "Start a new session.",
}


@function(
    "user",
    "publishable",
    errors={
        404: "There is no such session for this caller.",
        409: "A step is missing, or the payment has not succeeded; details say which.",
        410: "The session has expired, or what was paid is being given back.",
        503: "Stripe cannot be reached; nothing is lost, and what is paid is completed without this call, too.",
    },
)
async def complete_onboarding_session(call: Call[Named]) -> Result[Session]:
    """Do step 4: make the organisation, with the caller as its OWNER.

    Whether it is paid is asked of Stripe, which has to agree with what was offered in amount, currency, price, plan and
    session. Called again, or many times at once, it makes nothing more and answers the same. Without signing in it is
    401: sign up and come back with the token. Then name the organisation in `x-org-id`.
    """
    answer = json.loads((await call.run("private.complete_onboarding_session", call.body.asked())).json)
    if payment := answer.get("payment"):
        from shared.onboarding.payments import ask, look  # noqa: PLC0415 - what is free needs no Stripe

        seen = await look(call, payment["stripe_subscription_id"])
        answer = await ask(call, "private.complete_onboarding_session", call.body.asked(seen=seen.facts))
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
            hint="Our administrators look at it; what was paid is not lost.",
        )
    if answer["outcome"] in {"REPLACED", "ENDED"}:
        return ApiError(
            410, "payment_given_back", "What was paid for this session is being given back", hint="Start a new session."
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
