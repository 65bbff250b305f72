"""Every error becomes one answer: a status and {code, message, details, hint}. Nobody else builds error bodies."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

RETRY = {"retry-after": "1"}
REPORTED_FIELDS = 100
STATUSES = {str(status.value) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST}


class ApiError(Exception):
    """An error with an answer of its own; `code` is for programs, the other words for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Any = None,
        hint: str | None = None,
        headers: Mapping[str, str] = {},
        more: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(message)
        self.problem = Problem(status, code, message, details, hint, headers, more)

    @classmethod
    def of(cls, problem: "Problem") -> "ApiError":
        return cls(
            problem.status,
            problem.code,
            problem.message,
            details=problem.details,
            hint=problem.hint,
            headers=problem.headers,
            more=problem.more,
        )


@dataclass(frozen=True)
class Problem:
    status: int
    code: str
    message: str
    details: Any = None
    hint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # What another protocol wants to read beside our own words.
    more: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        words = {"code": self.code, "message": self.message, "details": self.details, "hint": self.hint, **self.more}
        return json.dumps(words, ensure_ascii=False).encode()


INTERNAL = Problem(500, "internal_error", "Something went wrong on our side")
BUSY = Problem(503, "database_busy", "The database is busy", hint="Try again in a moment.", headers=RETRY)
AWAY = Problem(503, "database_away", "The database cannot be reached", hint="Try again in a moment.", headers=RETRY)

# What a SQLSTATE means: a status for the caller's faults, a whole answer where the database's words are not for them.
# The longest entry that the state begins with decides; PTnnn is status nnn, as PostgREST has it.
MEANING: dict[str, int | Problem] = {
    "08": AWAY,
    "22": 400,
    "23": 400,
    "23503": 409,
    "23505": 409,
    "23P01": 409,
    "25006": BUSY,  # a standby or a restore: read-only for now
    "40": BUSY,  # serialization failure or deadlock: nothing was done
    "42501": 403,
    "53": BUSY,
    "55P03": BUSY,
    "57014": BUSY,
    "57P": AWAY,
    "P0001": 400,
}
CODES = {"PT403": "user_suspended"}


def problem_of(error: BaseException) -> Problem:
    """The answer to an exception; INTERNAL means that somebody has to look into it."""
    match error:
        case ApiError():
            return error.problem
        case PoolTimeout() | TooManyRequests() | TimeoutError():
            return BUSY
        case psycopg.Error() if error.sqlstate:
            return _refused(error, error.sqlstate)
        case PoolClosed() | psycopg.OperationalError() | psycopg.InterfaceError():
            return AWAY  # the connection broke before any answer came
    if type(error).__module__.startswith("stripe."):
        from shared.billing import client as stripe  # noqa: PLC0415 - it is loaded already, or there would be no such error

        return stripe.problem_of(error)  # type: ignore[arg-type]  # its module says what it is
    return INTERNAL


def _refused(error: psycopg.Error, state: str) -> Problem:
    said = error.diag
    return problem_of_state(state, said.message_primary, said.message_detail, said.message_hint)


def problem_of_state(state: str, message: str | None, detail: str | None, hint: str | None) -> Problem:
    """The answer to what the database said under this SQLSTATE; INTERNAL where it means nothing to a caller."""
    status = state[2:] if state.startswith("PT") else ""
    meaning: int | Problem = int(status) if status in STATUSES else INTERNAL
    for length in (2, 3, 5):
        meaning = MEANING.get(state[:length], meaning)
    if isinstance(meaning, Problem):
        return meaning
    # "Failing row contains (…)" would show columns the caller may not see.
    details = None if state in {"23502", "23514"} else detail
    return Problem(
        meaning,
        CODES.get(state, state),
        message or "The database refused",
        details,
        hint,
        RETRY if meaning in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE} else {},
    )


def invalid_body(error: ValidationError, body: bytes) -> ApiError:
    """What is wrong with a body, field by field."""
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return ApiError(400, "malformed_json", "The body is not JSON", details=found[0]["msg"])
    sent = from_json(body)
    fields = [
        {"field": _place(each, sent), "problem": each["msg"], "type": each["type"]} for each in found[:REPORTED_FIELDS]
    ]
    return ApiError(422, "invalid_body", "The body has invalid fields", details=fields)


def _place(error: ErrorDetails, sent: Any) -> str:
    """Where in what was sent. Which of several forms was tried stands in the location too, but in no body."""
    place = []
    for step in error["loc"]:
        here = (isinstance(sent, dict) and step in sent) or (isinstance(sent, list) and isinstance(step, int))
        if here or (error["type"] == "missing" and step == error["loc"][-1]):
            place.append(str(step))
            sent = sent[step] if here else None
    if error["type"].startswith("union_tag"):  # what tells the forms apart is itself wrong
        place.append(error["ctx"]["discriminator"].strip("'"))
    return ".".join(place)
