"""The largest body that each function accepts holds the event loop for less than five milliseconds."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from io import BytesIO
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

import pytest
from pydantic_core import from_json

from functions import ALL, load
from functions.import_records import BATCH_CHARACTERS, SLICE, Rows
from functions.import_records import _parse as parse_cells
from functions.ingest import MAPPED_BYTES, ingest
from functions.ingest import _rows as write_rows
from shared.app.bodies import parse, read_form, read_query
from shared.app.client_address import client_address
from shared.app.function import BODY_BYTES, Function
from shared.app.responses import Response
from shared.app.runtime import Runtime
from shared.calendar import elements, write_feed
from shared.errors import ApiError
from shared.settings import Settings
from tests.support.serving import environment

FUNCTIONS = {each.name: each for each in load(ALL)}
MOST_SECONDS = 0.005
# What parsing REFERENCE takes on an idle machine of 2026: elsewhere steps are compared with it.
REFERENCE = json.dumps({f"{number:06}": "x" * 20 for number in range(2_000)}).encode()
REFERENCE_SECONDS = 0.00025
REPEATED = 5


def step_seconds(work: Coroutine[Any, Any, Any]) -> tuple[float, Any]:
    """The longest step of a coroutine, in processor time, and what it returned or raised."""
    longest, outcome, done = 0.0, None, False
    while not done:
        began = time.thread_time()
        try:
            work.send(None)
        except StopIteration as end:
            outcome, done = end.value, True
        except ApiError as error:
            outcome, done = error, True
        longest = max(longest, time.thread_time() - began)
    return longest, outcome


def reference_seconds() -> float:
    began = time.thread_time()
    from_json(REFERENCE)
    return time.thread_time() - began


def field_names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(field_names, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})).union(*map(field_names, schema.values()))


def largest_bodies(function: Function) -> Iterator[tuple[str, bytes]]:
    """What takes long to parse or to explain, as an unknown field and in the place of every known one."""
    size, values = function.body_bytes - 200, function.body_values - 2
    for name in ("unknown", *sorted(field_names(function.request.json_schema()))):
        a_field = json.dumps(name) + ":"
        each = size // values
        keys = [f'"{number:06}":"{"a" * max(each - 12, 0)}"' for number in range(min(values, size // 13))]
        fields = "{" + ",".join(f'"k{number}":1' for number in range(45)) + "}"
        yield f"{name}: keys", f"{{{a_field}{{{','.join(keys)}}}}}".encode()
        yield f"{name}: objects", f"{{{a_field}[{','.join(['{}'] * min(values, size // 3))}]}}".encode()
        several = min(values // 46, size // len(fields))
        yield f"{name}: objects with fields", f"{{{a_field}[{','.join([fields] * several)}]}}".encode()
        texts = [f'"{"a" * max(each - 3, 1)}"'] * min(values, size // 4)
        yield f"{name}: texts", f"{{{a_field}[{','.join(texts)}]}}".encode()
        yield f"{name}: escapes", ("{" + a_field + '"' + "\\u00e9" * (size // 6) + '"}').encode()
        numbers = ["9" * max(each - 1, 1)] * min(values, size // 2)
        yield f"{name}: numbers", f"{{{a_field}[{','.join(numbers)}]}}".encode()
    yield "keys", f"{{{','.join(keys)}}}".encode()
    yield "quotes", ('{"unknown":"' + '\\"' * (size // 2) + '"}').encode()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_attack_hold_the_loop_with_the_largest_body(name: str) -> None:
    function = FUNCTIONS[name]
    step_seconds(parse(function.request, b"{}", function.body_values))  # builds the validator
    found = {}
    for what, body in largest_bodies(function):
        assert len(body) <= function.body_bytes
        # The least of several: a step is longer while another program uses the same processor.
        times = [
            step_seconds(parse(function.request, body, function.body_values))[0]
            / max(reference_seconds() / REFERENCE_SECONDS, 1)
            for _ in range(REPEATED)
        ]
        found[what] = min(times)
    worst = max(found, key=lambda what: found[what])
    assert found[worst] < MOST_SECONDS, f"{1000 * found[worst]:.1f} ms: {worst}"


def relative(work: Callable[[], object]) -> float:
    """The processor time of a call that holds the loop, the least of several."""
    times = []
    for _ in range(REPEATED):
        factor = max(reference_seconds() / REFERENCE_SECONDS, 1)
        began = time.thread_time()
        with suppress(ApiError):
            work()
        times.append((time.thread_time() - began) / factor)
    return min(times)


SIZE = BODY_BYTES - 200
MULTIPART = b"multipart/form-data; boundary=b"
SOLE_FIELD = b"content-disposition:form-data;"
DOES_NOT_FIT = {
    "one line of many fields": (b"--b\r\n" + SOLE_FIELD * (SIZE // 30) + b"\r\n\r\nx\r\n--b--", MULTIPART),
    "many lines": (b"--b\r\n" + (SOLE_FIELD + b"\r\n") * (SIZE // 32) + b"\r\n\r\nx\r\n--b--", MULTIPART),
    "names without end": (b"--b\r\n" + SOLE_FIELD + b' name="' * (SIZE // 8) + b"\r\n\r\nx\r\n--b--", MULTIPART),
    "many parts": (b"--b" * (SIZE // 3), MULTIPART),
    "many fields": (b"a=&" * (SIZE // 3), b""),
    "a long boundary": (b"", b"multipart/form-data;" + b"boundary;" * 3000),
}


@pytest.mark.parametrize("form", DOES_NOT_FIT)
def test_attack_hold_the_loop_with_a_form(form: str) -> None:
    assert relative(lambda: read_form(*DOES_NOT_FIT[form])) < MOST_SECONDS


@pytest.mark.parametrize(
    "query", [b"a=&" * 10_000, b"a=" + b"%41" * 10_000, b"&" * 30_000], ids=["fields", "escapes", "&"]
)
def test_attack_hold_the_loop_with_a_query(query: bytes) -> None:
    assert relative(lambda: read_query(query)) < MOST_SECONDS


@pytest.mark.parametrize("trusted", [1, (ip_network("10.0.0.0/8"),)], ids=["count", "networks"])
@pytest.mark.parametrize("entry", ["a,", "::1,", "10.0.0.1,", ","])
def test_attack_hold_the_loop_with_a_list_of_addresses(entry: str, trusted: Any) -> None:
    sent = (entry * (32_000 // len(entry)) + "192.0.2.7, 10.0.0.2").encode()
    assert client_address.__wrapped__(sent, "10.0.0.3", 2 if trusted == 1 else trusted) == "192.0.2.7"
    assert relative(lambda: client_address.__wrapped__(sent, "10.0.0.3", trusted)) < MOST_SECONDS


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels else {}


PLACES = ["name", "email", "phone", "company", "timeline", "notes", "tags", "cities", "source", "status"]
REPEATING = {
    "defaults": {"records": [{"name": "a"}] * 200, "defaults": {"notes": "x" * 250_000}},
    "a part mapped to every column": {
        "records": [{"name": "x" * 120_000}] * 2, "mapping": dict.fromkeys(PLACES, "name"),
    },
    "long paths": {"records": [nested(90)] * 200, "mapping": {place: ".".join(["a"] * 90) for place in PLACES}},
}  # fmt: skip


@pytest.mark.parametrize("sent", REPEATING)
def test_attack_multiply_the_body_of_an_ingestion(sent: str) -> None:
    """What is in the body once is repeated neither without end nor in one step."""
    request = ingest.request.validate_python(REPEATING[sent])
    rows: list[str] = []

    async def write() -> None:
        rows[:] = [row async for row in write_rows(request)]

    taken = [step_seconds(write())[0] / max(reference_seconds() / REFERENCE_SECONDS, 1) for _ in range(REPEATED)]
    assert min(taken) < MOST_SECONDS, f"{1000 * min(taken):.1f} ms"
    assert sum(map(len, rows)) <= MAPPED_BYTES


def test_attack_import_lines_of_the_largest_cells() -> None:
    """A cell that no column accepts is not taken apart, and no batch is larger than the database reads at once."""
    columns: list[str | None] = ["name", "tags", "property_types", "notes", "status"]
    text = "a ;" * 42_000
    for at in range(1, len(columns)):
        cells = ["n", *(text if at == column else "" for column in range(1, len(columns)))]
        assert relative(lambda cells=cells: [parse_cells(columns, cells) for _ in range(SLICE)]) < MOST_SECONDS  # type: ignore[misc]  # mypy infers no type of cells
    lines = b"name,notes\n" + (b"n," + b"x" * 120_000 + b"\n") * 130

    async def largest() -> int:
        rows = Rows(BytesIO(lines))
        await rows.header()
        sizes = []
        while batch := await rows.batch():
            sizes.append(sum(len(cell) for _, cells in batch for cell in cells))
        assert sum(sizes) > 15_000_000
        return max(sizes)

    assert asyncio.run(largest()) < 2 * BATCH_CHARACTERS


def test_attack_build_the_reference_again_and_again() -> None:
    """Each of these documents takes longer than 5 ms, and strangers may read them."""
    settings = Settings.read(environment("postgresql://strive_functions@localhost/strive"))
    runtime = Runtime(settings, [FUNCTIONS["record-activity"]])
    makers = []

    def make() -> Response:
        makers.append(threading.current_thread())
        return Response(200, b"{}")

    async def read() -> list[Response]:
        return list(await asyncio.gather(*(runtime._once(make) for _ in range(3))))

    first, second, _ = asyncio.run(read())
    assert first is not second  # each has the id of its request
    assert len(makers) == 1
    assert makers[0] is not threading.main_thread()


def test_attack_hold_the_loop_with_a_long_calendar() -> None:
    item = {
        "uid": str(uuid4()), "sequence": 1, "status": "SCHEDULED", "title": "ü" * 255, "description": "Ä,;ß\n" * 200,
        "start": "2026-12-01T00:00:00Z", "end": "2026-12-01T01:00:00Z", "location": "ü" * 300,
        "url": "https://strive.test/" + "a" * 480, "updated_at": "2026-12-01T00:00:00Z",
        "organizer": {"name": "ü" * 255, "email": "a@strive.test"},
    }  # fmt: skip
    text = json.dumps([{"etag": "1", "name": "Acme"}, *[item] * 300], ensure_ascii=False)

    async def read() -> bytes:
        items = elements(text)
        return await write_feed(next(items)["name"], items)

    taken = [step_seconds(read())[0] / max(reference_seconds() / REFERENCE_SECONDS, 1) for _ in range(2)]
    assert min(taken) < MOST_SECONDS, f"{1000 * min(taken):.1f} ms"
