"""Reading requests and making responses."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from local.api.errors import ApiError, gateway_error

T = TypeVar("T")

BODY_LIMIT = 10 * 1024 * 1024
OBJECT_LIMIT = 1024 * 1024
SMALL_BODY = 64 * 1024
# Threads take turns with the event loop in Python: it gets half of the time beside one of them, a fifth beside four.
LARGE_BODY = 1024 * 1024
ONE_BY_ONE = ThreadPoolExecutor(1, "large")
# Characters that one call of the JSON decoder reads, which lets no other thread run meanwhile. They are fewer further
# inside: however a text is nested, the time stays in proportion to its length.
WINDOW, SMALLEST_WINDOW = 32 * 1024, 256
# Between two parts of one body.
BODY_SECONDS = 30
BLANKS = re.compile(r"[ \t\n\r]*")
BROKEN_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
JSON = "application/json; charset=utf-8"

ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,OPTIONS,HEAD"
ALLOWED_HEADERS = (
    "authorization,apikey,content-type,prefer,range,range-unit,accept,accept-profile,content-profile,cache-control,"
    "x-client-info,x-upsert,x-metadata,x-region,x-supabase-api-version,x-org-id,idempotency-key"
)
EXPOSED_HEADERS = "Content-Range,Content-Location,Location,Preference-Applied,X-Sb-Error-Code,X-Total-Count,Link"
CROSS_ORIGIN = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def integer(text: str) -> int | float:
    """JSON has numbers of any length; Python reads no integer of more than 4,300 digits."""
    try:
        return int(text)
    except ValueError:
        return float(text)


CLOSING = {"{": "}", "[": "]"}
DECODER = json.JSONDecoder(parse_constant=_no_constant)
LONG_INTEGERS = json.JSONDecoder(parse_constant=_no_constant, parse_int=integer)  # takes ten times as long


def preflight(request: Request) -> Response:
    headers = {
        "access-control-allow-methods": ALLOWED_METHODS,
        "access-control-allow-headers": request.headers.get("access-control-request-headers", ALLOWED_HEADERS),
        "access-control-max-age": "86400",
    }
    return Response(None, 204, headers)


def is_preflight(request: Request) -> bool:
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def raw_path(request: Request) -> str:
    """The path as it was sent, with its escapes and without following `..`."""
    path: str = request.scope["raw_path"].decode("ascii", "replace")
    if "%" not in path:
        return path
    decoded = None if BROKEN_ESCAPE.search(path) else unquote(path, errors="surrogateescape")
    if decoded is None or (not decoded.isprintable() and not _is_utf8(decoded)):
        raise gateway_error(400, "PGRST125", "Invalid path specified in request URL", f"Found: {path[:200]}")
    return path


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. A client that stops sending gets 408, one that leaves ends the work."""
    more = True
    while more:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await request.receive()
        except TimeoutError:
            raise gateway_error(408, "request_too_slow", f"No data arrived for {BODY_SECONDS} seconds.") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]


async def read_body(request: Request, limit: int = BODY_LIMIT) -> bytes:
    parts, size = [], 0
    async for chunk in chunks(request):
        size += len(chunk)
        if size > limit:
            raise gateway_error(413, "body_too_large", f"The request body is larger than {limit} bytes.")
        parts.append(chunk)
    return b"".join(parts)


async def beside_loop(size: int, work: Callable[[], T]) -> T:
    """What takes long for a large body runs in a thread: the event loop serves other requests meanwhile."""
    if size <= SMALL_BODY:
        return work()
    return await asyncio.get_running_loop().run_in_executor(ONE_BY_ONE if size > LARGE_BODY else None, work)


async def read_object(
    request: Request, refused: Callable[[str], ApiError], limit: int = OBJECT_LIMIT
) -> dict[str, Any]:
    """The body as a JSON object; `refused` makes the error in the service's own form."""
    body = await read_body(request, limit)
    if not body.strip():
        return {}
    try:
        value = await beside_loop(len(body), lambda: strict_json(body.decode()))
    except ValueError as error:
        raise refused(f"Could not parse request body as JSON: {error}") from None
    if not isinstance(value, dict):
        raise refused(f"The request body is {json.dumps(value)[:40]}, not a JSON object.")
    return value


