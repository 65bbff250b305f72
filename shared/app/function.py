"""What a function declares: who may call it, the types of request and response, its bounds, and its coroutine."""

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter

from shared.app.call import Call, Result, Upload
from shared.settings import Settings

CALLER = re.compile(r"user|anyone|key|(publishable|secret)(:\w+)?")
ANY_SCOPE = "ANY"
BODY_BYTES = 64 * 1024
BODY_VALUES = 1000


class RequestModel(BaseModel):
    """The body of a request. An unknown field is an error."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class ResponseModel(BaseModel):
    """The body of a response: for documentation and tests, never built while serving."""

    model_config = ConfigDict(defer_build=True)


Handler = Callable[[Call[Any]], Awaitable[Result[Any]]]
# The response to an upload is a stream of JSON lines.
UploadHandler = Callable[[Upload[Any]], AsyncIterator[BaseModel]]
# HTML; the argument says whether its form was sent.
Page = Callable[[bool], bytes]
# Raises unless the bytes carry a valid signature; takes the settings, the headers and the body.
Signature = Callable[[Settings, Mapping[bytes, bytes], bytes], None]


@dataclass(frozen=True)
class Function:
    name: str
    summary: str
    description: str
    auth: tuple[str, ...]
    signature: Signature | None
    request_type: Any
    response_type: Any
    status: int
    idempotent: bool
    errors: Mapping[int, str]
    handler: Handler
    body_bytes: int
    body_values: int
    upload: str | None = None
    authorize: str | None = None
    page: Page | None = None
    content_type: str | None = None
    scope: str | None = None
    stream: bool = False
    metered: bool = True
    children: list["Function"] = field(default_factory=list)

    @cached_property
    def request(self) -> TypeAdapter[Any]:
        """Built by the first request: among many functions, most processes serve few."""
        return TypeAdapter(self.request_type)

    @cached_property
    def response(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.response_type)

    def nested(self, path: str, **declared: Any) -> Callable[[Handler], "Function"]:
        """Declare another function at a path below this one; it may end in one {…}, which becomes `Call.path_value`."""

        def declare(handler: Handler) -> Function:
            made: Function = function(*self.auth, metered=self.metered, **declared)(handler)
            made = replace(made, name=f"{self.name}/{path}")
            self.children.append(made)
            return made

        return declare


def function(
    *auth: str,
    errors: Mapping[int, str] = {},
    status: int = 200,
    idempotent: bool = False,
    signature: Signature | None = None,
    body_bytes: int = BODY_BYTES,
    body_values: int = BODY_VALUES,
    upload: str | None = None,
    authorize: str | None = None,
    page: Page | None = None,
    content_type: str | None = None,
    scope: str | None = None,
    stream: bool = False,
    metered: bool = True,
) -> Callable[[Handler | UploadHandler], Function]:
    """Declare that the coroutine below is a function.

    With `stream` it is a generator, and the response is a stream of server-sent events.

    `auth` lists who may call, in the order tried: user, key, publishable, secret, publishable:<name>, secret:<name>,
    anyone; it is empty when `signature` verifies a webhook. `scope` opens the function to API keys of organizations
    that have it. `errors` documents further statuses. A body with more bytes or values than declared is refused.

    `upload` is a content type: the body is a file of that type, the query string has the parameters, and the response
    is a stream of JSON lines. Before the file is read, the operation `authorize` checks that the caller may send one.

    `page` makes the HTML that a browser gets: for GET a form, and after it was sent (true) the result. The fields of
    the form and of the query string are the request.

    `content_type` is that of a response that programs fetch by GET, too: then the query string is the request.

    Requests of people are counted in `usage_tracking`, unless `metered` is false.
    """
    if bool(auth) == bool(signature) or any(CALLER.fullmatch(mode) is None for mode in auth):
        raise ValueError(f"found {auth} and {signature}; expected who may call, or who signs")

    def declare(handler: Handler | UploadHandler) -> Function:
        hints = get_type_hints(handler, include_extras=True)
        (request_type,) = get_args(next(hint for hint in hints.values() if get_origin(hint) in {Call, Upload}))
        (response_type,) = get_args(hints["return"])
        summary, _, description = (inspect.getdoc(handler) or "").partition("\n")
        return Function(
            name=handler.__name__.replace("_", "-"),
            summary=summary.rstrip("."),
            description=description.strip(),
            auth=auth,
            signature=signature,
            request_type=request_type,
            response_type=response_type,
            status=status,
            idempotent=idempotent,
            errors=errors,
            handler=cast("Handler", handler),
            body_bytes=body_bytes,
            body_values=body_values,
            upload=upload,
            authorize=authorize,
            page=page,
            content_type=content_type,
            scope=scope,
            stream=stream,
            metered=metered,
        )

    return declare
