"""What a request may look like before anybody looks inside: headers given once, a body of a bounded size and time."""

import re
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from itertools import count
from typing import IO, Any

from shared.errors import ApiError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

BODY_BYTES = 1 << 20
# A body over the limit is still read up to here, so that its sender sees the answer instead of a broken connection.
DRAINED_BYTES = 8 * BODY_BYTES
FILE_BYTES = 32 * BODY_BYTES

# Two different values would let a proxy in front of us act on one and us on the other.
GIVEN_ONCE = {b"authorization", b"apikey", b"content-type", b"idempotency-key", b"x-org-id"}
ORGANISATION = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
REQUEST_ID = re.compile(rb"[\w.:-]{8,64}", re.ASCII)


_PROCESS = secrets.token_hex(6)
_serial = count(1)


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The caller's own id if it sent one that may stand in a log, else functions-framework's, else a new one."""
    given = b""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value
        if name == b"function-execution-id" and REQUEST_ID.fullmatch(value):
            given = value
    return given or b"%s-%x" % (_PROCESS.encode(), next(_serial))


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        if name in headers and name in GIVEN_ONCE:
            raise ApiError(400, "repeated_header", f"The header {name.decode()} was sent more than once")
        headers[name] = value
    return headers


def check_headers(headers: Mapping[bytes, bytes]) -> None:
    if (org := headers.get(b"x-org-id")) is not None and not ORGANISATION.fullmatch(org):
        raise ApiError(
            400,
            "malformed_header",
            "x-org-id is not an organisation id",
            hint="Send the id of an organisation you belong to, or leave the header out.",
        )
    if (key := headers.get(b"idempotency-key")) is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise ApiError(
            400,
            "malformed_header",
            "Idempotency-Key is not 1 to 255 visible ASCII characters",
            hint="Send a new UUID for every new request.",
        )


def check_content(headers: Mapping[bytes, bytes], wanted: str = "application/json") -> None:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != wanted.encode():
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body has to be JSON" if wanted == "application/json" else f"The body has to be {wanted}",
            details=f"Content-Type is {kind.decode('latin-1')!r}." if kind else "Content-Type is missing.",
            hint=f"Send `Content-Type: {wanted}`.",
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ApiError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            "The body has to be sent as it is",
            hint="Leave Content-Encoding out.",
        )


async def read_body(receive: Receive, limit: int = BODY_BYTES) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message["body"]
    if not message["more_body"] and len(body) <= limit:
        return body
    chunks, size = [body], len(body)
    while message["more_body"] and size <= DRAINED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        size += len(message["body"])
        if size <= limit:
            chunks.append(message["body"])
    if size > limit:
        raise ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "body_too_large",
            f"The body is larger than {limit:,} bytes",
            headers={"connection": "close"} if message["more_body"] else {},
        )
    return b"".join(chunks)


async def read_file(receive: Receive, limit: int = FILE_BYTES) -> IO[bytes]:
    """The body in a file of its own, on the disk if it is long: whoever sends it waits for nobody."""
    file = tempfile.SpooledTemporaryFile(BODY_BYTES)  # noqa: SIM115 - goes with the request
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        size += len(message["body"])
        if size > limit:
            raise ApiError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "body_too_large",
                f"The file is larger than {limit:,} bytes",
                hint="Send it in parts.",
                headers={"connection": "close"},
            )
        file.write(message["body"])
        more = message["more_body"]
    file.seek(0)
    return file
