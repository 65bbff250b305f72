"""How an error becomes a response: each service has its own JSON, and clients depend on it."""

from collections.abc import Mapping
from typing import Any

from psycopg import Error

HOSTED = "Use the official stack (`supabase start`) or a hosted project for it."


class ApiError(Exception):
    """A refusal with its whole response."""

    def __init__(self, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body.get("message") or body.get("msg")))
        self.status, self.body, self.headers = status, body, dict(headers or {})


class DatabaseUnavailable(Exception):  # noqa: N818 - a state, not a mistake
    """The database can't be reached, or the connection broke while in use."""


class PoolExhausted(DatabaseUnavailable):
    """All connections are in use."""


def gateway_error(
    status: int,
    code: str,
    message: str,
    details: str | None = None,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ApiError:
    """Outside any service, in the form of the data API."""
    return ApiError(status, {"code": code, "message": message, "details": details, "hint": hint}, headers)


def auth_error(status: int, error_code: str, msg: str, **more: Any) -> ApiError:
    body = {"code": status, "error_code": error_code, "msg": msg, **more}
    return ApiError(status, body, {"x-sb-error-code": error_code})


# Storage has a newer name for some of its errors, and sends both.
STORAGE_CODES = {
    "not_found": "NoSuchKey",
    "Bucket not found": "NoSuchBucket",
    "Unauthorized": "AccessDenied",
    "Duplicate": "ResourceAlreadyExists",
    "Payload too large": "EntityTooLarge",
    "Invalid Input": "InvalidBucketName",
    "invalid_mime_type": "InvalidMimeType",
}


def storage_error(status: int, error: str, message: str) -> ApiError:
    """Storage puts the status in the body and sends 400, except for its own failures; clients read the body."""
    sent = status if status >= 500 else 400  # noqa: PLR2004 - a failure of the server
    code = STORAGE_CODES.get(error, error)
    return ApiError(sent, {"statusCode": str(status), "error": error, "message": message, "code": code})


def not_served(what: str) -> ApiError:
    return gateway_error(501, "not_served", f"{what} is not part of the local API.", None, HOSTED)


def unavailable() -> ApiError:
    return gateway_error(
        503, "PGRST001", "The database does not answer.", None, "Try again in a moment.", {"retry-after": "1"}
    )


def is_gone(error: Error) -> bool:
    """Whether the connection is lost: the server ended it, or no server sent this error."""
    fatal = error.diag.severity_nonlocalized in {"FATAL", "PANIC"}  # a function may raise the same codes as errors
    return fatal or (error.sqlstate is None and type(error).__name__ == "OperationalError")
