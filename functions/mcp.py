from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue

from shared.app.call import Call, Result
from shared.app.function import ANY_SCOPE, RequestModel, ResponseModel, function
from shared.app.libraries import load_modules


class Message(RequestModel):
    """A request or notification of the Model Context Protocol, which is JSON-RPC."""

    jsonrpc: Literal["2.0"]
    method: Annotated[str, Field(min_length=1, max_length=100)]
    id: int | Annotated[str, Field(min_length=1, max_length=100)] = Field(0, description="Absent in a notification.")
    params: dict[str, JsonValue] = Field({}, description="Of the method.")


class Answer(ResponseModel):
    """A JSON-RPC response."""

    model_config = ConfigDict(extra="allow", defer_build=True)


@function(
    "user",
    scope=ANY_SCOPE,
    idempotent=True,
    body_bytes=1 << 18,
    body_values=2_000,
    errors={406: "The response would be JSON."},
)
async def mcp(call: Call[Message]) -> Result[Answer]:
    """Tools for AI agents, by the Model Context Protocol (streamable HTTP, without sessions).

    Tools have the caller's own rights: a user's access token, or an API key within its scopes. Tools that write carry
    annotations, so that clients ask a person first.
    """
    await load_modules("shared.assistant.server")
    from shared.assistant.server import respond  # noqa: PLC0415 - the SDK is large, and only this function needs it

    return await respond(call)
