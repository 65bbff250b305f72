from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def expire_onboarding_sessions(call: Call[Nothing]) -> Answered[Run]:
    """Delete onboarding sessions nobody came back to."""
    return await perform(call, "expire_onboarding_sessions")
