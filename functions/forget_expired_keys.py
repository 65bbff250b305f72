from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def forget_expired_keys(call: Call[Nothing]) -> Answered[Run]:
    """Delete expired idempotency keys."""
    return await perform(call, "forget_expired_keys")
