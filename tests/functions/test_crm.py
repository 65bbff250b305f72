"""CRM on the whole stack through supabase-py, for each role."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from supabase import Client
from tests.conftest import Strive
from tests.support.agency import call, code, email_of, open_agencies

PEOPLE = {
    "otto": ("agency", "OWNER"),
    "ana": ("agency", "ADMIN"),
    "mia": ("agency", "MEMBER"),
    "ben": ("agency", "MEMBER"),
    "vic": ("agency", "VIEWER"),
    "rob": ("rival", "OWNER"),
}
Agents = dict[str, Client]
HOUSE = {
    "title": "House",
    "address": "12 Elm Street",
    "city": "Austin",
    "state": "TX",
    "zip_code": "78701",
    "price": 100,
}


@pytest.fixture(scope="module")
def ids(server: Client) -> dict[str, str]:
    return open_agencies(server, PEOPLE)


@pytest.fixture(scope="module")
def agents(ids: dict[str, str], clients: Callable[[str], Client]) -> Agents:
    assert ids
    return {name: clients(email_of(name)) for name in PEOPLE}


def add(client: Client, table: str, organization: str, **columns: Any) -> Any:
    usual: dict[str, dict[str, Any]] = {
        "leads": {"name": "Ada"},
        "contacts": {"name": "Ada"},
        "deals": {"title": "Sale", "value": 100},
    }
    row = usual.get(table, {}) | {"organization_id": organization} | columns
    rows: Any = client.table(table).insert(row).execute().data
    return rows[0]


# Who may -------------------------------------------------------------------------------------------------------------

READS: dict[str, dict[str, Any]] = {
    "search_crm": {"query": "nobody at all"},
    "find_duplicates": {"email": "nobody@at.all"},
    "pipeline_report": {},
    "conversion_report": {},
    "agenda": {"since": "2031-01-01", "until": "2031-02-01"},
    "follow_ups_due": {},
}
WRITES: dict[str, dict[str, Any]] = {
    "convert_lead": {"lead_id": "leads"},
    "move_deal": {"deal_id": "deals", "stage": "PROPOSAL"},
    "close_deal": {"deal_id": "deals", "outcome": "WON"},
    "reopen_deal": {"deal_id": "deals"},
    "bulk_assign": {"kind": "leads", "ids": ["leads"], "assigned_to_id": None},
    "bulk_tag": {"kind": "deals", "ids": ["deals"], "add": ["hot"]},
}


def test_operations_are_limited_by_role(agents: Agents, ids: dict[str, str]) -> None:
    for function, arguments in READS.items():
        for person in PEOPLE:
            assert code(lambda: call(agents[person], function, **arguments)) is None, (person, function)  # noqa: B023
    for person in ("vic", "rob", "mia", "ben", "ana", "otto"):
        rows = {table: add(agents["mia"], table, ids["agency"])["id"] for table in ("leads", "deals")}
        expected = {"vic": "42501", "rob": "PT404"}.get(person)
        for function, arguments in WRITES.items():
            named = {
                name: rows[value] if name.endswith("_id") and value else [rows[one] for one in value] if name == "ids"
                else value
                for name, value in arguments.items()
            }  # fmt: skip
            assert code(lambda: call(agents[person], function, **named)) == expected, (person, function)  # noqa: B023
        kept = [add(agents["mia"], "contacts", ids["agency"])["id"] for _ in range(2)]
        merge = code(lambda: call(agents[person], "merge_contacts", into_id=kept[0], duplicate_ids=kept[1:]))  # noqa: B023
        assert merge == {"ana": None, "otto": None, "rob": "PT404"}.get(person, "42501")


def rows_of(client: Client, table: str) -> Any:
    return client.table(table).select("*").execute().data


# Finding -------------------------------------------------------------------------------------------------------------


def test_search_finds_own_records_only(agents: Agents, ids: dict[str, str]) -> None:
    word = uuid4().hex[:6].translate(str.maketrans("0123456789", "ghijklmnop"))
    mia, agency = agents["mia"], ids["agency"]
    result = {"email": f"kate.{word}@mail.test", "phone": "+1 (737) 555-8261", "company": "Dynamics"}
    made = {
        "lead": add(mia, "leads", agency, name=f"Katherine {word}", **result)["id"],
        "contact": add(mia, "contacts", agency, name=f"Kathrin {word}")["id"],
        "deal": add(mia, "deals", agency, title=f"Villa {word}")["id"],
        "listing": add(mia, "listings", agency, **HOUSE | {"address": f"7 {word.title()} Lane"})["id"],
    }
    for query, kinds in {
        word: set(made), word.upper(): set(made), word[:5]: set(made), f"katherine {word}": {"lead"},
        f"{word} kathreine": {"lead"}, f"Kahterine {word}": {"lead"}, f"kate.{word}@mail.test": {"lead"},
        "737.555.8261": {"lead"}, "555 8261": {"lead"}, "(737) 555-8262": {"lead"}, f"7 {word} lane": {"listing"},
        f"lnae {word}": {"listing"}, f"vila {word}": {"deal"},
    }.items():  # fmt: skip
        found = call(agents["vic"], "search_crm", query=query)
        assert {row["kind"] for row in found} >= kinds, query
        assert {row["id"] for row in found} <= set(made.values()), query
        assert call(agents["rob"], "search_crm", query=query) == []
    mia.table("leads").update({"name": "Renamed"}).eq("id", made["lead"]).execute()
    assert "lead" not in {row["kind"] for row in call(mia, "search_crm", query=f"katherine {word}")}
    agents["ana"].table("deals").delete().eq("id", made["deal"]).execute()
    assert "deal" not in {row["kind"] for row in call(mia, "search_crm", query=word)}


def test_duplicate_is_reported_and_merged_with_history(agents: Agents, ids: dict[str, str]) -> None:
    email = f"{uuid4()}@mail.test"
    first = add(agents["mia"], "contacts", ids["agency"], email=email)["id"]
    result = call(agents["ben"], "add_contact", contact={"name": "Ada", "email": email.upper(), "phone": "5125550199"})
    assert [(double["id"], double["same"]) for double in result["duplicates"]] == [(first, ["email"])]
    second = result["added"]["id"]
    deal = add(agents["ben"], "deals", ids["agency"], contact_id=second)["id"]
    call(agents["ben"], "record_activity", activity={"type": "CALL", "title": "Called", "contact_id": second})
    kept = call(agents["ana"], "merge_contacts", into_id=first, duplicate_ids=[second])
    assert (kept["phone"], kept["last_contact_at"] is not None) == ("5125550199", True)
    history: Any = agents["vic"].table("activities").select("type").eq("contact_id", first).execute().data
    assert Counter(row["type"] for row in history) == {"CALL": 1, "NOTE": 1}
    moved: Any = agents["vic"].table("deals").select("contact_id").eq("id", deal).execute().data
    assert moved == [{"contact_id": first}]
    found = call(agents["vic"], "find_duplicates", email=email)
    assert [row["id"] for row in found] == [first]


# The day's work ------------------------------------------------------------------------------------------------------


def test_agenda_reports_clashes_of_one_person(agents: Agents, ids: dict[str, str]) -> None:
    def visit(person: str, hours: tuple[str, str], **columns: Any) -> str:
        times = {"start_time": f"2031-05-05T{hours[0]}Z", "end_time": f"2031-05-05T{hours[1]}Z"}
        return str(add(agents[person], "appointments", ids["agency"], title="Visit", **times, **columns)["id"])

    first, second = visit("mia", ("09:00", "10:00")), visit("mia", ("09:30", "10:30"))
    others = visit("ben", ("09:00", "10:00"))
    day = {"since": "2031-05-05T00:00Z", "until": "2031-05-06T00:00Z"}
    clashes = {row["id"]: row["clashes"] for row in call(agents["vic"], "agenda", **day)}
    assert clashes == {first: [second], second: [first], others: []}
    wanted = {"start_time": "2031-05-05T09:45Z", "end_time": "2031-05-05T09:50Z"}
    assert [row["id"] for row in call(agents["mia"], "appointment_clashes", **wanted)] == [first, second]
    assert [row["id"] for row in call(agents["vic"], "agenda", **day, assigned_to=ids["ben"])] == [others]
    assert call(agents["rob"], "agenda", **day) == []


def test_follow_up_is_due_until_a_call(agents: Agents, ids: dict[str, str]) -> None:
    hot = add(agents["mia"], "leads", ids["agency"], score="HOT", assigned_to_id=ids["ben"])["id"]

    def waits() -> bool:
        due = call(agents["ben"], "follow_ups_due", until="2031-01-01", assigned_to=ids["ben"])
        return any(row["id"] == hot and row["reason"] == "there was no contact yet" for row in due)

    assert waits()
    call(agents["ben"], "record_activity", activity={"type": "CALL", "title": "Called", "lead_id": hot})
    assert not waits()


def test_listing_finds_its_buyers(agents: Agents, ids: dict[str, str]) -> None:
    house = add(agents["mia"], "listings", ids["agency"], **HOUSE | {"city": "Marfa", "bedrooms": 3, "price": 500})[
        "id"
    ]
    wishes = {"cities": ["marfa"], "budget": 600, "min_bedrooms": 2}
    right = add(agents["mia"], "leads", ids["agency"], **wishes)["id"]
    poor = add(agents["mia"], "leads", ids["agency"], **wishes | {"budget": 499})["id"]
    found = {row["id"] for row in call(agents["vic"], "match_buyers", listing_id=house)}
    assert right in found
    assert poor not in found
    assert code(lambda: call(agents["rob"], "match_buyers", listing_id=house)) == "PT404"


def test_concurrent_conversions_create_one_client(agents: Agents, ids: dict[str, str]) -> None:
    lead = add(agents["mia"], "leads", ids["agency"], budget=5)["id"]

    def convert(person: str) -> str | None:
        return code(lambda: call(agents[person], "convert_lead", lead_id=lead, deal_title="Sale"))

    with ThreadPoolExecutor(4) as pool:
        assert Counter(pool.map(convert, ["mia", "ben", "ana", "otto"])) == {None: 1, "PT409": 3}
    deals: Any = agents["vic"].table("deals").select("value, contact_id").eq("lead_id", lead).execute().data
    rows: Any = agents["vic"].table("leads").select("status, converted_contact_id").eq("id", lead).execute().data
    (row,) = rows
    assert deals == [{"value": 5, "contact_id": row["converted_contact_id"]}]
    assert row["status"] == "CONVERTED"


# Tables --------------------------------------------------------------------------------------------------------------


def as_csv(stack: Strive, client: Client, path: str) -> list[dict[str, str]]:
    session = client.auth.get_session()
    assert session
    keys = {"apikey": stack.publishable_key, "authorization": f"Bearer {session.access_token}", "accept": "text/csv"}
    with httpx.Client(base_url=stack.api_url, headers=keys) as http:
        answer = http.get(f"/rest/v1/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def sent(stack: Strive, client: Client, rows: list[dict[str, str]]) -> dict[str, Any]:
    session = client.auth.get_session()
    assert session
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    with httpx.Client(headers={"authorization": f"Bearer {session.access_token}", "content-type": "text/csv"}) as http:
        address = f"{stack.functions_url}/import-records?kind=leads&on_error=skip"
        answer = http.post(address, content=text.getvalue().encode(), timeout=60)
    assert answer.status_code == 200, answer.text
    last: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
    return last


def test_export_can_be_imported_by_another_agency(stack: Strive, agents: Agents, ids: dict[str, str]) -> None:
    mark = uuid4().hex
    leads: list[dict[str, Any]] = [
        {
            "name": f'Ada "the first", {mark}', "email": "ada@mail.test", "phone": "+1 (512) 555-0100",
            "budget": 250000.5, "source": "GOOGLE_ADS", "status": "QUALIFIED", "score_value": 81, "timeline": "May",
            "property_types": ["CONDO", "LAND"], "cities": ["Austin", "Marfa"], "min_bedrooms": 2,
            "notes": "two\nlines",
            "tags": ["a", "b c"],
        },
        {"name": f"Zoë {mark}"},
    ]  # fmt: skip
    for lead in leads:
        add(agents["mia"], "leads", ids["agency"], **lead)
    shown = [row for row in as_csv(stack, agents["vic"], "rpc/export_leads") if mark in row["name"]]
    left_out = {"id", "last_contact_at", "created_at"}
    result = sent(stack, agents["rob"], [{k: v for k, v in row.items() if k not in left_out} for row in shown])
    assert (result["committed"], result["imported"], result["failed"]) == (True, 2, 0)
    columns = (
        "name, email, phone, budget, property_types, cities, min_bedrooms, notes, tags, source, status, score_value"
    )

    def stored(person: str) -> Any:
        query = agents[person].table("leads").select(f"{columns}, score_value, timeline, company")
        return query.like("name", f"%{mark}%").order("name").execute().data

    assert stored("rob") == stored("mia")


def test_attack_export_a_spreadsheet_formula(stack: Strive, agents: Agents, ids: dict[str, str]) -> None:
    mark = uuid4().hex
    formula = f'=HYPERLINK("http://evil.test/{mark}")'
    add(agents["mia"], "leads", ids["agency"], name=formula)
    exported = [row["name"] for row in as_csv(stack, agents["vic"], "rpc/export_leads") if mark in row["name"]]
    assert exported == ["'" + formula]
    # PostgREST returns the stored value; only export_leads escapes formulas for spreadsheets.
    plain = as_csv(stack, agents["vic"], "leads?select=name,email")
    assert [row["name"] for row in plain if mark in row["name"]] == [formula]
    # Importing it again gives the exported text; a raw formula is an error of its line.
    result = sent(stack, agents["rob"], [{"name": exported[0]}, {"name": formula}])
    assert (result["imported"], result["failed"]) == (1, 1)
