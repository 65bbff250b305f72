from typing import Any

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function


class Failure(RequestModel):
    kind: str


@function("publishable", errors={418: "When it is a teapot."})
async def that_fails(call: Call[Failure]) -> Result[dict[str, Any]]:
    """Fail in the requested way."""
    match call.body.kind:
        case "value":
            raise ValueError("somebody@strive.test")
        case "programmer":
            call.body.no_such_field  # type: ignore[attr-defined]  # noqa: B018
        case "recursion":
            return await that_fails.handler(call)
        case "database":
            return await call.run("public.no_such_operation", call.body)
    return await call.run("public.who_calls", call.body)
