"""Limits of headers and bodies, before they are parsed."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.app.bodies import DRAINED_BYTES, ClientGoneError, check_content, check_values, read_body
from shared.app.headers import SENT_ONCE, check_headers, read_headers, request_id
from shared.errors import ApiError


def arriving(*parts: bytes, ends: bool = True) -> Any:
    """ASGI messages of a body: its parts, then the end or a disconnect."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts[:-1]]
    messages.append({"type": "http.request", "body": parts[-1], "more_body": not ends})

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_body_chunks_are_joined(parts: Sequence[bytes]) -> None:
    whole = b"".join(parts)
    assert asyncio.run(read_body(arriving(*parts), limit=len(whole))) == whole


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=20))
def test_body_one_byte_over_the_limit_is_413(parts: Sequence[bytes]) -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(arriving(*parts), limit=len(b"".join(parts)) - 1))
    assert caught.value.response.status == 413
    assert "connection" not in caught.value.response.headers


def test_endless_body_closes_the_connection() -> None:
    with pytest.raises(ApiError) as caught:
        asyncio.run(read_body(arriving(b" " * DRAINED_BYTES, b" ", b" ", ends=False), limit=10))
    assert caught.value.response.headers == {"connection": "close"}


@pytest.mark.parametrize("parts", [(b"half",), (b"", b"half", b"more")])
def test_disconnect_raises_client_gone(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ClientGoneError):
        asyncio.run(read_body(arriving(*parts, ends=False), limit=100))


@given(st.sampled_from(sorted(SENT_ONCE)), st.binary(), st.binary())
def test_repeated_credentials_header_is_rejected(name: bytes, one: bytes, other: bytes) -> None:
    assert read_headers([(name, one), (b"x", b"a"), (b"x", b"b")])[name] == one
    with pytest.raises(ApiError, match="more than once"):
        read_headers([(name, one), (name, other)])


@given(st.sampled_from([b"x-org-id", b"idempotency-key", b"content-type", b"content-encoding"]), st.binary())
def test_any_header_is_fine_or_refused(name: bytes, value: bytes) -> None:
    statuses = set()
    for check in (check_headers, check_content):
        try:
            check({b"content-type": b"application/json", name: value})
        except ApiError as error:
            statuses.add(error.response.status)
    assert statuses <= {400, 415}


@given(st.binary())
def test_request_id_is_safe_for_logs(sent: bytes) -> None:
    used = request_id([(b"x-request-id", sent)])
    assert used.isascii()
    assert used.decode().isprintable()
    assert 8 <= len(used) <= 64


def test_clients_request_id_is_preferred() -> None:
    both = [(b"function-execution-id", b"of-the-platform"), (b"x-request-id", b"of-the-caller")]
    assert request_id(both) == b"of-the-caller"
    assert request_id([(b"x-request-id", b"bad id")]) != request_id([(b"x-request-id", b"bad id")])


def commas_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return max(0, len(value) - 1) + sum(map(commas_of, value)) if isinstance(value, list) else 0


Json = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a":\\,{}é ')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('a":\\,{}')), inner),
)


@given(Json, st.booleans())
def test_exactly_the_values_of_a_body_are_counted(body: Any, spaced: bool) -> None:
    sent = json.dumps(body, separators=(" , ", " : ") if spaced else (",", ":")).encode()
    asyncio.run(check_values(sent, commas_of(body)))
    if commas_of(body):
        with pytest.raises(ApiError, match="more than"):
            asyncio.run(check_values(sent, commas_of(body) - 1))


@given(st.binary() | st.text(st.sampled_from('",\\')).map(str.encode))
def test_values_of_any_bytes_are_counted(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        asyncio.run(check_values(body, 1))
