import json
from typing import Annotated, Literal

from pydantic import Field, RootModel, StringConstraints

from shared.app.call import Call, Result
from shared.app.function import function
from shared.onboarding.sessions import Named, Session
from shared.schema import BillingCycle, SubscriptionTier


class NameOrganization(Named):
    """Step 1. What is left out is empty afterwards."""

    step: Literal[1]
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=100)]
    website: Annotated[str, Field(max_length=500, pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://\S+$")] | None = None
    description: Annotated[str, Field(max_length=500)] | None = None


class ChoosePlan(Named):
    """Step 2. The price is that of `plans`."""

    step: Literal[2]
    tier: SubscriptionTier
    billing_cycle: BillingCycle


class Change(RootModel[Annotated[NameOrganization | ChoosePlan, Field(discriminator="step")]]):
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
async def update_onboarding_session(call: Call[Change]) -> Result[Session]:
    """Do step 1 or 2, for the first time or again.

    ENTERPRISE is not sold here: 422, and the hint says whom to ask. Another plan after a payment was started cancels
    that payment first; it is refused with 409 if the money is already on its way.
    """
    change = call.body.root
    words = change.model_dump(exclude={"token", "session_id"}, mode="json")
    answer = json.loads((await call.run("private.update_onboarding_session", change.asked(**words))).json)
    if begun := answer.get("payment"):
        from shared.onboarding.payments import observe  # noqa: PLC0415 - few ever go back

        await observe(call, begun)
        answer = json.loads(
            (await call.run("private.update_onboarding_session", change.asked(**words, checked=begun["attempt"]))).json
        )
    if answer["let_go"]:
        from shared.onboarding.payments import let_go_if_possible  # noqa: PLC0415 - as above

        await let_go_if_possible(call, answer["let_go"])
    return Result(json.dumps(answer["session"]))
