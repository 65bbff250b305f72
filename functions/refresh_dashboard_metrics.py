from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def refresh_dashboard_metrics(call: Call[Nothing]) -> Answered[Run]:
    """Count stale metrics again."""
    return await perform(call, "refresh_dashboard_metrics")
