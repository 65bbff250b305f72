"""A real PostgREST behind the gateway instead of the data API in Python: POSTGREST_BIN, see README.md."""

import httpx
from starlette.requests import Request
from starlette.responses import Response

from local.api.functions import HOP_BY_HOP
from local.api.http import error_response, read_body
from local.api.rest.errors import from_token, unavailable
from local.api.rest.incoming import raw_path
from local.api.tokens import Claims, TokenError, Tokens

# Of the connection, or made anew for the other one.
NOT_PASSED_ON = {name.decode() for name in HOP_BY_HOP} | {"content-length", "date", "host"}
TIMEOUT_SECONDS = 60


class PostgrestBinary:
    """Takes each request to the binary, with a token for the role of the API key where there is no user's."""

    def __init__(self, url: str, tokens: Tokens) -> None:
        self.url, self.tokens = url, tokens
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        self._client = httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_SECONDS)

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()

    async def respond(self, request: Request, claims: Claims | None = None) -> Response:
        try:
            return await self._respond(request, claims)
        except TokenError as error:
            return error_response(from_token(error))
        except httpx.HTTPError as error:
            raise unavailable(str(error)) from error

    async def _respond(self, request: Request, claims: Claims | None) -> Response:
        if self._client is None:
            raise unavailable()
        headers = [(name, value) for name, value in request.headers.items() if name not in NOT_PASSED_ON]
        if claims is not None:
            headers = [pair for pair in headers if pair[0] != "authorization"]
            headers.append(("authorization", f"Bearer {self.tokens.sign(claims)}"))
        outgoing = self._client.build_request(request.method, "/", headers=headers, content=await read_body(request))
        query: bytes = request.scope["query_string"]
        # As it came: httpx would encode the path again.
        outgoing.extensions["target"] = raw_path(request).encode("latin-1") + (b"?" + query if query else b"")
        answer = await self._client.send(outgoing)
        response = Response(answer.content, answer.status_code)
        response.raw_headers = [
            (name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in NOT_PASSED_ON
        ]
        if request.method != "HEAD":
            response.headers["content-length"] = str(len(answer.content))
        return response
