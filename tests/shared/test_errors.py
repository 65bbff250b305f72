"""Every exception becomes one error response."""

import json
from typing import Annotated, Any

import psycopg
import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from shared.app.bodies import invalid_body
from shared.billing import client  # noqa: F401 - registers the errors of Stripe
from shared.database.errors import BUSY, UNAVAILABLE
from shared.errors import INTERNAL, ApiError, error_response


def from_database(state: str) -> psycopg.Error:
    try:
        kind: type[psycopg.Error] = psycopg.errors.lookup(state)
    except KeyError:
        kind = psycopg.DatabaseError
    error = kind("private words")
    error.sqlstate = state
    return error


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("PT402", 402), ("PT404", 404), ("PT409", 409), ("PT410", 410), ("PT422", 422), ("PT400", 400),
        ("22023", 400), ("22P02", 400), ("22P05", 400), ("23502", 400), ("23514", 400), ("P0001", 400),
        ("23503", 409), ("23505", 409), ("23P01", 409), ("42501", 403),
        ("53300", 503), ("57014", 503), ("55P03", 503), ("40001", 503), ("40P01", 503), ("57P01", 503), ("08006", 503),
        ("42P01", 500), ("42883", 500), ("XX000", 500), ("21000", 500), ("PT999", 500), ("PT200", 500), ("PTabc", 500),
    ],
)  # fmt: skip
def test_a_sqlstate_has_its_status(state: str, status: int) -> None:
    problem = error_response(from_database(state))
    assert problem.status == status
    if status == 503:
        assert problem.headers["retry-after"]
    if status < 500:
        assert problem.code == state


def test_suspended_user_has_its_own_code() -> None:
    problem = error_response(from_database("PT403"))
    assert (problem.status, problem.code) == (403, "user_suspended")


@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=5, max_size=5))
def test_every_sqlstate_has_a_response(state: str) -> None:
    problem = error_response(from_database(state))
    assert 400 <= problem.status <= 599
    if problem.status >= 500:
        assert b"private words" not in problem.body()


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (PoolTimeout("x"), BUSY),
        (TooManyRequests("x"), BUSY),
        (TimeoutError(), BUSY),
        (PoolClosed("x"), UNAVAILABLE),
        (psycopg.OperationalError("server closed the connection unexpectedly"), UNAVAILABLE),
        (psycopg.InterfaceError("x"), UNAVAILABLE),
        (ValueError("private words"), INTERNAL),
        (RecursionError(), INTERNAL),
        (psycopg.ProgrammingError("x"), INTERNAL),
    ],
)
def test_every_exception_has_a_response(error: Exception, problem: object) -> None:
    assert error_response(error) is problem


def test_api_error_keeps_its_fields() -> None:
    problem = error_response(
        ApiError(410, "gone", "It expired", details={"at": 1}, hint="Begin again.", headers={"a": "b"})
    )
    assert json.loads(problem.body()) == {
        "code": "gone",
        "message": "It expired",
        "details": {"at": 1},
        "hint": "Begin again.",
    }
    assert (problem.status, problem.headers) == (410, {"a": "b"})


class Inner(BaseModel):
    number: int


class Outer(BaseModel):
    inner: Inner
    several: list[Inner | Annotated[str, Field(max_length=2)]] = []


def fields(body: Any) -> set[str]:
    sent = json.dumps(body).encode()
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Outer).validate_json(sent)
    return {field["field"] for field in invalid_body(caught.value, sent).response.details}


def test_invalid_field_is_named_by_its_path() -> None:
    assert fields({}) == {"inner"}
    assert fields({"inner": {}}) == {"inner.number"}
    assert fields({"inner": {"number": 1}, "several": [{"number": 1}, {"number": "x"}]}) >= {"several.1.number"}


def answered(sent: bytes) -> int:
    try:
        TypeAdapter(Outer).validate_json(sent)
    except ValidationError as error:
        problem = invalid_body(error, sent).response
        return problem.status if json.loads(problem.body())["details"] else 0
    return 200


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["inner", "number", "several"]) | st.text(), inner),
)


@given(Json)
def test_any_invalid_json_lists_its_fields(body: Any) -> None:
    assert answered(json.dumps(body).encode()) in {200, 422}


@given(st.binary())
def test_any_bytes_get_a_4xx(sent: bytes) -> None:
    assert answered(sent) in {200, 400, 422}


refusal: Any = stripe  # whose exceptions are untyped


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (refusal.CardError("Your card was declined.", None, "card_declined", http_status=402), 402, "card_declined"),
        (refusal.InvalidRequestError("No such price: 'price_1'", "items[0][price]", "x"), 422, "stripe_refused"),
        (refusal.RateLimitError("Too many requests", http_status=429), 503, "stripe_busy"),
        (refusal.APIConnectionError("Unexpected error"), 503, "stripe_unavailable"),
        (refusal.APIError("Something broke", http_status=500), 503, "stripe_unavailable"),
        (refusal.APIError("Another request has this key", http_status=409), 503, "stripe_busy"),
        (refusal.AuthenticationError("Invalid API Key provided: sk_test_***", http_status=401), 500, "internal_error"),
        (refusal.IdempotencyError("Other parameters", http_status=400), 500, "internal_error"),
    ],
)
def test_only_card_errors_show_stripes_message(error: Exception, status: int, code: str) -> None:
    problem = error_response(error)
    assert (problem.status, problem.code) == (status, code)
    assert ("retry-after" in problem.headers) == (status == 503)
    assert (str(error) in problem.body().decode()) == (status == 402)
