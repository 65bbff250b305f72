from typing import Any

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function


class NoInput(RequestModel):
    pass


@function("user", "publishable")
async def for_anyone(call: Call[NoInput]) -> Result[dict[str, Any]]:
    """Say who calls, signed in or not."""
    return await call.run("public.who_calls", call.body)
