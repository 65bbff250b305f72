"""CRM operations: search, duplicates, bulk calls, merging, reports, calendar, buyers, export."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.support.rows import Cursor, add, call, one, refused, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

HOUSE = {
    "title": "House",
    "address": "12 Elm Street",
    "city": "Austin",
    "state": "TX",
    "zip_code": "78701",
    "price": 100,
}


def lead(cursor: Cursor, **columns: Any) -> Row:
    return add(cursor, "leads", **{"organization_id": ACME, "name": "Ada Lovelace", **columns})


def contact(cursor: Cursor, **columns: Any) -> Row:
    return add(cursor, "contacts", **{"organization_id": ACME, "name": "Ada Lovelace", **columns})


def deal(cursor: Cursor, **columns: Any) -> Row:
    return add(cursor, "deals", **{"organization_id": ACME, "title": "Sale", "value": 100, **columns})


def answers(cursor: Cursor, function: str, *arguments: Any) -> list[Row]:
    places = ", ".join(["%s"] * len(arguments))
    return cursor.execute(f"select * from public.{function}({places})", arguments).fetchall()


# Search --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "Katherine Johnson", "katherine", "JOHNSON", "Kathrine Jonson", "johnsno", "kj@nasa.test", "nasa",
        "Flight Dynamics",        "(202) 555-0117", "202-555-0117", "5550117", "ka",
        "jonhson", "jhonson", "johhnson", "ohnson", "jahnson", "katherin", "dynamcs", "nasa.test", "katherine j",
        "0117", "202 555", "2025550", "1 202 555 0117", "(202) 555-0171", "(203) 555-0117", "555-0117 ", "johnson kath",
    ],
)  # fmt: skip
def test_search_finds_leads_despite_typing_errors(database: Database, query: str) -> None:
    with scene(database) as cursor:
        result = {"email": "kj@nasa.test", "phone": "+1 202.555.0117", "company": "Flight Dynamics"}
        expected = lead(cursor, name="Katherine Johnson", **result)
        lead(cursor, name="Somebody Else", email="else@where.test", phone="+1 303 444 9988")
        turn(cursor, "viewer")
        assert [row["id"] for row in answers(cursor, "search_crm", query)] == [expected["id"]]


def test_search_covers_all_kinds_best_match_first(database: Database) -> None:
    with scene(database) as cursor:
        made = {
            "lead": lead(cursor, name="Walnut"),
            "contact": contact(cursor, name="Walnut Grove"),
            "deal": deal(cursor, title="Sale of the walnut farm"),
            "listing": add(cursor, "listings", organization_id=ACME, **HOUSE | {"address": "1 Walnut Street"}),
        }
        turn(cursor, "member")
        found = answers(cursor, "search_crm", "walnut")
        assert {row["kind"]: row["id"] for row in found} == {kind: row["id"] for kind, row in made.items()}
        assert len(answers(cursor, "search_crm", "walnut", 2)) == 2


def test_attack_search_another_tenant_one_guard_at_a_time(database: Database) -> None:
    """The search names the organization, and what it found is read again under the caller's policies."""
    with scene(database) as cursor:
        lead(cursor, organization_id=GLOBEX, name="Hidden Treasure")
        turn(cursor, "owner")
        cursor.execute("select * from private.search_crm('Hiden Tresure', 20)")
        assert cursor.fetchall() == []
        turn(cursor, None)
        careless = "select 'lead'::text, id, name, null::text, null::text, 1::real from public.leads"
        cursor.execute(
            "create or replace function private.search_crm(query text, most integer)"
            " returns setof public.search_result language sql stable security definer rows 20"
            f" as $$ {careless} $$"
        )
        turn(cursor, "owner")
        assert answers(cursor, "search_crm", "anything") == []


