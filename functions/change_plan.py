import json

from pydantic import AwareDatetime

from shared.app.call import Call, Result
from shared.app.function import ResponseModel, function
from shared.billing.plans import Effect, Subscription, WantedPlan, run, show


class PlanChangeResult(ResponseModel):
    takes_effect: Effect
    effective_at: AwareDatetime
    subscription: Subscription


@function(
    "user",
    errors={
        402: "The difference could not be paid; the plan stays as it is.",
        409: "There is no subscription, a payment is due, or it ends before the change.",
        422: "The plan is not for sale here, or there are fewer seats than members.",
        503: "Stripe is unavailable or not configured; retrying changes nothing twice.",
    },
)
async def change_plan(call: Call[WantedPlan]) -> Result[PlanChangeResult]:
    """Change the plan of the current organization.

    For its OWNER. More for the same cycle, a higher tier or more seats, takes effect now and the difference is
    invoiced; less, or another cycle, takes effect at the end of the period. Choosing the present plan cancels a
    scheduled change.
    """
    await call.load_stripe("shared.billing.changes")
    from shared.billing.changes import apply_change  # noqa: PLC0415 - imports Stripe's library

    change = await run(call, "private.plan_change", call.body.model_dump(mode="json"))
    subscription = await show(call, await apply_change(call, change))
    return Result(
        json.dumps({"takes_effect": change["effect"], "effective_at": change["at"], "subscription": subscription})
    )
