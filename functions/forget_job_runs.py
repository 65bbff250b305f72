from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def forget_job_runs(call: Call[Nothing]) -> Answered[Run]:
    """Delete runs of jobs older than 30 days."""
    return await perform(call, "forget_job_runs")
