"""Reading requests and making responses."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from json import decoder, scanner
from typing import Any, TypeVar
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from local.api.errors import ApiError, gateway_error

T = TypeVar("T")

BODY_LIMIT = 10 * 1024 * 1024
OBJECT_LIMIT = 1024 * 1024
SMALL_BODY = 64 * 1024
LONGEST_INTEGER = 4000
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


def _integer(text: str) -> int | float:
    """Python reads no integer of more than 4,300 digits."""
    return int(text) if len(text) <= LONGEST_INTEGER else float(text)


class PatientDecoder(json.JSONDecoder):
    """Works in Python: a thread that reads a large body lets the event loop run meanwhile, which one in C does not.

    typeshed leaves out these parts of json, which JSONDecoder itself is made of; hence the ignored lines.
    """

    def __init__(self, *, lists: bool) -> None:
        super().__init__(parse_constant=_no_constant, parse_int=_integer, object_pairs_hook=self._object)
        self.parse_string = self._string
        if not lists:
            self.parse_array = self._no_list
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]  # see the class

    @staticmethod
    def _string(text: str, at: int, strict: bool) -> tuple[str, int]:
        value, end = decoder.scanstring(text, at, strict)  # type: ignore[attr-defined]  # see the class
        value.encode()
        return value, end

    @staticmethod
    def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        "".join(name for name, _ in pairs).encode()
        return dict(pairs)

    @staticmethod
    def _no_list(start: Any, scan: Any) -> tuple[Any, int]:
        _, end = decoder.JSONArray(start, scan)  # type: ignore[attr-defined]  # see the class
        return [], end


DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer)
KEEPING, SKIMMING = PatientDecoder(lists=True), PatientDecoder(lists=False)


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
    return await asyncio.to_thread(work) if size > SMALL_BODY else work()


async def read_object(
    request: Request, refused: Callable[[str], ApiError], limit: int = OBJECT_LIMIT
) -> dict[str, Any]:
    """The body as a JSON object; `refused` makes the error in the service's own form."""
    body = await read_body(request, limit)
    if not body.strip():
        return {}
    try:
        value = await beside_loop(len(body), lambda: strict_json(body.decode(), reader_of(body, KEEPING)))
    except ValueError as error:
        raise refused(f"Could not parse request body as JSON: {error}") from None
    if not isinstance(value, dict):
        raise refused(f"The request body is {json.dumps(value)[:40]}, not a JSON object.")
    return value


def reader_of(body: bytes, patient: json.JSONDecoder) -> json.JSONDecoder:
    return patient if len(body) > SMALL_BODY else DECODER


def strict_json(text: str, reader: json.JSONDecoder = DECODER) -> Any:
    """JSON that Postgres and clients accept too; raises ValueError."""
    value, end = _value(text, _after_blanks(text, 0), reader, escapes="\\u" in text)
    if _after_blanks(text, end) < len(text):
        raise ValueError("something follows the value")
    return value


def strict_elements(text: str, reader: json.JSONDecoder) -> Iterator[Any]:
    """The elements of a JSON list, one at a time; as strict as `strict_json`."""
    escapes = "\\u" in text
    at = _after_blanks(text, text.index("[") + 1)
    ends = text.startswith("]", at)
    while not ends:
        element, at = _value(text, at, reader, escapes=escapes)
        yield element
        at = _after_blanks(text, at)
        ends = text.startswith("]", at)
        if not ends:
            if not text.startswith(",", at):
                raise ValueError("a comma is missing between two elements")
            at = _after_blanks(text, at + 1)
    if _after_blanks(text, at + 1) < len(text):
        raise ValueError("something follows the list")


def _value(text: str, at: int, reader: json.JSONDecoder, *, escapes: bool) -> tuple[Any, int]:
    try:
        value, end = reader.raw_decode(text, at)
        if escapes and reader is DECODER:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair can't be stored or sent on
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value, end


def _after_blanks(text: str, at: int) -> int:
    found = BLANKS.match(text, at)
    return found.end() if found else at


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, {"content-type": JSON} | (headers or {}))


def error_response(error: ApiError) -> Response:
    return json_response(error.body, error.status, error.headers)
