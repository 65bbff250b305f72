from typing import Any

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function


class NoInput(RequestModel):
    pass


@function("secret:cron")
async def for_servers(call: Call[NoInput]) -> Result[dict[str, Any]]:
    """Say who calls, to the scheduler."""
    return await call.run("public.who_calls", call.body)
