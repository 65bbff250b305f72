from typing import Any

from shared.app.function import Answered, Call, Strict, function


class Nothing(Strict):
    pass


@function("secret:cron")
async def for_servers(call: Call[Nothing]) -> Answered[dict[str, Any]]:
    """Say who calls, to the scheduler."""
    return await call.run("public.who_calls", call.body)
