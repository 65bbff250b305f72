"""A file on its way in: its type, and its bytes as they arrive."""

import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from local.api.errors import storage_error
from local.api.http import chunks, strict_json
from local.api.storage.blobs import too_large
from local.api.storage.multipart import read_form
from local.api.storage.names import refused


@dataclass(frozen=True)
class Incoming:
    type: str
    chunks: AsyncIterator[bytes]
    length: int | None  # as the client announced it
    cache_control: str
    user_metadata: dict[str, Any] | None


async def read_file(request: Request, limit: int) -> Incoming:
    """The file of the request, in either form clients send it: alone, or in a form with fields that describe it."""
    content_type = request.headers.get("content-type", "application/octet-stream")
    if not content_type.lower().startswith("multipart/form-data"):
        length = request.headers.get("content-length")
        if int(length or 0) > limit:
            raise too_large()
        return Incoming(
            content_type,
            chunks(request),
            int(length) if length else None,
            request.headers.get("cache-control", "no-cache"),
            _header_metadata(request.headers.get("x-metadata")),
        )
    form = await read_form(chunks(request), content_type)
    seconds = form.fields.get("cacheControl", "")
    return Incoming(
        form.fields.get("contentType") or form.type or "application/octet-stream",
        form.content,
        None,
        f"max-age={seconds}" if seconds.isdecimal() else seconds or "no-cache",
        _metadata(form.fields.get("metadata")),
    )


def _header_metadata(text: str | None) -> dict[str, Any] | None:
    try:
        return _metadata(base64.b64decode(text).decode()) if text else None
    except (binascii.Error, UnicodeDecodeError):
        raise refused("The header x-metadata is not valid base64") from None


def _metadata(text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        value = strict_json(text)
    except ValueError:
        raise refused("The metadata is not valid JSON") from None
    if not isinstance(value, dict):
        raise refused("The metadata is not a JSON object")
    return value


def check_type(content_type: str, allowed: list[str] | None) -> None:
    """As the bucket allows, e.g. `image/png` or `image/*`; parameters such as a charset don't matter."""
    found = content_type.lower().split(";", 1)[0].strip()
    if allowed and not any(_fits(each, found) for each in allowed):
        raise storage_error(415, "invalid_mime_type", f"mime type {content_type} is not supported")


def _fits(pattern: str, found: str) -> bool:
    return pattern in {found, "*/*", "*"} or (pattern.endswith("/*") and found.startswith(pattern[:-1]))
