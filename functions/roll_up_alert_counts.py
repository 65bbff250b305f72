from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def roll_up_alert_counts(call: Call[Nothing]) -> Answered[Run]:
    """Add views and dismissals to their alerts."""
    return await perform(call, "roll_up_alert_counts")
