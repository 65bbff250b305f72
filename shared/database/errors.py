"""What the database's errors mean to a client: the status of each SQLSTATE."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

import psycopg
from psycopg.errors import Diagnostic
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from shared.errors import INTERNAL, RETRY, ErrorResponse, register

STATUSES = {str(status.value) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST}
AGAIN = "Try again in a moment."
# What `raise` sends as the name of a constraint, where a limit has room later than in a second.
LATER = re.compile(r"retry-after (\d+)")
BUSY = ErrorResponse(503, "database_busy", "The database is busy", hint=AGAIN, headers=RETRY)
UNAVAILABLE = ErrorResponse(503, "database_unavailable", "The database cannot be reached", hint=AGAIN, headers=RETRY)

# A status for errors of the caller, whose message the database has written for them; a whole response for all others.
# The longest entry that the SQLSTATE begins with decides. PTnnn is status nnn, as in PostgREST.
MEANING: dict[str, int | ErrorResponse] = {
    "08": UNAVAILABLE,
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
    "57P": UNAVAILABLE,
    "P0001": 400,
}
CODES = {"PT403": "user_suspended"}


# Messages in place of those that Postgres writes, by SQLSTATE. Checks and keys have sentences as their names: the field
# and what it accepts. The values of a row are not for the client; private.refuse_invalid_row() shows those it sent.
MESSAGES: dict[str, Callable[[Diagnostic], str]] = {
    "22001": lambda _: "A text is longer than its field accepts",
    "22003": lambda _: "A number is larger than its field accepts",
    "22021": lambda _: "A text has a character that is not valid in UTF-8",
    "22P05": lambda _: "A text has a NUL character, which no field accepts",
    "23502": lambda found: f"{found.column_name} is required, found null",
    "23503": lambda found: _of_key(found, "does not refer to an existing row"),
    "23505": lambda found: _of_key(found, "is already in use"),
    "23514": lambda found: (
        (found.column_name and found.message_primary) or f"A value is not accepted: {found.constraint_name}"
    ),
    "23P01": lambda found: f"A value conflicts with another row: {found.constraint_name}",
}


def _of_key(found: Diagnostic, problem: str) -> str:
    """A message with the columns of `Key (a, b)=(1, 2) …`, without the tenant; with the rule if Postgres hides them."""
    key = re.match(r"Key \((.*?)\)=", found.message_detail or "")
    names = [name for name in key[1].split(", ") if name != "organization_id"] if key else []
    return f"{', '.join(names)} {problem}" if names else f"A value {problem}: {found.constraint_name}"


def from_sqlstate(state: str, message: str | None, detail: str | None, hint: str | None) -> ErrorResponse:
    """The response to an error of the database; INTERNAL where the SQLSTATE is no error of the caller."""
    status = state[2:] if state.startswith("PT") else ""
    meaning: int | ErrorResponse = int(status) if status in STATUSES else INTERNAL
    for length in (2, 3, 5):
        meaning = MEANING.get(state[:length], meaning)
    if isinstance(meaning, ErrorResponse):
        return meaning
    # "Failing row contains (…)" has columns that the caller may not see.
    details = None if state in {"23502", "23514"} else detail
    return ErrorResponse(
        meaning,
        CODES.get(state, state),
        message or "The database refused the request",
        details,
        hint,
        RETRY if meaning in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE} else {},
    )


def _whole_response(message: str | None, detail: str | None) -> ErrorResponse:
    """The response of `raise sqlstate 'PGRST'`, as PostgREST reads it: JSON in message and detail."""
    try:
        body, about = json.loads(message or ""), json.loads(detail or "")
    except ValueError:
        return INTERNAL
    return ErrorResponse(
        about["status"],
        body["code"],
        body["message"],
        body.get("details"),
        body.get("hint"),
        {name.lower(): value for name, value in about["headers"].items()},
    )


def _from_error(error: psycopg.Error) -> ErrorResponse:
    if error.sqlstate:
        found = error.diag
        if error.sqlstate == "PGRST":
            return _whole_response(found.message_primary, found.message_detail)
        rewritten = MESSAGES.get(error.sqlstate)
        message = rewritten(found) if rewritten else found.message_primary
        response = from_sqlstate(error.sqlstate, message, found.message_detail, found.message_hint)
        if wait := LATER.fullmatch(found.constraint_name or ""):
            return replace(response, headers={"retry-after": wait[1]})
        return response
    # Without a SQLSTATE the connection broke before the server responded.
    return UNAVAILABLE if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else INTERNAL


register(psycopg.Error, _from_error)
register(PoolTimeout, lambda _: BUSY)
register(TooManyRequests, lambda _: BUSY)
register(PoolClosed, lambda _: UNAVAILABLE)
register(TimeoutError, lambda _: BUSY)
