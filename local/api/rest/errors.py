"""Errors of the data API, with PostgREST's codes, and how an error of the database becomes a response."""

import json
from typing import Any

from psycopg import Error

from local.api.errors import ApiError
from local.api.tokens import TokenError


class RestError(ApiError):
    """An error with PostgREST's code; `details` may be any JSON."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Any = None,
        hint: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        body = {"code": code, "details": details, "hint": hint, "message": message}
        sent = {"proxy-status": f"PostgREST; error={code}", **(headers or {})}
        super().__init__(status, body, {name: on_wire(text) for name, text in sent.items() if is_header(name, text)})


# The first prefix that matches decides; every other error is the client's.
STATUS_BY_SQLSTATE = (
    ("08", 503),
    ("09", 500),
    ("0L", 403),
    ("0P", 403),
    ("23503", 409),
    ("23505", 409),
    ("25006", 405),
    ("25", 500),
    ("28", 403),
    ("2D", 500),
    ("38", 500),
    ("39", 500),
    ("3B", 500),
    ("40", 500),
    ("53400", 500),
    ("53", 503),
    ("54", 500),
    ("55", 500),
    ("57P01", 503),
    ("57", 500),
    ("58", 500),
    ("F0", 500),
    ("HV", 500),
    ("P0001", 400),
    ("P0", 500),
    ("XX", 500),
    ("42883", 404),
    ("42P01", 404),
    ("42P17", 500),
)


def _status(code: str, message: str, *, signed_in: bool) -> int:
    if code == "42501":
        return 403 if signed_in else 401
    if code == "21000":
        return 400 if message.endswith("requires a WHERE clause") else 500
    if code == "22023":
        return 401 if message.startswith("role") and message.endswith("does not exist") else 400
    if code == "42883" and message.startswith("function xmlagg("):
        return 406
    if code.startswith("PT"):
        return http_status(int(code[2:])) if code[2:].isascii() and code[2:].isdigit() else 500
    return next((status for prefix, status in STATUS_BY_SQLSTATE if code.startswith(prefix)), 400)


def http_status(status: int) -> int:
    """One that can be sent as the status of a final response."""
    return status if 200 <= status <= 999 else 500  # noqa: PLR2004 - what HTTP allows


def unavailable(details: str | None = None) -> RestError:
    return RestError(
        503, "PGRST001", "Database client error. Retrying the connection.", details, None, {"retry-after": "1"}
    )


def from_database(error: Error, *, signed_in: bool) -> RestError:
    code, diagnostic = error.sqlstate, error.diag
    if code is None:
        return unavailable(str(error).strip() or None)
    message = diagnostic.message_primary or ""
    if code == "PGRST":
        return _composed(message, diagnostic.message_detail)
    status = _status(code, message, signed_in=signed_in)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}  # noqa: PLR2004
    if status == 503:  # noqa: PLR2004
        headers["retry-after"] = "1"
    return RestError(status, code, message, diagnostic.message_detail, diagnostic.message_hint, headers)


def _composed(message: str, detail: str | None) -> RestError:
    """`raise sqlstate 'PGRST'` carries the whole response as JSON in its message and detail."""
    content = _object(message)
    optional = (str, type(None))
    if (
        content is None
        or not all(isinstance(content.get(name), str) for name in ("code", "message"))
        or not all(isinstance(content.get(name), optional) for name in ("details", "hint"))
    ):
        keys = "'code', 'message' and optional keys: 'details', 'hint'"
        hint = f"MESSAGE must be a JSON object with obligatory keys: {keys}."
        return _not_composed(f"Invalid JSON value for MESSAGE: '{message}'", hint)
    hint = "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' and optional key: 'status_text'."
    if detail is None:
        return _not_composed("DETAIL is missing in the RAISE statement", hint)
    about = _object(detail)
    headers = about.get("headers") if about is not None else None
    if (
        about is None
        or isinstance(about.get("status"), bool)
        or not isinstance(about.get("status"), int)
        or not isinstance(about.get("status_text"), optional)
        or not isinstance(headers, dict)
        or not all(isinstance(value, str) for value in headers.values())
    ):
        return _not_composed(f"Invalid JSON value for DETAIL: '{detail}'", hint)
    return RestError(
        http_status(about["status"]),
        content["code"],
        content["message"],
        content.get("details"),
        content.get("hint"),
        {name.lower(): value for name, value in headers.items()},
    )


def _not_composed(details: str, hint: str) -> RestError:
    return RestError(500, "PGRST121", "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error", details, hint)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


OF_THE_SERVER = {"connection", "content-length", "date", "transfer-encoding"}


def is_header(name: str, value: str) -> bool:
    """Whether it can be sent: a token, and a value without control characters; none that delimits the response."""
    token = name.isascii() and bool(name) and all(char.isalnum() or char in "!#$%&'*+-.^_`|~" for char in name)
    return (
        token and name.lower() not in OF_THE_SERVER and all(char == "\t" or (" " <= char != "\x7f") for char in value)
    )


def on_wire(text: str) -> str:
    """The value of a header, whose characters are the bytes that are sent."""
    return text.encode(errors="replace").decode("latin-1")


def from_token(error: TokenError) -> RestError:
    return RestError(401, error.code, error.message, error.details, None, {"www-authenticate": error.challenge})
