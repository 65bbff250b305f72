"""Hostile clients below the level of a request: the server responds or disconnects, and keeps serving."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from shared.app.bodies import DRAINED_BYTES
from shared.app.server import HEADER_BYTES, REQUEST_SECONDS
from tests.support.serving import ENTRY, RECORD, Serving, token

RECORD_BYTES = 1 << 19  # as record-activity declares


@pytest.fixture(autouse=True)
def still_serving(functions: Serving) -> Iterator[None]:
    yield
    assert functions.process.poll() is None
    assert functions.record().status_code == 201


def connect(functions: Serving) -> socket.socket:
    return socket.create_connection(("127.0.0.1", functions.port), timeout=REQUEST_SECONDS + 10)


def read(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and error of one response."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            break
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    assert b"access-control-allow-origin: *" in head
    assert b"x-request-id: " in head
    return int(head.split()[1]), json.loads(body)


def request(body: bytes, *headers: str) -> bytes:
    lines = [
        f"POST {RECORD} HTTP/1.1",
        "host: functions",
        f"authorization: Bearer {token()}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(functions: Serving, data: bytes) -> tuple[int, dict[str, object]]:
    with closing(connect(functions)) as connection:
        connection.sendall(data)
        return read(connection)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"HELLO there\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    ],
    ids=range(10),
)
def test_attack_malformed_http(functions: Serving, data: bytes) -> None:
    status, error = exchange(functions, data)
    assert 400 <= status < 500
    assert error.keys() == {"code", "message", "details", "hint"}


def test_attack_headers_without_end(functions: Serving) -> None:
    many = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(2 * HEADER_BYTES // 1000))
    status, error = exchange(functions, b"GET / HTTP/1.1\r\nhost: a\r\n" + many)
    assert (status, error["code"]) == (431, "headers_too_large")
    status, _ = exchange(functions, b"GET /" + b"a" * 2 * HEADER_BYTES)
    assert status == 431


def test_large_headers_below_the_limit_are_accepted(functions: Serving) -> None:
    status, _ = exchange(functions, request(json.dumps(ENTRY).encode(), f"x-much: {'y' * (HEADER_BYTES // 2)}"))
    assert status == 201


def test_attack_slow_loris_in_every_part_of_a_request(functions: Serving) -> None:
    """All attacks run concurrently, since each takes the full request timeout."""

    def drip(parts: list[bytes]) -> tuple[int, object]:
        with closing(connect(functions)) as connection:
            connection.settimeout(0.2)
            for part in parts:
                connection.sendall(part)
                try:
                    status, error = read(connection)
                    return status, error["code"]
                except TimeoutError:
                    pass
        raise AssertionError("the server waited for all of it")

    body = request(b"{" + b" " * 1000)
    forever = int(REQUEST_SECONDS * 8)
    attacks = [
        [b"POST /", *[b"a"] * forever],
        [b"POST / HTTP/1.1\r\n", *[b"x: y\r\n"] * forever],
        [body[:-1000], *[b" "] * forever],
        [b"", *[b""] * forever],
    ]
    with ThreadPoolExecutor(len(attacks)) as pool:
        assert set(pool.map(drip, attacks)) == {(408, "request_too_slow")}


def test_pipelined_requests_are_served(functions: Serving) -> None:
    one = request(json.dumps(ENTRY).encode())
    with closing(connect(functions)) as connection:
        for _ in range(3):
            connection.sendall(one)
            assert read(connection)[0] == 201
        connection.sendall(one * 3)
        data = b""
        while data.count(b"HTTP/1.1 201") < 3:
            data += connection.recv(65536)


def test_client_sees_413_for_a_large_body(functions: Serving) -> None:
    status, error = exchange(functions, request(b" " * (RECORD_BYTES + 1)))
    assert (status, error["code"]) == (413, "body_too_large")


def test_attack_a_body_without_end(functions: Serving) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    head = request(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    with closing(connect(functions)) as connection:
        connection.sendall(head)
        sent = 0
        try:
            while sent < 4 * DRAINED_BYTES:
                connection.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 4 * DRAINED_BYTES, "the server read on and on"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_attack_deeply_nested_json(functions: Serving, opening: bytes) -> None:
    status, error = exchange(functions, request(opening * 10_000))
    assert (status, error["code"]) == (400, "malformed_json")
    deep = b'{"metadata":' + opening * 500 + b"1" + (b"]" if opening == b"[" else b"}") * 500 + b"}"
    status, error = exchange(functions, request(deep))
    assert (status, error["code"]) == (400, "malformed_json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "a\x00b"),
        ("metadata", {"key": "a\x00b"}),
        ("metadata", {"a\x00b": 1}),
    ],
)
def test_attack_a_nul_where_the_database_has_none(functions: Serving, field: str, value: object) -> None:
    status, error = exchange(functions, request(json.dumps(ENTRY | {field: value}).encode()))
    assert status == 400, error


def test_attack_numbers_no_type_holds(functions: Serving) -> None:
    for number in (b"1e999", b"-1e999", b"NaN", b"1" * 5000, b"0." + b"1" * 5000):
        body = json.dumps(ENTRY).encode()[:-1] + b', "metadata": {"n": ' + number + b"}}"
        status, error = exchange(functions, request(body))
        assert status in {201, 400, 422}, error


def test_disconnected_client_harms_no_other_request(functions: Serving) -> None:
    for _ in range(20):
        with closing(connect(functions)) as connection:
            connection.sendall(request(json.dumps(ENTRY).encode()))
        with closing(connect(functions)) as connection:
            connection.sendall(request(json.dumps(ENTRY).encode())[:-10])
