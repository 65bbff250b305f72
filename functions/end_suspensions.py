from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def end_suspensions(call: Call[Nothing]) -> Answered[Run]:
    """End suspensions whose time has passed."""
    return await perform(call, "end_suspensions")
