import asyncio
import json
from typing import Any

from psycopg.errors import DeadlockDetected, LockNotAvailable

from shared.app.call import Call, Result
from shared.app.function import ResponseModel, function
from shared.billing.burst import Burst
from shared.billing.events import customer_of, delivery
from shared.billing.signatures import signed_by_stripe
from shared.schema import StripeEventStatus

PAUSES = (0.1, 0.2, 0.4, 0.8)
BURST = Burst()


class StripeEventReceipt(ResponseModel):
    """`duplicate`: the event was received before; `status` is its present status."""

    id: str
    status: StripeEventStatus
    duplicate: bool


# Events of Stripe have some hundred values; more would hold the loop for too long.
@function(signature=signed_by_stripe, body_bytes=1 << 19, body_values=10_000)
async def stripe_webhook(call: Call[Any]) -> Result[StripeEventReceipt]:
    """Receive an event of Stripe.

    It is stored and applied in one transaction; 200 means that both are done, or that there is nothing to do. An event
    about an unknown customer or price is parked, one of the other mode (test or live) is quarantined.
    """
    argument = delivery(call.body, call.raw_body.decode(), livemode=call.settings.stripe_livemode)
    received = await BURST.take(
        lambda together: call.run("private.receive_stripe_events", together), argument, customer_of(call.body)
    )
    if received is not None:
        return Result(json.dumps(received))
    for pause in PAUSES:
        try:
            return await call.run("private.receive_stripe_event", argument)
        except (DeadlockDetected, LockNotAvailable):
            # Another transaction saves the ids this event is about; after it, the owner of the event is known.
            await asyncio.sleep(pause)
    return await call.run("private.receive_stripe_event", argument)
