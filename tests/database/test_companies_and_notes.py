"""Companies: found or added by name, merged. Notes: mentions, authors, deletion with their record."""

from typing import Any

import pytest

from tests.support.rows import Cursor, add, call, change, one, refused, remove, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row


def contact(cursor: Cursor, **columns: Any) -> Row:
    return add(cursor, "contacts", **{"organization_id": ACME, "name": "Ada", **columns})


def company(cursor: Cursor, name: str, **columns: Any) -> Row:
    return add(cursor, "companies", **{"organization_id": ACME, "name": name, **columns})


@pytest.mark.parametrize("other", ["acme", "ACME, Inc.", " Acme  LLC ", "Acme GmbH", "acme corp."])
def test_one_company_is_named_in_many_ways(database: Database, other: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        first, second = contact(cursor, company="Acme"), contact(cursor, company=other)
        assert first["company_id"] == second["company_id"] is not None
        with refused(cursor, "23505", "company name is unique"):
            company(cursor, other)


def test_company_and_company_id_of_a_contact_follow_each_other(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "member")
        nasa = company(cursor, "NASA")
        person = contact(cursor, company_id=nasa["id"])
        assert person["company"] == "NASA"
        person = change(cursor, "contacts", person, company="ESA") or {}
        assert person["company_id"] not in (None, nasa["id"])
        person = change(cursor, "contacts", person, company=None) or {}
        assert person["company_id"] is None
        change(cursor, "contacts", person, company_id=nasa["id"])
        change(cursor, "companies", nasa, name="NASA Houston")
        person = one(cursor.execute("select * from public.contacts where id = %s", [person["id"]]))
        assert (person["company"], person["company_id"]) == ("NASA Houston", nasa["id"])
        person = change(cursor, "contacts", person, company_id=None) or {}
        assert (person["company"], person["company_id"]) == (None, None)


def test_a_company_in_the_trash_is_not_added_again(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        nasa = company(cursor, "NASA")
        kept, other, third = (
            contact(cursor),
            contact(cursor, company_id=nasa["id"]),
            contact(cursor, company_id=nasa["id"]),
        )
        cursor.execute("delete from public.contacts where id = %s", [third["id"]])
        cursor.execute("delete from public.companies where id = %s", [nasa["id"]])
        merged = call(cursor, "merge_contacts", into_id=kept["id"], duplicate_ids=[other["id"]])
        assert (merged["company"], merged["company_id"]) == ("NASA", None)
        for kind in ("contacts", "companies"):
            entry = one(cursor.execute("select id from public.trash where kind = %s", [kind]))
            call(cursor, "restore_from_trash", ids=[entry["id"]])
        linked = cursor.execute(
            "select id, company from public.contacts where company_id = %s", [nasa["id"]]
        ).fetchall()
        assert {(row["id"], row["company"]) for row in linked} == {(kept["id"], "NASA"), (third["id"], "NASA")}


def test_a_contact_returns_from_the_trash_with_the_new_name_of_its_company(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        nasa = company(cursor, "NASA")
        person = contact(cursor, company_id=nasa["id"])
        cursor.execute("delete from public.contacts where id = %s", [person["id"]])
        change(cursor, "companies", nasa, name="NASA Houston")
        entry = one(cursor.execute("select id from public.trash where kind = 'contacts'"))
        call(cursor, "restore_from_trash", ids=[entry["id"]])
        person = one(cursor.execute("select * from public.contacts where id = %s", [person["id"]]))
        assert (person["company"], person["company_id"]) == ("NASA Houston", nasa["id"])


def test_companies_of_earlier_contacts_are_added_once(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute("alter table public.contacts disable trigger link_company")
        for name in ("NASA", "nasa ", "Nasa Inc", "", None):
            contact(cursor, company=name)
        contact(cursor, organization_id=GLOBEX, company="NASA")
        assert one(cursor.execute("select private.link_companies_of_contacts() as linked"))["linked"] == 4
        assert one(cursor.execute("select private.link_companies_of_contacts() as linked"))["linked"] == 0
        assert cursor.execute("select from public.companies where name_key = 'nasa'").rowcount == 2


def test_merged_companies_keep_contacts_deals_tasks_and_notes(database: Database) -> None:
    with scene(database) as cursor:
        kept, double = company(cursor, "NASA"), company(cursor, "N.A.S.A. Houston", phone="+1 202 555 0117", tags=["a"])
        rows = {
            "contacts": contact(cursor, company_id=double["id"]),
            "deals": add(cursor, "deals", organization_id=ACME, title="D", value=1, company_id=double["id"]),
            "tasks": add(cursor, "tasks", organization_id=ACME, title="T", company_id=double["id"]),
            "notes": add(cursor, "notes", organization_id=ACME, body="N", company_id=double["id"]),
        }
        turn(cursor, "member")
        with refused(cursor, "42501", "may not"):
            call(cursor, "merge_companies", into_id=kept["id"], duplicate_ids=[double["id"]])
        turn(cursor, "admin")
        merged = call(cursor, "merge_companies", into_id=kept["id"], duplicate_ids=[double["id"]])
        assert (merged["name"], merged["phone"], merged["tags"]) == ("NASA", "+1 202 555 0117", ["a"])
        for table, row in rows.items():
            found = one(cursor.execute(f"select company_id from public.{table} where id = %s", [row["id"]]))
            assert found["company_id"] == kept["id"], table
        assert cursor.execute("select from public.trash").rowcount == 0


def test_duplicate_companies_are_found_by_phone_site_and_name(database: Database) -> None:
    with scene(database) as cursor:
        nasa = company(cursor, "NASA", phone="+1 (202) 555-0117", website="https://www.nasa.gov/x", email="a@nasa.gov")
        company(cursor, "NASA Houston")
        company(cursor, "Space Agency", website="http://nasa.gov")
        company(cursor, "Phones", phone="202 555 0117")
        company(cursor, "Unlike")
        turn(cursor, "viewer")
        found = cursor.execute("select name from public.find_duplicate_companies(%s)", [nasa["id"]]).fetchall()
        assert sorted(row["name"] for row in found) == ["NASA Houston", "Phones", "Space Agency"]


def test_a_mentioned_member_is_notified_once(database: Database) -> None:
    with scene(database) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        turn(cursor, "member")
        named = " ".join(f"@[X]({PEOPLE[who]})" for who in ("admin", "globex_owner", "outsider", "member"))
        note = add(cursor, "notes", body=f"Ask {named}", lead_id=lead["id"])
        assert set(note["mentions"]) == {PEOPLE["admin"], PEOPLE["member"]}
        change(cursor, "notes", note, body=f"Ask {named} again")
        turn(cursor, None)
        sent = cursor.execute("select * from public.notifications where entity_type = 'note'").fetchall()
        assert [(row["user_id"], row["message"][:6], row["action_url"]) for row in sent] == [
            (PEOPLE["admin"], "Ask @X", f"/leads/{lead['id']}")
        ]


def test_note_is_changed_by_author_and_deleted_by_admins(database: Database) -> None:
    with scene(database) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        turn(cursor, "member")
        note = add(cursor, "notes", body="Mine", lead_id=lead["id"])
        assert note["author_id"] == PEOPLE["member"]
        with refused(cursor, "23514", "about at least one record"):
            add(cursor, "notes", body="About nothing")
        turn(cursor, "admin")
        assert change(cursor, "notes", note, body="Theirs") is None
        assert remove(cursor, "notes", note)


def test_note_is_deleted_and_restored_with_its_record(database: Database) -> None:
    with scene(database) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        note = add(cursor, "notes", organization_id=ACME, body="Mine", lead_id=lead["id"])
        turn(cursor, "admin")
        remove(cursor, "leads", lead)
        entries = cursor.execute("select id, kind from public.trash order by kind").fetchall()
        assert [entry["kind"] for entry in entries] == ["leads", "notes"]
        with refused(cursor, "PT409", "does not exist"):
            call(cursor, "restore_from_trash", ids=[entries[1]["id"]])
        call(cursor, "restore_from_trash", ids=[entries[0]["id"]])
        assert one(cursor.execute("select lead_id from public.notes where id = %s", [note["id"]])) == {
            "lead_id": lead["id"]
        }
