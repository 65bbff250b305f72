import json
from typing import Any

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function
from shared.billing.plans import EXPAND, Subscription, run, show
from shared.errors import ApiError


class ResumeSubscription(RequestModel):
    """No fields."""


@function(
    "user",
    errors={
        409: "There is no subscription to resume, or a payment is due; after its end, buy the plan again.",
        503: "Stripe is unavailable or not configured; retrying does no harm.",
    },
)
async def resume_subscription(call: Call[ResumeSubscription]) -> Result[Subscription]:
    """Revoke the cancellation of the current organization's subscription, before it has ended.

    For its OWNER. A subscription whose trial ended without a card is billed from now on; one that was not cancelled
    stays as it is.
    """
    await call.load_stripe("shared.billing.changes", "shared.billing.tasks")
    from shared.billing.changes import retried  # noqa: PLC0415 - imports Stripe's library
    from shared.billing.tasks import release_schedule  # noqa: PLC0415 - as above

    owned = await run(call, "private.subscription_to_change")
    v1 = call.stripe().v1

    async def resume(found: Any) -> None:
        if found.cancel_at_period_end or found.cancel_at:
            # A change that was scheduled after the cancellation: while its schedule lasts, Stripe refuses the update.
            await release_schedule(v1, found)
        if found.cancel_at_period_end:
            await v1.subscriptions.update_async(found.id, {"cancel_at_period_end": False})
        elif found.cancel_at:
            await v1.subscriptions.update_async(found.id, {"cancel_at": ""})
        elif found.status == "paused":
            anew: Any = {"billing_cycle_anchor": "now"}
            await v1.subscriptions.resume_async(found.id, anew)
        elif found.status in {"past_due", "unpaid"} and not owned["is_live"]:
            raise ApiError(
                409,
                "payment_due",
                "A payment of this subscription is due",
                hint="Pay the open invoice: create-billing-portal-session leads there.",
            )

    await retried(v1, owned["subscription"], resume)
    found = await v1.subscriptions.retrieve_async(owned["subscription"], {"expand": EXPAND})
    return Result(json.dumps(await show(call, found)))
