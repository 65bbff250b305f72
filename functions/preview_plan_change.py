import json
from typing import Annotated

from pydantic import AwareDatetime, Field

from shared.app.call import Call, Result
from shared.app.function import ResponseModel, function
from shared.billing.plans import Effect, WantedPlan, run


class PreviewAmounts(ResponseModel):
    """In minor units of the currency, as Stripe computes them."""

    subtotal_cents: int
    discount_cents: int
    tax_cents: int
    total_cents: int
    amount_due_cents: Annotated[int, Field(description="0 where a credit covers the total.")]


class NextInvoice(PreviewAmounts):
    at: AwareDatetime


class PreviewLine(ResponseModel):
    description: str | None
    amount_cents: int
    period_start: AwareDatetime
    period_end: AwareDatetime


class PlanChangePreview(ResponseModel):
    takes_effect: Annotated[Effect, Field(description="NONE: it is the present plan; a scheduled change is cancelled.")]
    effective_at: AwareDatetime
    currency: str
    due_now: PreviewAmounts | None
    lines: Annotated[list[PreviewLine], Field(description="What is credited and charged now.")]
    next_invoice: Annotated[NextInvoice | None, Field(description="Null where the subscription ends with its period.")]


@function(
    "user",
    errors={
        409: "There is no subscription, a payment is due, or it ends before the change.",
        422: "The plan is not for sale here, or there are fewer seats than members.",
        503: "Stripe is unavailable or not configured.",
    },
)
async def preview_plan_change(call: Call[WantedPlan]) -> Result[PlanChangePreview]:
    """Show what a change of plan would cost, now and with the next invoice.

    For the OWNER of the current organization. The amounts are Stripe's own preview, with proration, discounts and tax.
    """
    await call.load_stripe("shared.billing.changes")
    from shared.billing.changes import preview_change  # noqa: PLC0415 - imports Stripe's library

    change = await run(call, "private.plan_change", call.body.model_dump(mode="json"))
    return Result(json.dumps(await preview_change(call, change)))
