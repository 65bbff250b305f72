"""The headers of a request, checked before any work is done."""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import count

from shared.auth.caller import UUID
from shared.errors import ApiError

# With two different values, a proxy in front of us could act on one and we on the other.
SENT_ONCE = {b"authorization", b"apikey", b"x-api-key", b"content-type", b"idempotency-key", b"x-org-id"}
IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
REQUEST_ID = re.compile(rb"[\w.:-]{8,64}", re.ASCII)
# The database gets these headers, in the form in which PostgREST passes headers on: nothing secret, nothing long.
FOR_DATABASE = (b"x-org-id", b"user-agent")
FOR_DATABASE_CHARACTERS = 500
FORWARDED = b"x-forwarded-for"

_PROCESS = secrets.token_hex(6)
_serial = count(1)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The client's own id if it may stand in a log, else functions-framework's, else a new one."""
    found = b""
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return value
        if name == b"function-execution-id" and REQUEST_ID.fullmatch(value):
            found = value
    return found or b"%s-%x" % (_PROCESS.encode(), next(_serial))


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        if name in headers and name in SENT_ONCE:
            raise ApiError(
                400,
                "repeated_header",
                f"The header {name.decode()} was sent more than once",
                hint="Send it once.",
            )
        # A proxy may append a header instead of an entry to the list.
        headers[name] = headers[name] + b"," + value if name in headers and name == FORWARDED else value
    return headers


def check_headers(headers: Mapping[bytes, bytes]) -> None:
    if (org := headers.get(b"x-org-id")) is not None and not UUID.fullmatch(org.decode("latin-1")):
        raise ApiError(
            400,
            "malformed_header",
            "x-org-id is not a UUID",
            hint="Send the id of an organization you belong to, or omit the header.",
        )
    if (key := headers.get(b"idempotency-key")) is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise ApiError(
            400,
            "malformed_header",
            "Idempotency-Key is not 1 to 255 visible ASCII characters",
            hint="Send a new UUID for each new request.",
        )


def for_database(headers: Mapping[bytes, bytes], address: str | None) -> str:
    return _as_json(address, *(headers.get(name, b"")[:FOR_DATABASE_CHARACTERS] for name in FOR_DATABASE))


@lru_cache(512)  # a client repeats its headers
def _as_json(address: str | None, *values: bytes) -> str:
    found = {name.decode(): value.decode("latin-1") for name, value in zip(FOR_DATABASE, values, strict=True) if value}
    return json.dumps(found | ({FORWARDED.decode(): address} if address else {}))
