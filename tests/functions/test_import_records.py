"""import-records: parsing, refusals, and all-or-nothing imports."""

import csv as tables
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.api_keys import make_key
from tests.support.responses import refused
from tests.support.serving import Serving, token
from tests.support.world import ACME, Database, Row


@pytest.fixture(autouse=True)
def empty(database: Database) -> Iterator[None]:
    yield
    with database.connect("supabase_admin") as connection:
        connection.execute("set session_replication_role = replica")  # thousands of rows, and a trigger for each
        for table in ("leads", "contacts", "activity_feeds"):
            connection.execute(f"delete from public.{table}")


def send(
    functions: Serving,
    csv: str | bytes,
    kind: str = "leads",
    person: str = "member",
    key: str | None = None,
    **parameters: Any,
) -> httpx.Response:
    headers = {"content-type": "text/csv"} | ({"idempotency-key": key} if key else {})
    with functions.client(person) as client:
        return client.post(
            "/functions/v1/import-records", params={"kind": kind, **parameters}, content=csv, headers=headers
        )


def report(answer: httpx.Response) -> list[Row]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def rows(database: Database, table: str = "leads") -> list[Row]:
    with database.acting_as("viewer") as cursor:
        return cursor.execute(f"select * from public.{table} order by name").fetchall()


def test_leads_are_parsed_from_everyday_formats(functions: Serving, database: Database) -> None:
    csv = (
        "\ufeffName,E-mail,phone,Budget,Property Types,Cities,tags,source,score value,notes,Shoe size\r\n"
        'Ada,ada@a.test,+1 (512) 555-0100,"$250,000.50",'
        'condo; Multi-family,Austin;Waco,a;b,Social media,85,"two\nlines",7\r\n'
        "\r\n"
        "Grace,,,,,,,,,,\r\n"
    )
    mapping = {
        "Name": "name", "E-mail": "email", "phone": "phone", "Budget": "budget", "Property Types": "property_types",
        "Cities": "cities", "tags": "tags", "source": "source", "score value": "score_value", "notes": "notes",
    }  # fmt: skip
    first, last = report(send(functions, csv.encode(), mapping=json.dumps(mapping)))
    assert (first["lines"], first["done"], last["done"], last["committed"]) == (2, False, True, True)
    assert (last["imported"], last["failed"], last["ignored_columns"]) == (2, 0, ["Shoe size"])
    ada, grace = rows(database)
    assert (ada["organization_id"], ada["email"], str(ada["budget"])) == (ACME, "ada@a.test", "250000.50")
    assert (ada["source"], ada["score"], ada["notes"], ada["tags"]) == ("SOCIAL_MEDIA", "HOT", "two\nlines", ["a", "b"])
    assert (ada["property_types"], ada["cities"]) == ("{CONDO,MULTI_FAMILY}", ["Austin", "Waco"])
    assert (grace["source"], grace["status"], grace["email"]) == ("WEBSITE", "NEW_LEAD", None)


WRONG = """name,email,budget,status,notes
Ada,ada@a.test,1,,
Bob,nobody,1,,
,x@x.test,,,
Eve,,much,,
Dan,,,CONVERTED,
Mal,,,,=1+1
Zoe,,,,
"""


def test_invalid_lines_are_all_reported_and_none_imported(functions: Serving, database: Database) -> None:
    first, last = report(send(functions, WRONG))
    assert [each["line"] for each in first["problems"]] == [3, 4, 5, 6, 7]
    assert (last["committed"], last["imported"], last["failed"]) == (False, 2, 5)
    assert "formula" in first["problems"][4]["problem"]
    assert rows(database) == []


def test_invalid_lines_are_skipped(functions: Serving, database: Database) -> None:
    assert report(send(functions, WRONG, on_error="skip"))[-1]["committed"]
    assert [row["name"] for row in rows(database)] == ["Ada", "Zoe"]


def test_dry_run_imports_nothing(functions: Serving, database: Database) -> None:
    dry = report(send(functions, WRONG, on_error="skip", dry_run="true"))
    wet = report(send(functions, WRONG, on_error="skip"))
    assert dry[0] == wet[0]
    assert (dry[-1]["committed"], wet[-1]["committed"]) == (False, True)
    assert len(rows(database)) == 2