def strict_json(text: str, *, keep: bool = True) -> Any:
    """JSON that Postgres and clients accept too; raises ValueError.

    A large text is read in parts that let other threads run. Without `keep`, only the names of a large object are kept.
    """
    try:
        value, end = _value(text, _after_blanks(text, 0), WINDOW, keep)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _after_blanks(text, end) < len(text):
        raise ValueError("something follows the value")
    return value


def strict_elements(text: str) -> Iterator[Any]:
    """The elements of a JSON list; as strict as `strict_json`, and without the content of large ones."""
    end = 0
    try:
        for part, reached in _parts(text, text.index("["), WINDOW, keep=False):
            yield from part
            end = reached
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _after_blanks(text, end) < len(text):
        raise ValueError("something follows the list")


def _value(text: str, at: int, size: int, keep: bool) -> tuple[Any, int]:
    """The value at a position, and where it ends. One that does not end within so many characters is read in parts."""
    if text[at : at + 1] not in CLOSING:
        return _decoded(text, at)
    with suppress(ValueError):
        value, end = _decoded(text[at : at + size], 0)
        return value, at + end
    whole: Any = {} if text[at] == "{" else []
    end = at
    for part, reached in _parts(text, at, max(size // 4, SMALLEST_WINDOW), keep=keep):
        end = reached
        if isinstance(whole, dict):
            whole.update(part if keep else dict.fromkeys(part))
        elif keep:
            whole += part
    return whole, end


def _parts(text: str, at: int, size: int, *, keep: bool) -> Iterator[tuple[Any, int]]:
    """What the object or list at a position contains, as objects or lists, each with the position behind it."""
    opening, closing = text[at], CLOSING[text[at]]
    at, run_from, is_first = _after_blanks(text, at + 1), 0, True
    while True:
        if text[at : at + 1] in {"", ",", "]", "}"} and not (is_first and text.startswith(closing, at)):
            raise ValueError("a value is missing")
        run = None
        if at >= run_from:
            run, run_from = _run(text[at : at + size], opening, closing), at + size
        part, at = (run[0], at + run[1]) if run else _single(text, at, opening, size, keep)
        at, is_first = _after_blanks(text, at), False
        yield part, at + 1
        if text.startswith(closing, at):
            return
        if not text.startswith(",", at):
            raise ValueError("a comma is missing between two values")
        at = _after_blanks(text, at + 1)


def _run(window: str, opening: str, closing: str) -> tuple[Any, int] | None:
    """Several elements or pairs, up to the end of their list or object or else up to a comma between two of them."""
    with suppress(ValueError):
        part, end = _decoded(opening + window, 0)
        return part, end - 2
    size = window.rfind({"{": "},", "[": "],"}.get(window[:1], ","))
    if size > 0:
        size = window.index(",", size)
        with suppress(ValueError):
            part, end = _decoded(opening + window[:size] + closing, 0)
            if end == size + 2:  # so the comma is not part of a string or of an inner list
                return part, size
    return None


def _single(text: str, at: int, opening: str, size: int, keep: bool) -> tuple[Any, int]:
    """The next element of a list, or the next pair of an object."""
    value, at = _value(text, at, size, keep)
    if opening == "[":
        return [value], at
    name, at = value, _after_blanks(text, at)
    if not isinstance(name, str) or not text.startswith(":", at):
        raise ValueError("a name or a colon is missing in an object")
    value, at = _value(text, _after_blanks(text, at + 1), size, keep)
    return {name: value}, at


def _decoded(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a longer integer than Python reads, or no JSON after all
        value, end = LONG_INTEGERS.raw_decode(text, at)
    if text.find("\\u", at, end) >= 0:
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair can't be stored or sent on
    return value, end


def _after_blanks(text: str, at: int) -> int:
    found = BLANKS.match(text, at)
    return found.end() if found else at


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, {"content-type": JSON} | (headers or {}))


def error_response(error: ApiError) -> Response:
    return json_response(error.body, error.status, error.headers)
