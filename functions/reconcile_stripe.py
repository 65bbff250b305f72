from pydantic import Field

from shared.app.function import Answered, Call, Strict, function
from shared.jobs import Connection, Run, perform_here
from shared.logs import log


class Reconcile(Strict):
    compare: bool | None = Field(
        None, description="Whether to compare all subscriptions, too; else that is done once a day."
    )


@function("secret")
async def reconcile_stripe(call: Call[Reconcile]) -> Answered[Run]:
    """Ask Stripe for what its events have not told us.

    Events that were never delivered are applied, objects in doubt are looked at, and once a day all subscriptions are
    compared. The result says what was changed.
    """
    from shared.billing.reconciliation import Reconciliation  # noqa: PLC0415 - brings Stripe's library

    async def work(connection: Connection) -> dict[str, object]:
        reconciliation = Reconciliation(connection, call.stripe(), livemode=call.settings.stripe_livemode)
        result = await reconciliation.run(compare=call.body.compare)
        log("INFO", "reconciled with Stripe", missed_events=result["missed_events"], changes=result["changes"])
        return result

    return await perform_here(call, "reconcile_stripe", work)
