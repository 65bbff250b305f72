"""A late request of an organization that has moved, sent on to the project where it is now."""

import asyncio
import ssl
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from shared.app.responses import Response
from shared.logs import log

if TYPE_CHECKING:
    import httpx

SECONDS = 15.0
SENT = ("authorization", "apikey", "content-type", "idempotency-key", "user-agent", "x-org-id")
RETURNED = ("idempotency-replayed", "retry-after")
# One hop: a directory that says two projects have moved to each other ends here.
ONCE = "x-strive-forwarded"


async def forward(address: str, headers: Mapping[bytes, bytes], body: bytes, refused: Response) -> Response:
    """The response of the new project; `refused` if it does not know the caller or cannot be reached."""
    if ONCE.encode() in headers:
        return refused
    sent = {name: headers[name.encode()].decode("latin-1") for name in SENT if name.encode() in headers}
    try:
        client = await asyncio.to_thread(_client)
        answer = await client.post(address, content=body, headers=sent | {ONCE: "1"})
    except Exception as error:  # noqa: BLE001 - a library that is loaded late; the client gets the address instead
        log("WARNING", "a request was not forwarded", address=address, error=type(error).__name__)
        return refused
    if answer.status_code == 401:  # noqa: PLR2004 - another project, which does not trust this token
        return refused
    returned = {name: answer.headers[name] for name in RETURNED if name in answer.headers}
    kind = answer.headers.get("content-type", "application/json").encode()
    return Response(answer.status_code, answer.content, returned, content_type=kind)


@cache
def _client() -> "httpx.AsyncClient":
    """Make the client in a thread: loading it and its certificates would hold the loop for too long."""
    import httpx  # noqa: PLC0415 - few processes ever forward a request

    return httpx.AsyncClient(timeout=SECONDS, verify=ssl.create_default_context())
