"""The body of a request: its type, its size, its JSON, and which of its fields are invalid."""

import asyncio
import hashlib
import json
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from shared.errors import RETRY, ApiError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# A body over its limit is read up to here, so that the client sees the response instead of a broken connection.
DRAINED_BYTES = 32 << 20
FILE_BYTES = 16 << 20
MEMORY_BYTES = 1 << 20
REPORTED_FIELDS = 100
REPORTED_CHARACTERS = 60
BOUNDARY = re.compile(rb'multipart/form-data *;.*?boundary="?([^";, ]{1,70})', re.IGNORECASE)
FIELD = re.compile(rb'content-disposition: *form-data *;.*?\bname="([^"]*)"', re.IGNORECASE)
FORM_FIELDS = 50
# A string of JSON, terminated or not.
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


class Slots:
    """Uploads of this process: few at once, and fewer of one caller, so that one account leaves room for others."""

    MOST = 6
    MOST_OF_ONE = 3

    def __init__(self) -> None:
        self._callers: list[str] = []

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        if self._callers.count(caller) >= self.MOST_OF_ONE:
            message = f"{self.MOST_OF_ONE} uploads of yours are running"
            raise ApiError(429, "too_many_uploads", message, hint="Wait until one has finished.", headers=RETRY)
        if len(self._callers) >= self.MOST:
            hint = "Try again in a moment."
            raise ApiError(503, "uploads_busy", "Too many uploads are running", hint=hint, headers=RETRY)
        self._callers.append(caller)
        try:
            yield
        finally:
            self._callers.remove(caller)


class ClientGoneError(Exception):
    """The client closed the connection: no response can be sent."""


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
            "The body must not be compressed",
            hint="Omit Content-Encoding.",
        )


async def read_body(receive: Receive, limit: int) -> bytes:
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
        raise _too_large("body", limit, headers={"connection": "close"} if message["more_body"] else {})
    return b"".join(chunks)


def read_query(query: bytes) -> list[tuple[str, str]]:
    """The fields of a query string, or of a form that is encoded like one."""
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        raise _too_many_fields() from None


def read_form(body: bytes, content_type: bytes) -> list[tuple[str, str]]:
    """The fields of a form in either encoding: mail programs unsubscribe with multipart/form-data, too (RFC 8058)."""
    if not (boundary := BOUNDARY.match(content_type)):
        return read_query(body)
    parts = body.split(b"--" + boundary[1], FORM_FIELDS + 2)
    if len(parts) > FORM_FIELDS + 2:
        raise _too_many_fields()
    fields = []
    for part in parts[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        # At the beginning of a line: to search for it everywhere takes a second for a line of 64 kB.
        for name in filter(None, map(FIELD.match, head.split(b"\r\n", FORM_FIELDS))):
            fields.append((name[1].decode("utf-8", "replace"), value.removesuffix(b"\r\n").decode("utf-8", "replace")))
            break
    return fields


def _too_many_fields() -> ApiError:
    return ApiError(
        422,
        "too_many_values",
        f"The query or form has more than {FORM_FIELDS} fields",
        hint="Send only documented fields.",
    )


async def read_file(receive: Receive, limit: int = FILE_BYTES) -> tuple[IO[bytes], bytes]:
    """The body in a temporary file, on the disk if it is long, and its SHA-256."""
    file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - closed with the request
    digest = hashlib.sha256()
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        size += len(message["body"])
        if size > limit:
            raise _too_large("file", limit, headers={"connection": "close"})
        digest.update(message["body"])
        file.write(message["body"])
        more = message["more_body"]
    file.seek(0)
    return file, digest.digest()


def _too_large(what: str, limit: int, headers: Mapping[str, str]) -> ApiError:
    return ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body_too_large",
        f"The {what} is larger than {limit:,} bytes",
        hint="Send it in parts.",
        headers=headers,
    )


async def parse(request: TypeAdapter[Any], body: bytes, most_values: int) -> Any:
    await check_values(body, most_values)
    try:
        return request.validate_json(body)
    except ValidationError as error:
        problem = error
    await asyncio.sleep(0)  # explaining takes as long as parsing: other requests get a turn in between
    raise invalid_body(problem, body)


async def check_values(body: bytes, most: int) -> None:
    """Refuse JSON with too many members and elements, since an invalid one costs time. Few bodies have many commas."""
    if body.count(b",") <= most:
        return
    found = end = 0
    for count, string in enumerate(STRING.finditer(body)):
        found += body.count(b",", end, string.start())
        end = string.end()
        if found > most:
            break
        if count % 1000 == 0:
            await asyncio.sleep(0)
    if found + body.count(b",", end) > most:
        raise ApiError(
            422,
            "too_many_values",
            f"The body has more than {most:,} values",
            hint="Send only documented fields, in several requests if there are many items.",
        )


def invalid_body(error: ValidationError, body: bytes) -> ApiError:
    """What is wrong with a body, field by field."""
    if error.error_count() > REPORTED_FIELDS:
        return ApiError(
            422,
            "invalid_body",
            f"The body has {error.error_count():,} invalid fields",
            hint=f"Up to {REPORTED_FIELDS} are listed one by one.",
        )
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return ApiError(400, "malformed_json", "The body is not valid JSON", details=found[0]["msg"])
    sent = from_json(body)
    fields = [_problem(each, sent) for each in found]
    return ApiError(422, "invalid_body", "The body has invalid fields", details=fields)


def _problem(error: ErrorDetails, sent: Any) -> dict[str, str]:
    """The path in the body, and what was found there if that is short.

    pydantic's location has a further step for the alternative of a union that was tried.
    """
    path = []
    for step in error["loc"]:
        exists = (isinstance(sent, dict) and step in sent) or (isinstance(sent, list) and isinstance(step, int))
        if exists or (error["type"] == "missing" and step == error["loc"][-1]):
            path.append(str(step))
            sent = sent[step] if exists else None
    if error["type"].startswith("union_tag"):  # the discriminator itself is invalid
        path.append(error["ctx"]["discriminator"].strip("'"))
    problem = error["msg"]
    if isinstance(sent, str | int | float | None) and error["type"] != "missing" and "found" not in problem:
        problem += f"; found {json.dumps(sent, ensure_ascii=False)[:REPORTED_CHARACTERS]}"
    return {"field": ".".join(path), "problem": problem, "type": error["type"]}
