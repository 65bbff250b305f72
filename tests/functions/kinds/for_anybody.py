from typing import Any

from shared.app.function import Answered, Call, Strict, function


class Nothing(Strict):
    pass


@function("user", "publishable")
async def for_anybody(call: Call[Nothing]) -> Answered[dict[str, Any]]:
    """Say who calls, signed in or not."""
    return await call.run("public.who_calls", call.body)
