from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def redact_stripe_events(call: Call[Nothing]) -> Answered[Run]:
    """Forget what old events of Stripe said."""
    return await perform(call, "redact_stripe_events")
