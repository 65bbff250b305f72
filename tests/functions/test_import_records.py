"""import-records: what is read from a file, what is refused, and all or nothing."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.functions.serving import Serving
from tests.functions.test_contract import refused
from tests.world import ACME, Database, Row


@pytest.fixture(autouse=True)
def empty(database: Database) -> Iterator[None]:
    yield
    with database.connect() as connection:
        for table in ("leads", "contacts", "activity_feeds"):
            connection.execute(f"delete from public.{table}")


def send(
    functions: Serving, csv: str | bytes, kind: str = "leads", person: str = "member", **asked: Any
) -> httpx.Response:
    with functions.client(person) as client:
        return client.post(
            "/functions/v1/import-records",
            params={"kind": kind, **asked},
            content=csv,
            headers={"content-type": "text/csv"},
        )


def report(answer: httpx.Response) -> list[Row]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def rows(database: Database, table: str = "leads") -> list[Row]:
    with database.acting_as("viewer") as cursor:
        return cursor.execute(f"select * from public.{table} order by name").fetchall()


def test_leads_are_read_as_people_write_them(functions: Serving, database: Database) -> None:
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


def test_one_wrong_line_and_nothing_is_imported_but_every_one_is_reported(
    functions: Serving, database: Database
) -> None:
    first, last = report(send(functions, WRONG))
    assert [each["line"] for each in first["problems"]] == [3, 4, 5, 6, 7]
    assert (last["committed"], last["imported"], last["failed"]) == (False, 2, 5)
    assert "formula" in first["problems"][4]["problem"]
    assert rows(database) == []


def test_wrong_lines_are_skipped_by_choice(functions: Serving, database: Database) -> None:
    assert report(send(functions, WRONG, on_error="skip"))[-1]["committed"]
    assert [row["name"] for row in rows(database)] == ["Ada", "Zoe"]


def test_a_dry_run_reports_the_same_and_imports_nothing(functions: Serving, database: Database) -> None:
    dry = report(send(functions, WRONG, on_error="skip", dry_run="true"))
    wet = report(send(functions, WRONG, on_error="skip"))
    assert dry[0] == wet[0]
    assert (dry[-1]["committed"], wet[-1]["committed"]) == (False, True)
    assert len(rows(database)) == 2


def test_contacts_too_and_who_is_known_is_left_out_by_choice(functions: Serving, database: Database) -> None:
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
def test_what_is_no_table_is_refused_at_once(functions: Serving, csv: bytes, status: int, code: str) -> None:
    refused(send(functions, csv), status, code)


def test_attack_map_a_column_that_is_not_for_clients(functions: Serving, database: Database) -> None:
    mapping = json.dumps({"name": "name", "org": "organization_id"})
    refused(send(functions, "name,org\nA,x\n", mapping=mapping), 422, "invalid_mapping")
    refused(send(functions, "name\nA\n", kind="users"), 422, "invalid_body")
    refused(send(functions, "name\nA\n", person="viewer"), 403, "42501")
    assert rows(database) == []


def test_what_comes_after_a_mistake_in_a_long_file_ends_the_import(functions: Serving, database: Database) -> None:
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
