"""A file on its way out: whole, in part, or not at all if the client has it already."""

import re
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from local.api.database import Row
from local.api.storage.blobs import Blobs
from local.api.storage.names import no_object

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")
UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')


async def deliver(request: Request, blobs: Blobs, row: Row) -> Response:
    metadata = row["metadata"] or {}
    try:
        file, size, content = await blobs.open(row["version"])
    except OSError:
        print(f"storage: the file of {row['bucket_id']}/{row['name']} is missing ({row['version']})", flush=True)
        raise no_object() from None
    headers = {
        "content-type": _header(metadata.get("mimetype"), "application/octet-stream"),
        "cache-control": _header(metadata.get("cacheControl"), "no-cache"),
        "etag": _header(metadata.get("eTag"), '""'),
        "last-modified": _http_date(row["updated_at"]),
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "x-robots-tag": "none",
        **_disposition(request, row["name"]),
    }
    is_known = request.headers.get("if-none-match") == headers["etag"]
    start, end, partial = _range(request, size)
    status = 206 if partial else 200
    is_empty = start > end
    length = {"content-length": str(end - start + 1)}
    part = {"content-range": f"bytes {start}-{end}/{size}"} if partial else {}
    if len(content) < size and request.method != "HEAD" and not is_known and not is_empty:
        return StreamingResponse(blobs.read(file, start, end), status, headers | length | part)
    file.close()
    if is_known:
        return Response(None, 304, headers)
    if is_empty and partial:
        return Response(None, 416, headers | {"content-range": f"bytes */{size}"})
    body = None if request.method == "HEAD" else content[start : end + 1]
    return Response(body, status, headers | length | part)


def _header(value: object, otherwise: str) -> str:
    text = value if isinstance(value, str) else otherwise
    return text if text.isprintable() and text.isascii() else otherwise


def _http_date(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return format_datetime(moment.replace(tzinfo=None)).replace("-0000", "GMT")


def _disposition(request: Request, name: str) -> dict[str, str]:
    shown = request.query_params.get("download")
    if shown is None:
        return {}
    shown = shown or name.rsplit("/", 1)[-1]
    plain = UNSAFE.sub("_", shown)
    return {"content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(shown, safe='')}"}


def _range(request: Request, size: int) -> tuple[int, int, bool]:
    """First and last byte, and whether the client requested a part."""
    found = RANGE.match(request.headers.get("range", ""))
    if not found or not (found[1] or found[2]):
        return 0, size - 1, False
    if not found[1]:
        return max(0, size - int(found[2])), size - 1, True
    return int(found[1]), min(int(found[2] or size), size - 1), True
