import asyncio
import json
from typing import Any

from psycopg.errors import DeadlockDetected, LockNotAvailable

from shared.app.call import Call, Result
from shared.app.function import ResponseModel, function
from shared.billing.burst import Burst
from shared.billing.events import about, delivery
from shared.billing.signatures import signed_by_stripe
from shared.schema import StripeEventStatus

PAUSES = (0.1, 0.2, 0.4, 0.8)
BURST = Burst()


class Taken(ResponseModel):
    """`duplicate`: it was here before; its status is what became of it then."""

    id: str
    status: StripeEventStatus
    duplicate: bool


@function(signature=signed_by_stripe, body_bytes=1 << 20, body_keys=50_000)
async def stripe_webhook(call: Call[Any]) -> Result[Taken]:
    """Take an event of Stripe.

    It is kept and applied in one transaction; 200 says that both are done, or that nothing is to be done. An event
    about a customer or price nobody knows is parked, one of the other mode (test or live) quarantined.
    """
    sent = delivery(call.body, call.raw_body.decode(), livemode=call.settings.stripe_livemode)
    taken = await BURST.take(
        lambda together: call.run("private.receive_stripe_events", together), sent, about(call.body)
    )
    if taken is not None:
        return Result(json.dumps(taken))
    for pause in PAUSES:
        try:
            return await call.run("private.receive_stripe_event", sent)
        except (DeadlockDetected, LockNotAvailable):
            # Somebody writes down the very ids this event is about. They go first, and then it is clear whose it is.
            await asyncio.sleep(pause)
    return await call.run("private.receive_stripe_event", sent)
