import json
from typing import Annotated, Literal

from pydantic import Field, RootModel, StringConstraints

from shared.app.call import Call, Result
from shared.app.function import function
from shared.onboarding.sessions import OnboardingSession, SessionReference
from shared.schema import BillingCycle, SubscriptionTier


class NameOrganization(SessionReference):
    """Step 1. A field that is left out becomes empty."""

    step: Literal[1]
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=100)]
    website: Annotated[str, Field(max_length=500, pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://\S+$")] | None = None
    description: Annotated[str, Field(max_length=500)] | None = None


class ChoosePlan(SessionReference):
    """Step 2. The price is that of `plans`."""

    step: Literal[2]
    tier: SubscriptionTier
    billing_cycle: BillingCycle


class OnboardingStep(RootModel[Annotated[NameOrganization | ChoosePlan, Field(discriminator="step")]]):
    pass


@function(
    "user",
    "publishable",
    errors={
        404: "There is no such session for this caller.",
        409: "Step 2 before step 1, or the payment is under way, done or cancelled; details say which.",
        410: "The session has expired.",
    },
)
async def update_onboarding_session(call: Call[OnboardingStep]) -> Result[OnboardingSession]:
    """Do step 1 or 2, for the first time or again.

    ENTERPRISE cannot be bought here: 422, and the hint says whom to contact. Another plan after a payment was started
    cancels that payment first; the response is 409 if the payment is already processing.
    """
    change = call.body.root
    fields = change.model_dump(exclude={"token", "session_id"}, mode="json")
    answer = json.loads((await call.run("private.update_onboarding_session", change.request(**fields))).json)
    if started := answer.get("payment"):
        await call.load_stripe("shared.onboarding.payments")
        from shared.onboarding.payments import sync  # noqa: PLC0415 - few customers go back

        await sync(call, started)
        answer = json.loads(
            (
                await call.run(
                    "private.update_onboarding_session", change.request(**fields, checked=started["attempt"])
                )
            ).json
        )
    if answer["to_cancel"]:
        await call.load_stripe("shared.onboarding.payments")
        from shared.onboarding.payments import cancel_if_possible  # noqa: PLC0415 - as above

        await cancel_if_possible(call, answer["to_cancel"])
    return Result(json.dumps(answer["session"]))
