"""The same attacks over HTTP: one request each through the data API and Storage."""

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.local.api import Api, running
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, claims_of

RETURNED = {"prefer": "return=representation"}


@pytest.fixture(scope="module")
def api(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(database, tmp_path_factory.mktemp("api")) as api:
        yield api


def signed_in(api: Api, person: str) -> httpx.Client:
    return api.http(token=api.mint(**claims_of(person, iss=f"{api.url}/auth/v1")))


@pytest.mark.parametrize(
    "headers",
    [
        [("prefer", "count=planned")],
        [("prefer", "count=estimated")],
        [("prefer", "count=planned"), ("prefer", "return=minimal")],
        [("prefer", "return=minimal"), ("prefer", "count=planned")],
    ],
    ids=["planned", "estimated", "first of two", "last of two"],
)
def test_attack_request_an_estimated_count(api: Api, headers: list[tuple[str, str]]) -> None:
    client = signed_in(api, "owner")
    for table in ("leads", "users"):
        answer = client.get(f"/rest/v1/{table}", params={"select": "id"}, headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["message"] == "Estimated counts are not available"
        assert "content-range" not in answer.headers
    assert client.get("/rest/v1/leads", headers={"prefer": "count=exact"}).status_code == 200
    others = {"organization_id": f"eq.{GLOBEX}"}
    assert (
        client.get("/rest/v1/leads", params=others, headers={"prefer": "count=exact"}).headers["content-range"] == "*/0"
    )


def test_attack_embed_over_many_levels_by_a_request(api: Api) -> None:
    client = signed_in(api, "owner")
    deep = client.get("/rest/v1/activities", params={"select": "id,leads(activities(leads(activities(id))))"})
    assert (deep.status_code, deep.json()["message"]) == (400, "A request embeds a table at most twice")
    fine = client.get("/rest/v1/activities", params={"select": "id,leads(id,deals(id)),contacts(id),deals(id)"})
    assert fine.status_code == 200, fine.text


def test_attack_have_a_request_planned_for_seconds(api: Api) -> None:
    client = signed_in(api, "owner")
    many = f"({','.join(['last_contact_at.eq.2026-01-01'] * 1100)})"
    answer = client.get("/rest/v1/leads", params={"or": many})
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"] == "A request has too many conditions or sort keys"
    listed = {"name": f"in.({','.join(map(str, range(3000)))})"}
    assert client.get("/rest/v1/leads", params=listed).status_code == 200


HOSTILE = "(?:[^x]{1,200}){1,200}"
FILTERS = [
    {"name": f"match.{HOSTILE}"}, {"name": f"imatch.{HOSTILE}"}, {"name": f"not.match.{HOSTILE}"},
    {"name": f'match(any).{{"{HOSTILE}",b}}'}, {"or": f'(id.is.null,name.match."{HOSTILE}")'},
    {"custom_fields->>a": f"match.{HOSTILE}"}, {"select": "id,deals(id)", "deals.title": f"match.{HOSTILE}"},
]  # fmt: skip


@pytest.mark.parametrize("fields", FILTERS, ids=str)
def test_attack_compile_a_regular_expression_by_a_request(api: Api, fields: dict[str, str]) -> None:
    client = signed_in(api, "owner")
    refused = 400, "Regular expressions are not accepted in filters"
    answers = [client.get("/rest/v1/leads", params=fields)]
    if "select" not in fields:
        answers.append(client.patch("/rest/v1/leads", params=fields, json={"notes": "x"}))
        answers.append(client.delete("/rest/v1/leads", params=fields))
        called = {"title" if name == "name" else name: text.replace("name.", "title.") for name, text in fields.items()}
        if "custom_fields->>a" not in fields:
            body = {"since": "2026-01-01", "until": "2026-12-31"}
            answers.append(client.post("/rest/v1/rpc/agenda", params=called, json=body))
    assert [(answer.status_code, answer.json()["message"]) for answer in answers] == [refused] * len(answers)
    harmless = {"name": f'in.("a ~ b","{HOSTILE}")', "select": '"x ~ y":name', "notes": "like.*~ *"}
    assert client.get("/rest/v1/leads", params=harmless).json() == []


@pytest.mark.parametrize(
    "column", ["a{}:notes", "notes", "a{}:notes::text", "a{}:custom_fields->a", "a{}:custom_fields->a->{}->>b", "*"]
)
def test_attack_multiply_a_response_by_selecting_a_column_many_times(api: Api, column: str) -> None:
    client = signed_in(api, "owner")
    many = ",".join(column.format(number, number) for number in range(60))
    asked = [
        client.get("/rest/v1/leads", params={"select": many}),
        client.get("/rest/v1/activities", params={"select": f"id,leads({many})"}),
        client.post("/rest/v1/leads", params={"select": many}, json={"name": "Ada"}, headers=RETURNED),
        client.patch(
            "/rest/v1/leads", params={"select": many, "id": f"eq.{uuid4()}"}, json={"notes": "x"}, headers=RETURNED
        ),
    ]
    for answer in asked:
        assert answer.status_code == 400, answer.text
        assert answer.json()["message"] == "A request selects a column at most ten times"


def test_attack_multiply_the_response_of_a_function(api: Api) -> None:
    """A function that was called before has planned its statements already."""
    client = signed_in(api, "owner")
    body = {"since": "2026-01-01", "until": "2026-12-31"}
    for select in ("title", ",".join(f"a{number}:title" for number in range(60)), ",".join(["*"] * 60)):
        for _ in range(20):
            answer = client.post("/rest/v1/rpc/agenda", params={"select": select}, json=body)
            assert answer.status_code == (200 if select == "title" else 400), answer.text


def test_selecting_each_column_and_eight_members_passes(api: Api) -> None:
    client = signed_in(api, "owner")
    (row,) = client.post("/rest/v1/leads", json={"name": "Ada"}, headers=RETURNED).json()
    columns = ",".join([*row, *(f"a{number}:custom_fields->{number}" for number in range(8))])
    fields = {"select": f"{columns},deals(id,title,created_at),contacts(id,name,email)"}
    assert client.get("/rest/v1/leads", params=fields).status_code == 200
    text = {"select": "id", "notes": "eq." + '"leads"."notes",' * 100}
    assert client.get("/rest/v1/leads", params=text).json() == []
    added = client.post("/rest/v1/leads", params=fields, json={"name": "Ada", "notes": "x"}, headers=RETURNED)
    assert added.status_code == 201, added.text


def test_attack_write_bombs_by_a_request(api: Api) -> None:
    client = signed_in(api, "member")
    for row in ('{"custom_fields": {"a": 1e131071}}', '{"budget": "NaN"}', '{"last_contact_at": "infinity"}'):
        body = f'{{"organization_id": "{ACME}", "name": "Ada", {row[1:]}'
        answer = client.post("/rest/v1/leads", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in {400, 422}, answer.text


def test_attack_write_for_seconds_by_one_request(api: Api) -> None:
    """The quota of the plan would count only after all rows were written."""
    client = signed_in(api, "member")
    lines = "name\n" + "Many\n" * 10_001
    answer = client.post("/rest/v1/leads", content=lines, headers={"content-type": "text/csv"})
    # On a busy machine, the time of a request ends first.
    accepted = {(422, "A request writes at most 10,000 rows in leads"), (503, "The request takes too long")}
    assert (answer.status_code, answer.json()["message"]) in accepted
    assert client.get("/rest/v1/leads", params={"name": "eq.Many", "limit": "1"}).json() == []


def test_attack_change_for_seconds_by_one_request(api: Api) -> None:
    """Each changed or deleted row writes history, and a deletion changes all rows that refer to the deleted one."""
    client = signed_in(api, "admin")
    ((lead,),) = api.sql("insert into public.leads (organization_id, name) values (%s, 'Busy') returning id", ACME)
    api.sql(
        "insert into public.activities (organization_id, created_by_id, lead_id, type, title)"
        " select %s, %s, %s, 'NOTE', 'Many' from generate_series(1, 10001)",
        ACME, PEOPLE["admin"], lead,
    )  # fmt: skip
    many = {"title": "eq.Many"}
    for answer in (
        client.patch("/rest/v1/activities", params=many, json={"description": "x"}),
        client.delete("/rest/v1/activities", params=many),
        client.delete("/rest/v1/leads", params={"id": f"eq.{lead}"}),
    ):
        assert (answer.status_code, answer.json()["message"]) == (
            422,
            "A request writes at most 10,000 rows in activities",
        )
    api.sql("delete from public.activities where id = (select id from public.activities where title = 'Many' limit 1)")
    assert client.delete("/rest/v1/activities", params=many).status_code == 204
    assert client.delete("/rest/v1/leads", params={"id": f"eq.{lead}"}).status_code == 204


def test_attack_move_html_into_a_public_bucket_by_a_request(api: Api) -> None:
    client = signed_in(api, "member")
    private = f"{ACME}/tasks/{uuid4()}/page.html"
    stored = client.post(
        f"/storage/v1/object/attachments/{private}", content=b"<script>", headers={"content-type": "text/html"}
    )
    assert stored.is_success, stored.text
    body = {
        "bucketId": "attachments",
        "sourceKey": private,
        "destinationBucket": "avatars",
        "destinationKey": f"{PEOPLE['member']}/page.html",
    }
    for call in ("move", "copy"):
        answer = client.post(f"/storage/v1/object/{call}", json=body)
        assert answer.is_error, f"{call}: {answer.text}"
    assert client.get(f"/storage/v1/object/public/avatars/{PEOPLE['member']}/page.html").is_error


def test_attack_upload_by_a_signed_address_after_leaving(api: Api) -> None:
    client = signed_in(api, "admin")
    path = f"attachments/{ACME}/tasks/{uuid4()}/late.txt"
    signed = client.post(f"/storage/v1/object/upload/sign/{path}", json={})
    assert signed.is_success, signed.text
    remove = "update public.organization_members set role = %s where user_id = %s"
    api.sql(remove, "VIEWER", PEOPLE["admin"])
    try:
        answer = api.http().put(
            f"/storage/v1{signed.json()['url']}", content=b"late", headers={"content-type": "text/plain"}
        )
    finally:
        api.sql(remove, "ADMIN", PEOPLE["admin"])
    assert answer.is_error, answer.text
    assert api.sql("select from storage.objects where name like '%%late.txt'") == []