def test_search_does_not_find_old_values(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        expected = lead(cursor, name="Katherine Johnson", email="kj@nasa.test")
        cursor.execute("update public.leads set name = 'Grace Hopper' where id = %s", [expected["id"]])
        assert [row["id"] for row in answers(cursor, "search_crm", "hoper")] == [expected["id"]]
        assert answers(cursor, "search_crm", "johnson") == []
        cursor.execute("delete from public.leads where id = %s", [expected["id"]])
        assert answers(cursor, "search_crm", "hopper") == answers(cursor, "search_crm", "nasa") == []


@pytest.mark.parametrize(
    "query",
    [
        "%%%",
        "___",
        "***",
        "****son",
        "joh**on",
        "@.-",
        "q'):*",
        "<->",
        "!a & b",
        "\\\\\\",
        "' or true --",
        "100%",
    ],
)
def test_attack_search_with_wildcards_for_everything(database: Database, query: str) -> None:
    with scene(database) as cursor:
        lead(cursor, name="Ada")
        turn(cursor, "member")
        assert answers(cursor, "search_crm", query) == []


def test_attack_search_another_tenant_or_after_having_left(database: Database) -> None:
    with scene(database) as cursor:
        lead(cursor, organization_id=GLOBEX, name="Hidden Treasure")
        turn(cursor, "owner")
        assert answers(cursor, "search_crm", "Hidden Treasure") == []
        assert answers(cursor, "search_crm", "Hiden Tresure") == []
        for person in ("removed", "outsider", "suspended"):
            turn(cursor, person, GLOBEX)
            with pytest.raises(psycopg.Error), cursor.connection.transaction():
                answers(cursor, "search_crm", "Hidden Treasure")


@pytest.mark.parametrize("query", [None, "", "a", " a ", "a" * 101])
def test_a_search_for_too_little_or_too_much_is_refused(database: Database, query: str | None) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT422", "2 to 100 characters"):
            answers(cursor, "search_crm", query)


# Duplicates ----------------------------------------------------------------------------------------------------------


def test_duplicates_are_found_in_any_spelling(database: Database) -> None:
    with scene(database) as cursor:
        both = lead(cursor, email="Ada@Lovelace.test", phone="+1 (512) 555-0100")
        phone = contact(cursor, phone="512.555.0100")
        lead(cursor, organization_id=GLOBEX, email="ada@lovelace.test")
        lead(cursor, email="other@lovelace.test", phone="100")
        turn(cursor, "member")
        found = answers(cursor, "find_duplicates", "ada@lovelace.test ", "5125550100")
        assert {row["id"]: row["same"] for row in found} == {both["id"]: ["email", "phone"], phone["id"]: ["phone"]}
        assert found[0]["id"] == both["id"]
        assert answers(cursor, "find_duplicates", "ada@lovelace.test", None, both["id"]) == []
        assert answers(cursor, "find_duplicates", None, "100") == []


@pytest.mark.parametrize(("function", "argument"), [("add_lead", "lead"), ("add_contact", "contact")])
def test_duplicate_is_added_with_a_warning(database: Database, function: str, argument: str) -> None:
    with scene(database) as cursor:
        there = contact(cursor, email="ada@lovelace.test")
        turn(cursor, "member")
        result = call(cursor, function, **{argument: '{"name": "Ada", "email": "ADA@lovelace.test", "tags": ["a"]}'})
        assert (result["added"]["name"], result["added"]["tags"]) == ("Ada", ["a"])
        assert [(d["id"], d["same"]) for d in result["duplicates"]] == [(str(there["id"]), ["email"])]


def test_attack_add_a_lead_with_protected_columns(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        with refused(cursor, "PT400", "object of columns"):
            call(cursor, "add_lead", lead=f'{{"name": "A", "organization_id": "{GLOBEX}"}}')
        with refused(cursor, "PT400", "no such column to insert"):
            call(cursor, "add_lead", lead='{"name": "A", "created_at": "2020-01-01"}')


# Many at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["leads", "contacts", "deals", "listings"])
def test_rows_are_assigned_and_tagged_together(database: Database, kind: str) -> None:
    make = {"leads": lead, "contacts": contact, "deals": deal}
    with scene(database) as cursor:
        rows = [
            make[kind](cursor, tags=["old", "kept"]) if kind in make
            else add(cursor, "listings", organization_id=ACME, tags=["old", "kept"], **HOUSE)
            for _ in range(3)
        ]  # fmt: skip
        ids = [row["id"] for row in rows]
        turn(cursor, "member")
        assert call(cursor, "bulk_assign", kind=kind, ids=ids, assigned_to_id=PEOPLE["viewer"]) == 3
        assert call(cursor, "bulk_tag", kind=kind, ids=[*ids, ids[0]], add=["new", "kept"], remove=["old"]) == 3
        found = cursor.execute(f"select assigned_to_id, tags from public.{kind} where id = any (%s)", [ids]).fetchall()
        assert found == [{"assigned_to_id": PEOPLE["viewer"], "tags": ["kept", "new"]}] * 3


def test_one_row_of_others_among_many_and_none_is_assigned(database: Database) -> None:
    with scene(database) as cursor:
        ours = [lead(cursor)["id"] for _ in range(3)]
        theirs = lead(cursor, organization_id=GLOBEX)["id"]
        turn(cursor, "member")
        for stranger in (theirs, uuid4()):
            with refused(cursor, "PT404", "do not exist"):
                call(cursor, "bulk_assign", kind="leads", ids=[*ours, stranger], assigned_to_id=PEOPLE["member"])
        with refused(cursor, "23503", "member of the organization"):
            call(cursor, "bulk_assign", kind="leads", ids=ours, assigned_to_id=PEOPLE["globex_member"])
        query = "select from public.leads where id = any (%s) and assigned_to_id is not null"
        assert cursor.execute(query, [ours]).rowcount == 0


def test_bulk_call_accepts_at_most_a_hundred_rows(database: Database) -> None:
    with scene(database) as cursor:
        ids = [lead(cursor)["id"] for _ in range(101)]
        turn(cursor, "member")
        assert call(cursor, "bulk_assign", kind="leads", ids=ids[:100], assigned_to_id=None) == 100
        for wrong in (ids, []):
            with refused(cursor, "PT422", "1 to 100 rows"):
                call(cursor, "bulk_assign", kind="leads", ids=wrong, assigned_to_id=None)
        with refused(cursor, "PT400", "leads, contacts, deals or listings"):
            call(cursor, "bulk_tag", kind="users", ids=ids[:1], add=["x"])


# Merging -------------------------------------------------------------------------------------------------------------


def test_merged_contact_keeps_all_history_and_fills_gaps(database: Database) -> None:
    with scene(database) as cursor:
        kept = contact(cursor, email="ada@a.test", tags=["vip"], custom_fields='{"a": 1}')
        merged = contact(
            cursor, email="ada@b.test", phone="5125550100", tags=["buyer"], type="CLIENT", notes="Likes gardens",
            status="DO_NOT_CONTACT", custom_fields='{"a": 2, "b": 3}', budget=5,
        )  # fmt: skip
        converted = lead(cursor, status="CONVERTED", converted_contact_id=merged["id"])
        file = add(
            cursor, "attachments", organization_id=ACME, entity_type="contacts", entity_id=merged["id"],
            file_name="id.pdf", file_size=1, mime_type="application/pdf",
            file_path=f"{ACME}/contacts/{merged['id']}/id.pdf",
        )  # fmt: skip
        about = {"contact_id": merged["id"]}
        moved = {
            "deals": deal(cursor, **about),
            "activities": add(
                cursor, "activities", organization_id=ACME, type="CALL", title="Called",
                created_by_id=PEOPLE["member"], **about,
            ),
            "appointments": add(
                cursor, "appointments", organization_id=ACME, title="Visit", start_time="2099-12-01T10:00Z",
                end_time="2099-12-01T11:00Z", **about,
            ),
        }  # fmt: skip
        turn(cursor, "admin")
        result = call(cursor, "merge_contacts", into_id=kept["id"], duplicate_ids=[merged["id"]])
        assert (result["email"], result["phone"], result["type"], result["notes"]) == (
            "ada@a.test", "5125550100", "CLIENT", "Likes gardens",
        )  # fmt: skip
        assert (result["status"], result["tags"], result["budget"]) == ("DO_NOT_CONTACT", ["buyer", "vip"], 5)
        assert result["custom_fields"] == {"a": 1, "b": 3}
        turn(cursor, None)
        for table, row in moved.items():
            assert one(cursor.execute(f"select contact_id from public.{table} where id = %s", [row["id"]])) == {
                "contact_id": kept["id"]
            }
        now = one(cursor.execute("select converted_contact_id from public.leads where id = %s", [converted["id"]]))
        assert now["converted_contact_id"] == kept["id"]
        at = one(cursor.execute("select entity_id from public.attachments where id = %s", [file["id"]]))
        assert at["entity_id"] == kept["id"]
        assert not cursor.execute("select from public.contacts where id = %s", [merged["id"]]).rowcount
        log = one(cursor.execute("select * from public.activity_logs where action = 'merged'"))
        assert (log["resource_id"], log["user_id"]) == (kept["id"], PEOPLE["admin"])
        assert log["old_data"]["merged"][0]["email"] == "ada@b.test"


def test_merge_refuses_foreign_contacts_itself_and_members(database: Database) -> None:
    with scene(database) as cursor:
        ours, theirs = contact(cursor)["id"], contact(cursor, organization_id=GLOBEX)["id"]
        turn(cursor, "admin")
        for into, others, state in [
            (ours, [theirs], "PT404"), (theirs, [ours], "PT404"), (ours, [ours], "PT422"), (ours, [], "PT422"),
        ]:  # fmt: skip
            with refused(cursor, state, "contact"):
                call(cursor, "merge_contacts", into_id=into, duplicate_ids=others)
        turn(cursor, "member")
        with refused(cursor, "42501", "may not"):
            call(cursor, "merge_contacts", into_id=ours, duplicate_ids=[uuid4()])


def test_concurrent_opposite_merges_leave_one_contact(fresh_database: Database) -> None:
    with fresh_database.acting_as("admin", commit=True) as cursor:
        ids = [contact(cursor)["id"] for _ in range(2)]
    barrier = Barrier(2)

    def merge(into: UUID, other: UUID) -> str | None:
        with fresh_database.acting_as("admin", commit=True) as cursor:
            barrier.wait()
            try:
                call(cursor, "merge_contacts", into_id=into, duplicate_ids=[other])
            except psycopg.Error as error:
                return error.sqlstate
        return None

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(merge, ids, reversed(ids))) == {None, "PT404"}
    with fresh_database.acting_as("viewer") as cursor:
        assert cursor.execute("select from public.contacts").rowcount == 1


# Reports -------------------------------------------------------------------------------------------------------------


def test_pipeline_sums_stages_of_one_tenant(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        deal(cursor, value=1000, stage="LEAD")
        deal(cursor, value=500, stage="LEAD", assigned_to_id=PEOPLE["member"])
        deal(cursor, value=300, stage="PROPOSAL", probability=33)
        turn(cursor, None)
        deal(cursor, organization_id=GLOBEX, value=9, stage="LEAD")
        turn(cursor, "viewer")
        report = {row["stage"]: row for row in answers(cursor, "pipeline_report")}
        assert list(report) == ["LEAD", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CLOSING", "CLOSED_WON", "CLOSED_LOST"]
        assert report["LEAD"] == {"stage": "LEAD", "deals": 2, "value": 1500, "weighted_value": 150}
        assert report["PROPOSAL"]["weighted_value"] == 99
        assert report["CLOSING"]["deals"] == 0
        (mine,) = [row for row in answers(cursor, "pipeline_report", PEOPLE["member"]) if row["deals"]]
        assert mine["value"] == 500


def test_conversion_and_win_rate(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        nothing = answers(cursor, "conversion_report")[0]
        assert (nothing["leads"], nothing["conversion_rate"], nothing["win_rate"]) == (0, None, None)
        ids = [lead(cursor)["id"] for _ in range(3)]
        call(cursor, "convert_lead", lead_id=ids[0])
        for outcome, reason in [("WON", None), ("WON", None), ("LOST", "price"), ("ABANDONED", "moved away")]:
            call(cursor, "close_deal", deal_id=deal(cursor)["id"], outcome=outcome, lost_reason=reason)
        assert answers(cursor, "conversion_report")[0] == {
            "leads": 3, "converted_leads": 1, "conversion_rate": Decimal("0.3333"), "won_deals": 2, "lost_deals": 1,
            "abandoned_deals": 1, "win_rate": Decimal("0.6667"), "won_value": 200,
        }  # fmt: skip
        assert answers(cursor, "conversion_report", "2000-01-01", "2001-01-01")[0]["leads"] == 0


# The calendar --------------------------------------------------------------------------------------------------------


def appointment(cursor: Cursor, start: str, end: str, **columns: Any) -> UUID:
    times = {"start_time": f"2027-03-01T{start}Z", "end_time": f"2027-03-01T{end}Z"}
    usual = {"organization_id": ACME, "title": "Visit", "assigned_to": PEOPLE["member"]}
    made: UUID = add(cursor, "appointments", **usual | times | columns)["id"]
    return made


def test_agenda_shows_overlapping_appointments_and_clashes(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        early = appointment(cursor, "07:00", "09:30")
        clash = appointment(cursor, "09:00", "10:00")
        after = appointment(cursor, "10:00", "11:00")
        foreign = appointment(cursor, "09:00", "10:00", assigned_to=PEOPLE["admin"])
        appointment(cursor, "09:10", "09:20", status="CANCELLED")
        appointment(cursor, "12:00", "13:00")
        window = ("2027-03-01T09:15Z", "2027-03-01T12:00Z")
        found = {row["id"]: row["clashes"] for row in answers(cursor, "agenda", *window)}
        assert found == {early: [clash], clash: [early], after: [], foreign: []}
        assert [row["id"] for row in answers(cursor, "agenda", *window, PEOPLE["admin"])] == [foreign]
        warned = answers(cursor, "appointment_clashes", "2027-03-01T09:20Z", "2027-03-01T09:40Z")
        assert [row["id"] for row in warned] == [early, clash]
        with refused(cursor, "PT422", "at most a year"):
            answers(cursor, "agenda", *reversed(window))


def test_follow_ups_are_due_by_score_date_and_appointment(database: Database) -> None:
    with scene(database) as cursor:
        hot, cold = lead(cursor, score="HOT"), lead(cursor, name="Cold")
        lead(cursor, score="HOT", status="LOST")
        late = deal(cursor, expected_close_date="2020-01-01")
        arranged = appointment(cursor, "07:00", "09:30", type="FOLLOW_UP")
        turn(cursor, "member")
        assert [row["id"] for row in answers(cursor, "follow_ups_due")] == [late["id"]]
        days = "select f.id from public.follow_ups_due(now() + %s::interval) f"
        assert [r["id"] for r in cursor.execute(days, ["2 days"])] == [late["id"], hot["id"]]
        assert {r["id"] for r in cursor.execute(days, ["15 days"])} == {late["id"], hot["id"], cold["id"]}
        assert arranged in {r["id"] for r in cursor.execute(days, ["1 year"])}


# Buyers --------------------------------------------------------------------------------------------------------------


def test_listing_finds_buyers_with_matching_criteria(database: Database) -> None:
    with scene(database) as cursor:
        house = add(cursor, "listings", organization_id=ACME, **HOUSE | {"bedrooms": 3, "property_type": "CONDO"})["id"]
        wishes = {"budget": 100, "min_bedrooms": 3, "property_types": ["CONDO", "LAND"], "cities": ["austin", "Waco"]}
        all_met = lead(cursor, **wishes)["id"]
        some = contact(cursor, budget=200)["id"]
        for unmet in ({"budget": 99}, {"min_bedrooms": 4}, {"property_types": ["LAND"]}, {"cities": ["Waco"]}):
            lead(cursor, **wishes | unmet)
        lead(cursor)
        lead(cursor, status="LOST", **wishes)
        contact(cursor, status="DO_NOT_CONTACT", **wishes)
        lead(cursor, organization_id=GLOBEX, **wishes)
        turn(cursor, "viewer")
        found = answers(cursor, "match_buyers", house)
        assert [(row["kind"], row["id"], row["wishes"]) for row in found] == [
            ("lead", all_met, 4), ("contact", some, 1),
        ]  # fmt: skip
        turn(cursor, "globex_owner")
        with refused(cursor, "PT404", "no such listing"):
            answers(cursor, "match_buyers", house)


def test_converted_lead_keeps_its_search_criteria(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        made = lead(cursor, budget=100, min_bedrooms=3, property_types=["CONDO"], cities=["Austin"])
        result = call(cursor, "convert_lead", lead_id=made["id"])
        query = (
            "select budget, min_bedrooms, property_types::text[] as types, cities from public.contacts where id = %s"
        )
        assert one(cursor.execute(query, [result["contact_id"]])) == {
            "budget": 100, "min_bedrooms": 3, "types": ["CONDO"], "cities": ["Austin"],
        }  # fmt: skip


# Export --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "exported"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd|x", "'-2+3+cmd|x"), ("\t=1", "'\t=1"), ("+1 (512) 555-0100", "+1 (512) 555-0100"), ("Ada", "Ada"),
    ],
)  # fmt: skip
def test_attack_a_formula_in_an_export(database: Database, cell: str, exported: str) -> None:
    with scene(database) as cursor:
        lead(cursor, notes=cell, tags=[cell])
        contact(cursor, name=cell)
        turn(cursor, "viewer")
        (row,) = answers(cursor, "export_leads")
        assert (row["notes"], row["tags"]) == (exported, exported)
        assert answers(cursor, "export_contacts")[0]["name"] == exported
