"""How an exception becomes the error response {code, message, details, hint}. No other module builds error bodies.

This module knows no library. The module that uses one registers its exceptions, as shared/database/errors.py does.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Failure = TypeVar("Failure", bound=BaseException)

RETRY = {"retry-after": "1"}


@dataclass(frozen=True)
class ErrorResponse:
    status: int
    code: str
    message: str
    details: Any = None
    hint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # Fields that another protocol (OFREP) reads beside ours.
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        fields = {"code": self.code, "message": self.message, "details": self.details, "hint": self.hint, **self.extra}
        return json.dumps(fields, ensure_ascii=False).encode()


class ApiError(Exception):
    """An error with a response of its own: `code` is for programs, the other fields are for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Any = None,
        hint: str | None = None,
        headers: Mapping[str, str] = {},
        extra: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(message)
        self.response = ErrorResponse(status, code, message, details, hint, headers, extra)

    @classmethod
    def of(cls, response: ErrorResponse) -> "ApiError":
        error = cls(response.status, response.code, response.message)
        error.response = response
        return error


INTERNAL = ErrorResponse(500, "internal_error", "Something went wrong on our side")

_handlers: dict[type[BaseException], Callable[[Any], ErrorResponse]] = {ApiError: lambda error: error.response}


def register(kind: type[Failure], handler: Callable[[Failure], ErrorResponse]) -> None:
    """Let `handler` respond to exceptions of this class and its subclasses; the nearest class in the MRO decides."""
    _handlers[kind] = handler


def error_response(error: BaseException) -> ErrorResponse:
    """The response to an exception; INTERNAL means that it is a bug, to be logged and looked into."""
    for kind in type(error).__mro__:
        if handler := _handlers.get(kind):
            return handler(error)
    return INTERNAL
