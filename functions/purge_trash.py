from shared.app.function import Answered, Call, function
from shared.jobs import Nothing, Run, perform


@function("secret")
async def purge_trash(call: Call[Nothing]) -> Answered[Run]:
    """Delete records that were in the trash for 30 days, with their files."""
    return await perform(call, "purge_trash")
