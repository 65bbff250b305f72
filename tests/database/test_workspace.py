"""The workspace: permissions, rows that only the server writes, and retention."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.support.statements import Cursor, at_once, insert, one, refused
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LISTING = {
    "title": "House", "address": "1 Elm", "city": "X", "state": "CA", "zip_code": "90001", "property_type": "CONDO",
    "price": 1,
}  # fmt: skip


def customer(cursor: Cursor, **values: Any) -> Row:
    return insert(cursor, "customers", **{"organization_id": ACME, "name": "Ada"} | values)


def project(cursor: Cursor, **values: Any) -> Row:
    return insert(cursor, "projects", **{"organization_id": ACME, "name": "Launch"} | values)


def task(cursor: Cursor, project_id: UUID, **values: Any) -> Row:
    return insert(cursor, "tasks", **{"organization_id": ACME, "project_id": project_id, "title": "Write"} | values)


def appointment(cursor: Cursor, **values: Any) -> Row:
    whole = {"organization_id": ACME, "title": "Visit", "start_time": NOON, "end_time": NOON + timedelta(hours=1)}
    return insert(cursor, "appointments", **whole | values)


def article(cursor: Cursor, **values: Any) -> Row:
    whole = {"organization_id": ACME, "title": "News", "slug": f"news-{uuid4().hex}", "content": "…"}
    return insert(cursor, "content", **whole | values)


def attachment(cursor: Cursor, **values: Any) -> Row:
    entity = uuid4()
    whole = {
        "organization_id": ACME, "entity_type": "tasks", "entity_id": entity, "file_name": "a.pdf", "file_size": 7,
        "mime_type": "application/pdf", "file_path": f"{ACME}/tasks/{entity}/a.pdf",
    }  # fmt: skip
    return insert(cursor, "attachments", **whole | values)


def notify(database: Database, *people: str, org: UUID = ACME, count: int = 1) -> list[UUID]:
    with database.connect() as connection:
        rows = connection.execute(
            "insert into public.notifications (organization_id, user_id, title, message)"
            " select %s, u, 'Hello', 'World' from unnest(%s::uuid[]) u, generate_series(1, %s) returning id",
            [org, [PEOPLE[name] for name in people], count],
        ).fetchall()
    return [row[0] for row in rows]


# Work ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "column"),
    [("customers", "assigned_to"), ("projects", "project_manager_id"), ("appointments", "assigned_to")],
)
@pytest.mark.parametrize("stranger", ["globex_member", "outsider", "removed"])
def test_attack_put_a_stranger_in_charge(database: Database, table: str, column: str, stranger: str) -> None:
    make = {"customers": customer, "projects": project, "appointments": appointment}[table]
    with database.acting_as("member") as cursor, refused("23503"):
        make(cursor, **{column: PEOPLE[stranger]})


def test_leaving_member_is_unassigned_and_work_stays(database: Database) -> None:
    with database.acting_as("owner") as cursor:
        lead = PEOPLE["member"]
        one_project = project(cursor, project_manager_id=lead)["id"]
        rows = {
            "customers": customer(cursor, assigned_to=lead)["id"],
            "tasks": task(cursor, one_project, assigned_to=lead)["id"],
            "appointments": appointment(cursor, assigned_to=lead)["id"],
        }
        cursor.execute("delete from public.organization_members where user_id = %s", [lead])
        for table, row in rows.items():
            assert one(cursor, f"select assigned_to from public.{table} where id = %s", row) == {"assigned_to": None}
        read = "select project_manager_id, organization_id from public.projects where id = %s"
        assert one(cursor, read, one_project) == {"project_manager_id": None, "organization_id": ACME}


def test_manager_and_assignee_default_to_the_caller(database: Database) -> None:
    with database.acting_as("member") as cursor:
        assert project(cursor)["project_manager_id"] == PEOPLE["member"]
        assert appointment(cursor)["assigned_to"] == PEOPLE["member"]


def test_completing_a_project_stamps_it_and_reopening_clears_it(database: Database) -> None:
    with database.acting_as("member") as cursor:
        row = project(cursor)["id"]
        change = "update public.projects set status = %s where id = %s returning completion_date"
        assert one(cursor, change, "COMPLETED", row)["completion_date"]
        assert one(cursor, change, "ACTIVE", row) == {"completion_date": None}


@pytest.mark.parametrize("person", ["viewer", "globex_owner", "removed", "suspended", "outsider", "platform_admin"])
@pytest.mark.parametrize("make", [customer, project, appointment, article, attachment])
def test_attack_write_without_being_a_member(database: Database, person: str, make: Any) -> None:
    with database.acting_as(person, org=ACME) as cursor, refused("42501"):
        make(cursor)


@pytest.mark.parametrize("make", [customer, project, appointment, article])
def test_members_write_and_admins_delete(database: Database, make: Any) -> None:
    table = {customer: "customers", project: "projects", appointment: "appointments", article: "content"}[make]
    with database.acting_as("member", commit=True) as cursor:
        row = make(cursor)["id"]
        cursor.execute(f"delete from public.{table} where id = %s", [row])
        assert cursor.rowcount == 0
    with database.acting_as("viewer") as cursor:
        assert one(cursor, f"select id from public.{table} where id = %s", row) == {"id": row}
    with database.acting_as("globex_owner") as cursor:
        assert cursor.execute(f"select id from public.{table} where id = %s", [row]).fetchall() == []
    with database.acting_as("admin", commit=True) as cursor:
        cursor.execute(f"delete from public.{table} where id = %s", [row])
        assert cursor.rowcount == 1


@pytest.mark.parametrize("table", ["customers", "projects", "tasks", "appointments", "content"])
def test_attack_move_a_row_to_another_tenant(database: Database, table: str) -> None:
    with database.acting_as("owner") as cursor, refused("42501"):
        cursor.execute(f"update public.{table} set organization_id = %s", [GLOBEX])


def test_attack_reference_another_tenants_row(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        ours = {"customer_id": customer(cursor)["id"], "project_id": project(cursor)["id"]}
    for column, row in ours.items():
        message = set()
        for target in (row, uuid4()):
            with database.acting_as("globex_owner") as cursor, refused("23503") as caught:
                if column == "customer_id":
                    project(cursor, organization_id=GLOBEX, customer_id=target)
                else:
                    task(cursor, target, organization_id=GLOBEX)
            message.add(str(caught.value.diag.message_primary))
        assert len(message) == 1


@pytest.mark.parametrize(
    ("column", "table", "row"),
    [
        ("customer_id", "customers", {"name": "C"}),
        ("lead_id", "leads", {"name": "L"}),
        ("contact_id", "contacts", {"name": "C"}),
        ("deal_id", "deals", {"title": "D", "value": 1}),
        ("listing_id", "listings", LISTING),
    ],
)
def test_an_appointment_refers_only_to_rows_of_its_organization(
    database: Database, column: str, table: str, row: dict[str, Any]
) -> None:
    with database.acting_as("member") as cursor:
        reference = {column: insert(cursor, table, organization_id=ACME, **row)["id"]}
        assert appointment(cursor, **reference)[column] == reference[column]
        cursor.execute("set local role service_role")
        with refused("23503"):
            appointment(cursor, organization_id=GLOBEX, **reference)


def test_the_author_is_the_caller(database: Database) -> None:
    with database.acting_as("member") as cursor:
        row = project(cursor)["id"]
        assert task(cursor, row)["created_by"] == PEOPLE["member"]
        assert article(cursor)["author_id"] == PEOPLE["member"]
        assert attachment(cursor)["uploaded_by_id"] == PEOPLE["member"]
    for make, column in [(article, "author_id"), (attachment, "uploaded_by_id")]:
        with database.acting_as("member") as cursor, refused("42501"):
            make(cursor, **{column: PEOPLE["owner"]})


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (customer, {"email": "ada"}, "email has an @"),
        (customer, {"name": ""}, "name is 1 to 255"),
        (project, {"progress_percentage": 101}, "progress_percentage is 0 to 100"),
        (project, {"start_date": NOON, "due_date": NOON - timedelta(days=1)}, "due_date is not before start_date"),
        (project, {"budget": -1}, "budget is not negative"),
        (appointment, {"end_time": NOON}, "end_time is after start_time"),
        (appointment, {"meeting_url": "javascript:alert(1)"}, "meeting_url is an http"),
        (article, {"slug": "Not a slug"}, "slug is lower-case"),
        (attachment, {"file_size": 50 * 1024 * 1024 + 1}, "file_size is at most 50 MB"),
        (attachment, {"file_path": f"{GLOBEX}/tasks/x/a.pdf"}, "file_path is organization"),
        (attachment, {"entity_type": "task"}, "entity_type is a table such as contacts, deals or leads"),
        (attachment, {"file_name": "../a.pdf"}, "file_name is 1 to 255 characters without slashes"),
    ],
)
def test_invalid_value_is_refused_with_the_rule(
    database: Database, make: Any, wrong: dict[str, Any], message: str
) -> None:
    with database.acting_as("member") as cursor, refused("23514", message):
        make(cursor, **wrong)


def test_appointments_and_their_changes_are_notes_and_feed_entries(database: Database) -> None:
    with database.acting_as("member") as cursor:
        lead = insert(cursor, "leads", organization_id=ACME, name="Lead")["id"]
        row = appointment(cursor, type="SHOWING", lead_id=lead)["id"]
        for change in ("status = 'CONFIRMED'", "location = 'Elm 1'", "start_time = start_time - interval '1 hour'"):
            cursor.execute(f"update public.appointments set {change} where id = %s", [row])
        recorded = cursor.execute(
            "select type, title, created_by_id from public.activities where lead_id = %s order by title", [lead]
        ).fetchall()
        feed = cursor.execute(
            "select action, title from public.activity_feeds where entity_type = 'appointment' and entity_id = %s"
            " order by title",
            [str(row)],
        ).fetchall()
    titles = ["Appointment confirmed: Visit", "Appointment moved: Visit", "Appointment: Visit"]
    assert [(each["type"], each["title"]) for each in recorded] == [("NOTE", title) for title in titles]
    assert {each["created_by_id"] for each in recorded} == {PEOPLE["member"]}
    assert [(each["action"], each["title"]) for each in feed] == list(
        zip(("confirmed", "moved", "created"), titles, strict=True)
    )


@pytest.mark.parametrize("kind", ["SHOWING", "CALL", "MEETING", "FOLLOW_UP", "OPEN_HOUSE", "OTHER"])
@pytest.mark.parametrize("outcome", ["SCHEDULED", "CONFIRMED", "NO_SHOW", "CANCELLED", "COMPLETED", "deleted"])
def test_only_an_appointment_that_took_place_is_contact(database: Database, kind: str, outcome: str) -> None:
    with database.acting_as("admin") as cursor:
        lead = insert(cursor, "leads", organization_id=ACME, name="Lead")["id"]
        contact = insert(cursor, "contacts", organization_id=ACME, name="Contact")["id"]
        times = {"start_time": NOON - timedelta(hours=1), "end_time": NOON}
        row = appointment(cursor, type=kind, lead_id=lead, contact_id=contact, **times)["id"]
        if outcome == "deleted":
            cursor.execute("delete from public.appointments where id = %s", [row])
        else:
            cursor.execute("update public.appointments set status = %s where id = %s", [outcome, row])
        found = cursor.execute(
            "select last_contact_at from public.leads where id = %s union all"
            " select last_contact_at from public.contacts where id = %s",
            [lead, contact],
        ).fetchall()
    happened = outcome == "COMPLETED" and kind in {"SHOWING", "CALL", "MEETING", "FOLLOW_UP"}
    assert {each["last_contact_at"] for each in found} == {NOON if happened else None}


# Content and files ---------------------------------------------------------------------------------------------------


def test_published_content_is_public_and_drafts_are_not(database: Database) -> None:
    with database.acting_as("member", commit=True) as cursor:
        rows = {status: article(cursor, status=status) for status in ("PUBLISHED", "DRAFT", "ARCHIVED")}
    assert [rows[status]["published_at"] is not None for status in rows] == [True, False, False]
    ids = [row["id"] for row in rows.values()]
    everything, published = set(ids), {rows["PUBLISHED"]["id"]}
    for person, expected in {
        "viewer": everything,
        "globex_owner": published,
        "outsider": published,
        None: published,
    }.items():
        with database.acting_as(person) as cursor:
            seen = {row["id"] for row in cursor.execute("select * from public.content where id = any (%s)", [ids])}
        assert seen == expected, person


@pytest.mark.parametrize("person", ["globex_owner", "outsider", "viewer", None])
def test_attack_rewrite_published_content(database: Database, person: str | None) -> None:
    with database.acting_as("member", commit=True) as cursor:
        row = article(cursor, status="PUBLISHED")["id"]
    for statement in (
        "update public.content set title = 'x' where id = %s",
        "delete from public.content where id = %s",
    ):
        with database.acting_as(person) as cursor:
            if person is None:
                with refused("42501"):
                    cursor.execute(statement, [row])
            else:
                assert cursor.execute(statement, [row]).rowcount == 0


def test_a_slug_is_unique_in_its_organization_only(database: Database) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        article(cursor, slug="hello")
    with database.acting_as("globex_owner") as cursor:
        article(cursor, organization_id=GLOBEX, slug="hello")
    with database.acting_as("owner") as cursor, refused("23505", "slug is unique"):
        article(cursor, slug="hello")


def test_the_uploader_or_an_admin_deletes_an_attachment(database: Database) -> None:
    with database.acting_as("member", commit=True) as cursor:
        rows = [attachment(cursor)["id"] for _ in range(2)]
    with database.acting_as("admin", commit=True) as cursor:
        admins = attachment(cursor)["id"]
    statement = "delete from public.attachments where id = %s"
    for person, row, deleted in [
        ("member", admins, 0),
        ("viewer", rows[0], 0),
        ("member", rows[0], 1),
        ("admin", rows[1], 1),
    ]:
        with database.acting_as(person) as cursor:
            assert cursor.execute(statement, [row]).rowcount == deleted, person


# Notifications -------------------------------------------------------------------------------------------------------


def test_people_see_count_and_mark_only_their_own_notifications(database: Database) -> None:
    notify(database, "admin", "owner", count=3)
    with database.acting_as("admin") as cursor:
        rows = cursor.execute("select * from public.notifications").fetchall()
        assert {row["user_id"] for row in rows} == {PEOPLE["admin"]}
        assert one(cursor, "select public.unread_notification_count() as n") == {"n": 3}
        marked = one(cursor, "select public.mark_notifications_read(%s) as n", [rows[0]["id"], rows[0]["id"]])
        assert marked == {"n": 1}
        assert one(cursor, "select public.unread_notification_count() as n") == {"n": 2}
        assert one(cursor, "select public.mark_all_notifications_read() as n") == {"n": 2}
        assert one(cursor, "select public.unread_notification_count() as n") == {"n": 0}
        assert cursor.execute("delete from public.notifications").rowcount == 3
    with database.acting_as("owner") as cursor:
        assert one(cursor, "select public.unread_notification_count() as n") == {"n": 3}


def test_marking_is_all_or_nothing(database: Database) -> None:
    mine, others = notify(database, "member"), notify(database, "admin")
    for alien in (others[0], uuid4()):
        with database.acting_as("member", commit=True) as cursor:
            cursor.execute("savepoint before")
            with refused("PT404"):
                cursor.execute("select public.mark_notifications_read(%s)", [[mine[0], alien]])
            cursor.execute("rollback to before")
            assert one(cursor, "select read from public.notifications where id = %s", mine[0]) == {"read": False}


@pytest.mark.parametrize("ids", [[], None, [UUID(int=0)] * 101])
def test_one_to_a_hundred_notifications_are_marked_at_a_time(database: Database, ids: list[UUID] | None) -> None:
    with database.acting_as("member") as cursor, refused("PT400", "1 to 100"):
        cursor.execute("select public.mark_notifications_read(%s::uuid[])", [ids])


def test_attack_create_or_rewrite_a_notification(database: Database) -> None:
    notify(database, "member")
    values = {"organization_id": ACME, "user_id": PEOPLE["admin"], "title": "Pay", "message": "now"}
    with database.acting_as("owner") as cursor, refused("42501"):
        insert(cursor, "notifications", **values)
    with database.acting_as("member") as cursor, refused("42501"):
        cursor.execute("update public.notifications set action_url = 'https://evil.test'")


def test_organization_notice_reaches_each_member_once(database: Database) -> None:
    with database.acting_as(None, claims={"role": "service_role"}) as cursor:
        send = "select public.notify_members(%s, 'INFO', 'Hello', 'World', %s) as sent"
        assert one(cursor, send, ACME, None) == {"sent": 5}
        assert one(cursor, send, ACME, [PEOPLE["member"], PEOPLE["globex_member"], PEOPLE["removed"]]) == {"sent": 1}


def test_unread_counts_are_exact_when_many_mark_at_once(fresh_database: Database) -> None:
    ids = notify(fresh_database, "member", count=40)

    def mark(index: int) -> int:
        with fresh_database.acting_as("member", commit=True) as cursor:
            cursor.execute("select public.mark_notifications_read(%s)", [ids[index * 4 : index * 4 + 8]])
            return int(one(cursor, "select public.unread_notification_count() as n")["n"])

    at_once(8, mark)
    with fresh_database.acting_as("member") as cursor:
        assert one(cursor, "select public.unread_notification_count() as n") == {"n": 4}


def test_notifications_are_deleted_with_the_membership(database: Database) -> None:
    notify(database, "admin")
    with database.connect() as connection, connection.transaction(force_rollback=True):
        connection.execute("delete from public.organization_members where user_id = %s", [PEOPLE["admin"]])
        left = connection.execute("select count(*) from public.notifications where user_id = %s", [PEOPLE["admin"]])
        assert left.fetchone() == (0,)


# The log, usage, AI --------------------------------------------------------------------------------------------------


def test_activity_log_records_every_change(database: Database) -> None:
    headers = '{"x-forwarded-for": "10.0.0.1, 203.0.113.9", "user-agent": "browser"}'
    with database.acting_as("admin") as cursor:
        cursor.execute("select set_config('request.headers', %s, true)", [headers])
        row = customer(cursor)["id"]
        cursor.execute("update public.customers set name = 'Grace' where id = %s", [row])
        cursor.execute("update public.customers set name = 'Grace' where id = %s", [row])
        cursor.execute("delete from public.customers where id = %s", [row])
        log = cursor.execute("select * from public.activity_logs where resource_id = %s", [row]).fetchall()
    by_action = {entry["action"]: entry for entry in log}
    assert len(log) == 3
    assert (by_action["updated"]["old_data"], by_action["updated"]["new_data"]) == ({"name": "Ada"}, {"name": "Grace"})
    assert (by_action["created"]["old_data"], by_action["deleted"]["new_data"]) == (None, None)
    assert {(entry["user_id"], entry["ip_address"], entry["user_agent"]) for entry in log} == {
        (PEOPLE["admin"], "203.0.113.9", "browser")
    }


def test_impersonation_is_visible_in_the_activity_log(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        begun = connection.execute(
            "insert into private.impersonations (admin_id, user_id, reason) values (%s, %s, 'Help') returning id::text",
            [PEOPLE["super_admin"], PEOPLE["admin"]],
        ).fetchone()
    assert begun
    token = {
        "sub": str(PEOPLE["admin"]), "role": "authenticated", "app_metadata": {"org_id": str(ACME)},
        "act": {"sub": str(PEOPLE["super_admin"])}, "session_id": begun[0],
    }  # fmt: skip
    with fresh_database.acting_as("admin", claims=token) as cursor:
        row = customer(cursor)["id"]
        entry = one(cursor, "select user_id, impersonated_by from public.activity_logs where resource_id = %s", row)
    assert entry == {"user_id": PEOPLE["admin"], "impersonated_by": PEOPLE["super_admin"]}


@pytest.mark.parametrize("person", ["member", "viewer", "globex_owner", "outsider"])
def test_only_admins_read_the_activity_log(database: Database, person: str) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        row = customer(cursor)["id"]
    with database.acting_as(person) as cursor:
        assert cursor.execute("select * from public.activity_logs where resource_id = %s", [row]).fetchall() == []


@pytest.mark.parametrize("person", ["postgres", "supabase_admin"])
@pytest.mark.parametrize(
    "what",
    [
        "update public.activity_logs set action = 'x'", "update public.activity_logs set user_id = null",
        "delete from public.activity_logs", "truncate public.activity_logs",
    ],
)  # fmt: skip
def test_attack_rewrite_the_activity_log(database: Database, person: str, what: str) -> None:
    with database.acting_as("owner", commit=True) as cursor:
        customer(cursor)
    with database.connect(person) as connection, refused("42501", "append-only"):
        connection.execute(what)


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
@pytest.mark.parametrize("what", ["update public.activity_logs set action = 'x'", "delete from public.activity_logs"])
def test_attack_rewrite_the_activity_log_through_the_api(database: Database, role: str, what: str) -> None:
    with database.acting_as("owner", role=role) as cursor, refused("42501"):
        cursor.execute(what)


def test_activity_log_survives_deleted_accounts_and_organizations(fresh_database: Database) -> None:
    with fresh_database.acting_as("member", commit=True) as cursor:
        row = project(cursor)["id"]
        task(cursor, row)
        article(cursor)
        attachment(cursor)
    with fresh_database.connect() as connection:
        connection.execute("delete from auth.users where id = %s", [PEOPLE["member"]])
        for table in ("tasks", "content", "attachments", "projects"):
            assert connection.execute(f"select count(*) from public.{table}").fetchone() == (1,), table
        named = connection.execute(
            "select count(*), count(user_id) from public.activity_logs"
            " where action = 'created' and resource_type <> 'organization_members'"
        )
        # The ids stay as pseudonyms.
        assert named.fetchone() == (4, 4)
        connection.execute("delete from public.organizations where id = %s", [ACME])
        left = connection.execute("select count(*) from public.activity_logs where organization_id = %s", [ACME])
        assert left.fetchone() == (0,)


def test_attack_write_usage_as_a_client(database: Database) -> None:
    usage = {"organization_id": ACME, "resource_type": "AI_TOKENS", "resource_name": "chat", "usage_amount": 1}
    with database.acting_as("owner") as cursor, refused("42501"):
        insert(cursor, "usage_tracking", **usage)
    with database.acting_as("owner", role="service_role") as cursor:
        assert insert(cursor, "usage_tracking", **usage)["billing_period"] == datetime.now(UTC).strftime("%Y-%m")
        cursor.execute("set local role authenticated")
        assert one(cursor, "select usage_amount from public.usage_tracking") == {"usage_amount": 1}


def test_ai_tools_are_written_by_platform_admins_and_logged(database: Database) -> None:
    tool = {"name": "Summariser", "tool_type": "text"}
    with database.acting_as("owner") as cursor, refused("42501"):
        insert(cursor, "ai_tools", **tool)
    with database.acting_as("platform_admin") as cursor:
        row = insert(cursor, "ai_tools", **tool, is_active=False)["id"]
        cursor.execute("set local role service_role")
        logged = one(cursor, "select admin_id from public.admin_action_logs where target_id = %s", str(row))
        assert logged["admin_id"] == PEOPLE["platform_admin"]


def test_attack_read_a_colleagues_conversation(database: Database) -> None:
    with database.acting_as("member", commit=True) as cursor:
        row = insert(cursor, "ai_conversations", organization_id=ACME, ai_model="m")
    assert row["user_id"] == PEOPLE["member"]
    for person in ("owner", "admin", "globex_owner", "platform_admin"):
        with database.acting_as(person, org=ACME) as cursor:
            assert cursor.execute("select * from public.ai_conversations").fetchall() == []
    with database.acting_as("member") as cursor, refused("42501"):
        cursor.execute("update public.ai_conversations set usage_tokens = 0")


# Plans ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["agent_templates", "tool_blueprints", "project_showcases", "content"])
def test_public_and_own_rows_are_one_ordered_index_scan(fresh_database: Database, table: str) -> None:
    """Also where public rows are rare; a gather-and-sort plan reads all that matches."""
    columns = {
        "agent_templates": "name, category, personality_config, model_config, tools_config, memory_config, is_public",
        "tool_blueprints": "name, category, components, connections, configuration, complexity, created_by_id,"
        " is_public",
        "project_showcases": "title, category, created_by_id, is_public",
        "content": "title, slug, published_at, status",
    }[table]
    author, rare = f"'{PEOPLE['owner']}'::uuid", "g % 500 = 0"
    values = {
        "agent_templates": f"'n', 'SALES', '{{}}', '{{}}', '{{}}', '{{}}', {rare}",
        "tool_blueprints": f"'n', 'API', '[]', '[]', '{{}}', 'SIMPLE', {author}, {rare}",
        "project_showcases": f"'n', 'WORKFLOW', {author}, {rare}",
        "content": f"'n', 's-' || g, now(), (array['DRAFT', 'PUBLISHED'])[({rare})::int + 1]::public.\"ContentStatus\"",
    }[table]
    text = "content" if table == "content" else "description"
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into public.organizations (name, slug) select 'Org', 'org-' || g from generate_series(1, 500) g"
        )
        connection.execute(f"alter table public.{table} disable trigger user")
        connection.execute(
            f"with o as (select id, row_number() over () - 1 as place from public.organizations)"
            f" insert into public.{table} (organization_id, {text}, created_at, {columns})"
            f" select o.id, repeat('x', 200), now() - g * interval '1 minute', {values}"
            f" from generate_series(1, 6000) g join o on o.place = g % 502"
        )
        connection.execute(f"analyze public.{table}")
    with fresh_database.acting_as("member") as cursor:
        explain = f"explain (format json) select * from public.{table} order by created_at desc limit 50"
        plan = one(cursor, explain)["QUERY PLAN"][0]["Plan"]
    nodes = [plan]
    for node in nodes:
        nodes += node.get("Plans", [])
    scans = [node for node in nodes if node.get("Relation Name") == table]
    assert [node["Index Name"] for node in scans] == [f"{table}_audience_idx"]
    assert not any(node["Node Type"] == "Sort" for node in nodes)
