"""The trash: deleted records can be restored with their links, in any order."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.acting import wait_until_blocked
from tests.support.rows import Cursor, add, call, one, refused, scene, turn
from tests.support.world import ACME, PEOPLE, Database, Row

TABLES = """
    select c.relname from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where t.tgfoid = 'private.move_to_trash()'::regprocedure order by 1
"""
BUSINESS = """
    agent_templates appointments companies contacts content custom_agent_orders customers deals leads listings
    notes project_showcases projects tasks tool_blueprints
""".split()  # noqa: SIM905 - words read better than a list of quotes
CONFIGS = dict.fromkeys(("personality_config", "model_config", "tools_config", "memory_config"), Jsonb({}))
TEMPLATE = {"organization_id": ACME, "description": "x", "category": "SALES", **CONFIGS}
HOUSE = {"title": "House", "address": "1 Elm", "city": "Austin", "state": "TX", "zip_code": "78701", "price": 100}


def delete(cursor: Cursor, table: str, row: Row, person: str | None = "admin") -> Row:
    """Delete a record and answer its entry of the trash."""
    turn(cursor, person)
    assert cursor.execute(f"delete from public.{table} where id = %s", [row["id"]]).rowcount == 1
    return one(cursor.execute("select * from public.trash where kind = %s and record_id = %s", [table, row["id"]]))


def restore(cursor: Cursor, *entries: Row, person: str | None = "member") -> Any:
    turn(cursor, person)
    return call(cursor, "restore_from_trash", ids=[entry["id"] for entry in entries])


def test_every_business_table_has_a_trash(database: Database) -> None:
    with database.connect() as connection:
        assert [name for (name,) in connection.execute(TABLES)] == BUSINESS


def test_links_return_in_any_order_of_deleting_and_restoring(database: Database) -> None:
    with scene(database) as cursor:
        contact = add(cursor, "contacts", organization_id=ACME, name="Ada")
        house = add(cursor, "listings", organization_id=ACME, **HOUSE)
        deal = add(
            cursor,
            "deals",
            organization_id=ACME,
            title="Sale",
            value=1,
            contact_id=contact["id"],
            listing_id=house["id"],
        )
        for first, second in (("contacts", "deals"), ("deals", "contacts")):
            for reverse in (False, True):
                rows = {"contacts": contact, "deals": deal}
                entries = [delete(cursor, first, rows[first]), delete(cursor, second, rows[second])]
                for entry in reversed(entries) if reverse else entries:
                    restore(cursor, entry)
                again = one(cursor.execute("select * from public.deals where id = %s", [deal["id"]]))
                assert (again["contact_id"], again["listing_id"]) == (contact["id"], house["id"]), (first, reverse)


def test_project_is_deleted_and_restored_with_its_tasks(database: Database) -> None:
    with scene(database) as cursor:
        project = add(cursor, "projects", organization_id=ACME, name="Move")
        task = add(cursor, "tasks", organization_id=ACME, project_id=project["id"], title="Pack")
        add(cursor, "tasks", organization_id=ACME, project_id=project["id"], title="Boxes", parent_task_id=task["id"])
        before = cursor.execute("select id, parent_task_id from public.tasks order by id").fetchall()
        entry = delete(cursor, "projects", project)
        assert cursor.execute("select from public.tasks").rowcount == 0
        assert cursor.execute("select from public.trash").rowcount == 3
        restore(cursor, entry)
        assert cursor.execute("select id, parent_task_id from public.tasks order by id").fetchall() == before
        assert cursor.execute("select from public.trash").rowcount == 0


def test_purging_a_project_purges_its_tasks(database: Database) -> None:
    with scene(database) as cursor:
        project = add(cursor, "projects", organization_id=ACME, name="Move")
        add(cursor, "tasks", organization_id=ACME, project_id=project["id"], title="Pack")
        entry = delete(cursor, "projects", project)
        turn(cursor, "member")
        assert cursor.execute("delete from public.trash").rowcount == 0
        turn(cursor, "admin")
        assert cursor.execute("delete from public.trash where id = %s", [entry["id"]]).rowcount == 1
        assert cursor.execute("select from public.trash").rowcount == 0
        actions = cursor.execute("select action from public.activity_logs where resource_id = %s", [project["id"]])
        assert {row["action"] for row in actions} == {"created", "deleted", "purged"}


def test_the_job_purges_after_thirty_days_with_attachments(database: Database) -> None:
    with scene(database) as cursor:
        contact = add(cursor, "contacts", organization_id=ACME, name="Ada")
        path = f"{ACME}/contacts/{contact['id']}/id.pdf"
        place = {"entity_type": "contacts", "entity_id": contact["id"], "file_name": "id.pdf", "file_size": 1}
        add(cursor, "attachments", organization_id=ACME, mime_type="a/b", file_path=path, **place)
        delete(cursor, "contacts", contact)
        turn(cursor, None)
        purge = "select private.purge_trash() as purged"
        assert one(cursor.execute(purge))["purged"] == 0
        assert cursor.execute("select from public.attachments where file_path = %s", [path]).rowcount == 1
        cursor.connection.execute("reset role")
        cursor.execute("update public.trash set purge_at = now() where record_id = %s", [contact["id"]])
        assert one(cursor.execute(purge))["purged"] == 1
        assert cursor.execute("select from public.attachments where file_path = %s", [path]).rowcount == 0


def test_merging_keeps_links_of_rows_in_the_trash(database: Database) -> None:
    with scene(database) as cursor:
        kept, double = (add(cursor, "contacts", organization_id=ACME, name=name) for name in ("Ada", "A. Lovelace"))
        deal = add(cursor, "deals", organization_id=ACME, title="Sale", value=1, contact_id=double["id"])
        entry = delete(cursor, "deals", deal)
        turn(cursor, "admin")
        call(cursor, "merge_contacts", into_id=kept["id"], duplicate_ids=[double["id"]])
        assert cursor.execute("select from public.trash where kind = 'contacts'").rowcount == 0
        restore(cursor, entry)
        assert one(cursor.execute("select contact_id from public.deals where id = %s", [deal["id"]])) == {
            "contact_id": kept["id"]
        }


def test_rows_in_the_trash_free_slug_and_quota(database: Database) -> None:
    with scene(database) as cursor:
        page = {"organization_id": ACME, "title": "A", "slug": "a", "content": "x"}
        turn(cursor, "member")
        first = add(cursor, "content", **page)
        entry = delete(cursor, "content", first)
        turn(cursor, "member")
        add(cursor, "content", **page)
        with refused(cursor, "PT409", "taken the place"):
            restore(cursor, entry)
        turn(cursor, None)
        for number in range(10):
            add(cursor, "agent_templates", name=f"T{number}", created_by_id=PEOPLE["member"], **TEMPLATE)
        full = one(cursor.execute("select * from public.agent_templates where name = 'T0'"))
        entry = delete(cursor, "agent_templates", full)
        turn(cursor, "member")
        add(cursor, "agent_templates", name="T", **TEMPLATE)
        with refused(cursor, "PT402", "no more templates"):
            restore(cursor, entry)


@pytest.mark.parametrize(("person", "code"), [("viewer", "42501"), ("globex_owner", "PT404"), ("outsider", "42501")])
def test_strangers_cannot_restore_records(database: Database, person: str, code: str) -> None:
    with scene(database) as cursor:
        entry = delete(cursor, "leads", add(cursor, "leads", organization_id=ACME, name="Ada"))
        with refused(cursor, code, "."):
            restore(cursor, entry, person=person)


def test_the_sql_editor_restores_records(database: Database) -> None:
    with scene(database) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        entry = delete(cursor, "leads", lead)
        assert restore(cursor, entry, person=None) == [{"kind": "leads", "record_id": str(lead["id"])}]


def test_organization_is_deleted_with_its_trash(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute("insert into public.leads (organization_id, name) values (%s, 'Ada')", [ACME])
        connection.execute("delete from public.leads")
        connection.execute("delete from public.organizations where id = %s", [ACME])
        assert connection.execute("select from public.trash").rowcount == 0


def test_one_entry_is_restored_once(database: Database) -> None:
    with scene(database) as cursor:
        entry = delete(cursor, "leads", add(cursor, "leads", organization_id=ACME, name="Ada"))
        assert restore(cursor, entry) == [{"kind": "leads", "record_id": str(entry["record_id"])}]
        with refused(cursor, "PT404", "not in the trash"):
            restore(cursor, entry)


def test_deletion_gives_way_to_a_change_of_what_refers_to_it(fresh_database: Database) -> None:
    with fresh_database.acting_as("admin", commit=True) as cursor:
        lead = add(cursor, "leads", organization_id=ACME, name="Ada")
        task = add(cursor, "tasks", organization_id=ACME, title="Call", lead_id=lead["id"])

    def delete_lead() -> str | None:
        with fresh_database.acting_as("admin", commit=True) as cursor:
            try:
                cursor.execute("delete from public.leads where id = %s", [lead["id"]])
            except psycopg.Error as error:
                return error.sqlstate
        return None

    with ThreadPoolExecutor(1) as pool, fresh_database.acting_as("member", commit=True) as cursor:
        cursor.execute("update public.tasks set title = 'Visit' where id = %s", [task["id"]])
        deletion = pool.submit(delete_lead)
        wait_until_blocked(fresh_database)
        add(cursor, "notes", organization_id=ACME, lead_id=lead["id"], body="Waits for the deletion to give way.")
        assert deletion.result() == "PT409"
    assert delete_lead() is None
