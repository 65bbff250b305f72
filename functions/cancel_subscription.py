import json
from typing import Annotated, Any, Literal

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function
from shared.billing.plans import EXPAND, Subscription, run, show


class CancelSubscription(RequestModel):
    """Both fields are optional and go to Stripe's report of cancellations."""

    feedback: (
        Literal[
            "customer_service",
            "low_quality",
            "missing_features",
            "other",
            "switched_service",
            "too_complex",
            "too_expensive",
            "unused",
        ]
        | None
    ) = None
    comment: Annotated[str, Field(min_length=1, max_length=1000)] | None = None


@function(
    "user",
    errors={
        409: "There is no subscription to cancel.",
        503: "Stripe is unavailable or not configured; retrying does no harm.",
    },
)
async def cancel_subscription(call: Call[CancelSubscription]) -> Result[Subscription]:
    """Cancel the subscription of the current organization at the end of its period.

    For its OWNER. Until then nothing changes, and resume-subscription revokes the cancellation. A
    subscription that has ended here because a payment is late is cancelled at once. A scheduled change of plan is
    dropped.
    """
    await call.load_stripe("shared.billing.changes", "shared.billing.tasks")
    from shared.billing.changes import retried  # noqa: PLC0415 - imports Stripe's library
    from shared.billing.tasks import release_schedule  # noqa: PLC0415 - as above

    owned = await run(call, "private.subscription_to_change")
    v1 = call.stripe().v1
    details = {name: value for name, value in call.body.model_dump().items() if value}
    if not owned["is_live"]:
        return Result(json.dumps(await show(call, await v1.subscriptions.cancel_async(owned["subscription"]))))
    request: Any = {"cancel_at_period_end": True, "cancellation_details": details, "expand": EXPAND}

    async def cancel(subscription: Any) -> Any:
        await release_schedule(v1, subscription)
        return await v1.subscriptions.update_async(subscription.id, request)

    return Result(json.dumps(await show(call, await retried(v1, owned["subscription"], cancel))))