def test_known_contacts_are_skipped(functions: Serving, database: Database) -> None:
    csv = "name,email,type,position\nAda,ada@a.test,past client,CEO\nAda,ADA@a.test,,\nBob,,,\n"
    assert report(send(functions, csv, "contacts", skip_known="true"))[-1]["known"] == 1
    assert report(send(functions, csv, "contacts", skip_known="true"))[-1]["known"] == 2
    assert [(row["name"], row["type"]) for row in rows(database, "contacts")] == [
        ("Ada", "PAST_CLIENT"), ("Bob", "PROSPECT"), ("Bob", "PROSPECT"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("csv", "status", "code"),
    [
        (b"", 422, "invalid_mapping"),
        (b"email\na@b.test\n", 422, "invalid_mapping"),
        (b"name,name\nA,B\n", 422, "invalid_mapping"),
        (b'name\n"Ada\n', 400, "malformed_csv"),
        (b"name\n\xff\xfe\n", 400, "malformed_csv"),
    ],
)
def test_malformed_file_is_rejected(functions: Serving, csv: bytes, status: int, code: str) -> None:
    refused(send(functions, csv), status, code)


def test_attack_map_a_column_that_is_not_for_clients(functions: Serving, database: Database) -> None:
    mapping = json.dumps({"name": "name", "org": "organization_id"})
    refused(send(functions, "name,org\nA,x\n", mapping=mapping), 422, "invalid_mapping")
    refused(send(functions, "name\nA\n", kind="users"), 422, "invalid_body")
    refused(send(functions, "name\nA\n", person="viewer"), 403, "42501")
    assert rows(database) == []


def test_late_error_rolls_back_the_import(functions: Serving, database: Database) -> None:
    long = "name\n" + "Ada\n" * 2500
    lines = report(send(functions, long + '"never closed\n'))
    assert [line.get("lines") for line in lines] == [1000, 2000, None]
    assert lines[-1]["error"]["code"] == "malformed_csv"
    assert rows(database) == []
    assert [line["lines"] for line in report(send(functions, long))] == [1000, 2000, 2500, 2500]
    assert len(rows(database)) == 2500


def test_another_type_is_415(functions: Serving) -> None:
    with functions.client() as client:
        refused(client.post("/functions/v1/import-records?kind=leads", json={}), 415, "unsupported_media_type")


# Once ----------------------------------------------------------------------------------------------------------------


def test_repeated_upload_is_imported_once(functions: Serving, database: Database) -> None:
    key, csv = str(uuid4()), "name\n" + "Ada\n" * 1500
    with ThreadPoolExecutor(3) as pool:
        answers = [report(answer) for answer in pool.map(lambda _: send(functions, csv, key=key), range(3))]
    last = {"done": True, "committed": True, "lines": 1500, "imported": 1500}
    assert all(answer[-1] | last == answer[-1] for answer in answers)
    assert sorted(len(answer) for answer in answers) == [1, 1, 3]
    assert len(rows(database)) == 1500
    refused(send(functions, csv + "Eve\n", key=key), 422, "PT422")
    refused(send(functions, csv, key=key, on_error="skip"), 422, "PT422")
    assert len(rows(database)) == 1500


def test_api_key_imports_within_its_scope(functions: Serving, database: Database) -> None:
    made = make_key(functions, "CRM_WRITE")

    def upload(key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", "content-type": "text/csv", "idempotency-key": made["id"]}
        with functions.client(None, **headers) as client:
            return client.post("/functions/v1/import-records", params={"kind": "leads"}, content="name\nAda\n")

    first, again = (report(upload(made["key"])) for _ in range(2))
    assert (first[-1]["imported"], again[-1]["imported"]) == (1, 1)
    (lead,) = rows(database)
    with database.connect() as connection:
        logged = connection.execute(
            "select user_id, api_key_id::text from public.activity_logs where resource_id = %s", [lead["id"]]
        ).fetchall()
    assert logged == [(None, made["id"])]
    refused(upload(make_key(functions, "CRM_READ", "ORDERS_WRITE")["key"]), 403, "insufficient_scope")


def test_failed_import_does_not_use_its_key(functions: Serving, database: Database) -> None:
    key = str(uuid4())
    assert not report(send(functions, WRONG, key=key))[-1]["committed"]
    assert not report(send(functions, "name\nAda\n", key=key, dry_run="true"))[-1]["committed"]
    assert report(send(functions, "name\nAda\n", key=key))[-1]["committed"]
    assert [row["name"] for row in rows(database)] == ["Ada"]


# Hostile files and clients -------------------------------------------------------------------------------------------


def test_attack_rights_are_checked_before_the_file_is_read(functions: Serving) -> None:
    with closing(socket.create_connection(("127.0.0.1", functions.port), timeout=20)) as connection:
        head = [
            "POST /functions/v1/import-records?kind=leads HTTP/1.1",
            "host: functions",
            f"authorization: Bearer {token('viewer')}",
            "content-type: text/csv",
            "content-length: 1000000",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    ("csv", "status", "code"),
    [
        (b"name," + b"x" * 2_000_000, 413, "line_too_long"),
        (b",".join(b"c%d" % number for number in range(300)) + b"\n", 422, "invalid_mapping"),
        (b"name\n" + b"x" * 2_000_000, 413, "line_too_long"),
        (b'name\n"' + b"x\n" * 1_000_000, 413, "line_too_long"),
        (b"name\n" + b"," * 200_000, 413, "line_too_long"),
        (b"name\n" + b"\n" * 200_001, 413, "too_many_lines"),
        (b"name\n" + b"x" * (17 << 20), 413, "body_too_large"),
    ],
    ids=["header", "columns", "line", "open quote", "cells", "lines", "file"],
)
def test_attack_a_file_without_measure(functions: Serving, csv: bytes, status: int, code: str) -> None:
    answer = refused(send(functions, csv), status, code)
    assert len(answer.content) < 2000


def imports(database: Database) -> int:
    with database.connect() as connection:
        return connection.execute(
            "select from pg_stat_activity where application_name = 'strive-uploads' and datname = current_database()"
        ).rowcount


@contextmanager
def blocked(database: Database) -> Iterator[None]:
    """No lead can be inserted meanwhile."""
    with database.connect() as blocker:
        blocker.autocommit = False
        blocker.execute("lock table public.leads in share mode")
        yield
        blocker.rollback()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_organization_runs_one_import_at_a_time(functions: Serving, database: Database) -> None:
    with ThreadPoolExecutor(1) as pool, blocked(database):
        first = pool.submit(send, functions, "name\nAda\n")
        until(lambda: imports(database) == 1)
        while (second := send(functions, "name\nEve\n", person="owner")).status_code == 503:
            pass  # a busy machine
        refused(second, 409, "PT409")
    assert report(first.result())[-1]["committed"]


def test_attack_a_client_that_leaves_ends_its_import(functions: Serving, database: Database) -> None:
    body = ("name\n" + "Ada\n" * 60_000).encode()
    head = [
        "POST /functions/v1/import-records?kind=leads HTTP/1.1",
        "host: functions",
        f"authorization: Bearer {token('member')}",
        "content-type: text/csv",
        f"content-length: {len(body)}",
    ]
    with closing(socket.create_connection(("127.0.0.1", functions.port), timeout=20)) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert imports(database) == 1
    until(lambda: imports(database) == 0)
    assert rows(database) == []


# Any file ------------------------------------------------------------------------------------------------------------

COLUMNS = ["name", "email", "phone", "budget", "source", "status", "score_value", "tags", "property_types", "?"]
cells = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "Ada", "a@b.test", "1e5", "NaN", "-1", "Infinity", "9" * 30, "=1+1", "website", "\0", "x" * 300]
    ),
)
files = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.lists(st.sampled_from(COLUMNS), max_size=6), st.lists(st.lists(cells, max_size=7), max_size=5)),
)


def written(file: bytes | tuple[list[str], list[list[str]]]) -> bytes:
    if isinstance(file, bytes):
        return file
    text = io.StringIO()
    tables.writer(text).writerows([["name", *file[0]], *file[1]])
    return text.getvalue().encode("utf-8", "surrogatepass")


@settings(max_examples=120, deadline=None)
@given(file=files, kind=st.sampled_from(["leads", "contacts"]), on_error=st.sampled_from(["stop", "skip"]))
def test_every_line_of_any_file_is_counted(
    functions: Serving, database: Database, file: Any, kind: str, on_error: str
) -> None:
    before = len(rows(database, kind))
    answer = send(functions, written(file), kind, on_error=on_error)
    if answer.status_code != 200:
        assert (answer.status_code, answer.json()["code"]) in {(422, "invalid_mapping"), (400, "malformed_csv")}
        return
    *_, last = report(answer)
    if "error" in last:
        assert last["error"]["code"] == "malformed_csv"
        added = 0
    else:
        assert last["lines"] == last["imported"] + last["failed"] + last["known"]
        assert last["committed"] == (last["failed"] == 0 or on_error == "skip")
        added = last["imported"] if last["committed"] else 0
    assert len(rows(database, kind)) == before + added
