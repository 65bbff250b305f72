"""Published and broadcast changes, and permissions of channels."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.rows import Cursor, add, change, remove, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row, claims_of


def test_the_channel_table_decides_what_is_published(database: Database) -> None:
    with database.connect() as connection:
        published = connection.execute(
            "select tablename from pg_publication_tables where pubname = 'supabase_realtime' and schemaname = 'public'"
        ).fetchall()
        listed = connection.execute("select table_name from private.broadcast_channels where is_published").fetchall()
    assert sorted(published) == sorted(listed)
    assert {("leads",), ("contacts",), ("deals",), ("appointments",), ("tasks",), ("notifications",)} <= set(published)


def test_every_published_table_has_row_level_security(database: Database) -> None:
    with database.connect() as connection:
        unguarded = connection.execute(
            "select p.tablename from pg_publication_tables p"
            " join pg_class c on c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass"
            " where p.pubname = 'supabase_realtime' and not c.relrowsecurity"
        )
        assert unguarded.fetchall() == []


def test_published_deletions_contain_the_id_only(database: Database) -> None:
    """Realtime cannot check policies for a deleted row and sends its replica identity to every subscriber."""
    with database.connect() as connection:
        published = connection.execute(
            "select puballtables, pubinsert, pubupdate, pubdelete from pg_publication"
            " where pubname = 'supabase_realtime'"
        )
        assert published.fetchall() == [(False, True, True, True)]
        identities = connection.execute(
            "select p.tablename, c.relreplident::text, p.rowfilter, array(select a.attname::text from pg_index i"
            " join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)"
            " where i.indrelid = c.oid and i.indisprimary)"
            " from pg_publication_tables p"
            " join pg_class c on c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass"
            " where p.pubname = 'supabase_realtime'"
        )
        assert {row[1:3] + tuple(row[3]) for row in identities} == {("d", None, "id")}


def test_channels_have_one_policy_to_listen_and_one_to_send(database: Database) -> None:
    with database.connect() as connection:
        policies = connection.execute(
            "select cmd, permissive, roles::text[] from pg_policies"
            " where schemaname = 'realtime' and tablename = 'messages' order by cmd"
        )
        assert policies.fetchall() == [
            ("INSERT", "PERMISSIVE", ["authenticated"]),
            ("SELECT", "PERMISSIVE", ["authenticated"]),
        ]
        guarded = connection.execute("select relrowsecurity from pg_class where oid = 'realtime.messages'::regclass")
        assert guarded.fetchone() == (True,)


@pytest.fixture(scope="module")
def channels(database: Database) -> Iterator[Database]:
    """Realtime checks the right to listen by selecting messages that it inserted itself."""
    with database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        yield database
        connection.execute("truncate realtime.messages")


def listens(database: Database, person: str | None, topic: str, org: UUID | None = None) -> bool:
    with database.acting_as(person, org=org) as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        visible = cursor.execute("select from realtime.messages where topic = 'probe'").rowcount
        assert visible in {0, 2}
        return bool(visible)


def sends(database: Database, person: str | None, topic: str, extension: str) -> bool:
    with database.acting_as(person) as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        try:
            cursor.execute("insert into realtime.messages (topic, extension) values (%s, %s)", [topic, extension])
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True


EVERYONE = [*PEOPLE, None]
OF_ACME = {"owner", "admin", "member", "viewer"}


def test_members_and_platform_admins_listen_to_an_organization(channels: Database) -> None:
    listening = {person for person in EVERYONE if listens(channels, person, f"org:{ACME}:tasks")}
    assert listening == OF_ACME | {"platform_admin", "super_admin"}


def test_members_broadcast_and_viewers_do_not(channels: Database) -> None:
    sending = {person for person in EVERYONE if sends(channels, person, f"org:{ACME}:tasks", "broadcast")}
    assert sending == OF_ACME - {"viewer"}


def test_presence_is_for_members_on_the_presence_channel(channels: Database) -> None:
    sending = {person for person in EVERYONE if sends(channels, person, f"org:{ACME}:presence", "presence")}
    assert sending == OF_ACME
    assert not sends(channels, "member", f"org:{ACME}:tasks", "presence")


def test_user_channel_is_private(channels: Database) -> None:
    topic = f"user:{PEOPLE['member']}:notifications"
    assert {person for person in EVERYONE if listens(channels, person, topic)} == {"member"}
    assert {person for person in EVERYONE if sends(channels, person, topic, "broadcast")} == {"member"}


def test_suspended_user_cannot_listen_to_their_own_channel(channels: Database) -> None:
    assert not listens(channels, "suspended", f"user:{PEOPLE['suspended']}:notifications")


def test_member_of_two_organizations_listens_to_both(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        connection.execute(
            "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, 'VIEWER')",
            [PEOPLE["member"], GLOBEX],
        )
    for org in (ACME, GLOBEX):
        assert listens(fresh_database, "member", f"org:{GLOBEX}:tasks", org=org)
    assert not sends(fresh_database, "member", f"org:{GLOBEX}:tasks", "broadcast")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "org",
        "org:",
        f"org:{ACME}",
        f"org:{ACME}:",
        f"ORG:{ACME}:tasks",
        f"org:{str(ACME).upper()}:tasks",
        f" org:{ACME}:tasks",
        f"org:{ACME}' or true:tasks",
        f"user:{ACME}:tasks",
        f"x\norg:{ACME}:tasks",
        "org:*:tasks",
        "org:00000000-0000-0000-0000-000000000000:tasks",
        f"realtime:org:{ACME}:tasks",
        "tasks",
    ],
)
def test_attack_malformed_topic(channels: Database, topic: str) -> None:
    assert not listens(channels, "member", topic)
    assert not sends(channels, "member", topic, "broadcast")
    assert not sends(channels, "member", topic, "presence")


@pytest.mark.parametrize("person", ["owner", "super_admin"])
def test_attack_change_or_delete_messages(channels: Database, person: str) -> None:
    for statement in ("update realtime.messages set topic = 'x'", "delete from realtime.messages"):
        with channels.acting_as(person) as cursor:
            cursor.execute("select set_config('realtime.topic', %s, true)", [f"org:{ACME}:tasks"])
            try:
                assert cursor.execute(statement).rowcount == 0
            except psycopg.errors.InsufficientPrivilege:
                continue


def test_attack_forged_claim_of_another_organization(channels: Database) -> None:
    """The membership that exists now decides, not the header or the token."""
    forged = {"sub": str(PEOPLE["globex_owner"]), "role": "authenticated", "app_metadata": {"org_id": str(ACME)}}
    for claims in (forged, forged | {"user_metadata": {"org_id": str(ACME)}, "org_id": str(ACME)}):
        with channels.acting_as("globex_owner", org=ACME, claims=claims) as cursor:
            cursor.execute("select set_config('realtime.topic', %s, true)", [f"org:{ACME}:tasks"])
            assert cursor.execute("select from realtime.messages").rowcount == 0


def test_attack_presence_on_a_foreign_channel(channels: Database) -> None:
    for topic in (f"user:{PEOPLE['admin']}:presence", f"org:{GLOBEX}:presence", f"org:{ACME}:presence:x"):
        assert not sends(channels, "member", topic, "presence")


def test_removed_member_loses_the_channels_at_once(fresh_database: Database) -> None:
    topic = f"org:{ACME}:tasks"
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        assert listens(fresh_database, "member", topic)
        connection.execute(
            "update public.organization_members set role = 'VIEWER' where user_id = %s", [PEOPLE["member"]]
        )
        assert listens(fresh_database, "member", topic)
        assert not sends(fresh_database, "member", topic, "broadcast")
        connection.execute("delete from public.organization_members where user_id = %s", [PEOPLE["member"]])
        assert not listens(fresh_database, "member", topic)
        assert not sends(fresh_database, "member", f"org:{ACME}:presence", "presence")


# Broadcasts ----------------------------------------------------------------------------------------------------------

Message = dict[str, Any]


def broadcasts(cursor: Cursor) -> list[tuple[str, Message]]:
    """The messages of this transaction without the id that Realtime adds; they are deleted."""
    rows = cursor.execute(
        "delete from realtime.messages where extension = 'broadcast' returning topic, payload - 'id' as payload"
    )
    return [(row["topic"], row["payload"]) for row in rows.fetchall()]


@pytest.fixture
def acme(database: Database) -> Iterator[Cursor]:
    with scene(database) as cursor:
        cursor.execute("grant delete on realtime.messages to postgres")
        yield cursor


def lead(cursor: Cursor, **columns: Any) -> Row:
    named = {"name": "Ada Byron", "email": "ada@example.test", "source": "WEBSITE"}
    return add(cursor, "leads", organization_id=ACME, **named | columns)


def test_a_change_broadcasts_ids_changed_columns_and_author(acme: Cursor) -> None:
    turn(acme, "member", ACME)
    row = lead(acme)
    change(acme, "leads", row, status="QUALIFIED")
    change(acme, "leads", row, status="QUALIFIED")  # changes nothing
    turn(acme, "admin", ACME)
    remove(acme, "leads", row)
    turn(acme, None)
    sent = [
        message for topic, message in broadcasts(acme) if topic == f"org:{ACME}:crm" and message["table"] == "leads"
    ]
    member, admin, ids = str(PEOPLE["member"]), str(PEOPLE["admin"]), [str(row["id"])]
    common = {"table": "leads", "ids": ids, "rows": 1}
    assert [message for message in sent if message["operation"] == "INSERT"] == [
        common | {"operation": "INSERT", "changed": None, "by": member}
    ]
    (updated,) = [message for message in sent if message["operation"] == "UPDATE"]
    assert updated == common | {"operation": "UPDATE", "changed": updated["changed"], "by": member}
    assert "status" in updated["changed"]
    assert [message["by"] for message in sent if message["operation"] == "DELETE"] == [admin]
    assert "Byron" not in str(sent)


def test_a_statement_of_many_rows_sends_one_bounded_message(acme: Cursor) -> None:
    broadcasts(acme)
    acme.execute(
        "insert into public.customers (organization_id, name) select %s, 'x' from generate_series(1, 250)", [ACME]
    )
    sent = [message for topic, message in broadcasts(acme) if topic == f"org:{ACME}:tasks"]
    assert [(message["rows"], len(message["ids"])) for message in sent] == [(250, 100)]


def test_an_update_of_many_rows_sends_one_message(acme: Cursor) -> None:
    ids = {str(lead(acme, name=name)["id"]) for name in ("Ada", "Bob", "Eve")}
    broadcasts(acme)
    acme.execute("update public.leads set notes = 'x', tags = tags where id::text = any (%s)", [list(ids)])
    acme.execute("update public.leads set notes = 'x' where false")
    ((topic, message),) = [one for one in broadcasts(acme) if one[1]["table"] == "leads"]
    assert (topic, set(message["ids"]), message["rows"]) == (f"org:{ACME}:crm", ids, 3)
    assert message["changed"] == ["notes"]


def test_a_write_succeeds_where_realtime_cannot_broadcast(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute("drop function realtime.send(jsonb, text, text, boolean) cascade")
    with scene(fresh_database) as cursor:
        turn(cursor, "member", ACME)
        assert lead(cursor)["id"]


def test_a_notification_goes_to_its_user_alone(acme: Cursor) -> None:
    broadcasts(acme)
    add(
        acme,
        "notifications",
        organization_id=ACME,
        user_id=PEOPLE["viewer"],
        type="INFO",
        title="Hello",
        message="World",
    )
    assert [topic for topic, _ in broadcasts(acme)] == [f"user:{PEOPLE['viewer']}:notifications"]


# Row visibility ------------------------------------------------------------------------------------------------------


def sees_change(connection: psycopg.Connection[Any], person: str, table: str, row: object) -> bool:
    """What Realtime executes for one changed row and one subscriber: no request headers, one prepared statement."""
    with connection.transaction(force_rollback=True):
        connection.execute(f"prepare walrus_rls_stmt as select exists(select 1 from {table} where id='{row}')")
        become_subscriber = (
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)"
        )
        connection.execute(become_subscriber, [json.dumps(claims_of(person))])
        (visible,) = connection.execute("execute walrus_rls_stmt").fetchone() or (False,)
        connection.execute("reset role")
        connection.execute("deallocate walrus_rls_stmt")
    return bool(visible)


def test_postgres_changes_follow_membership_in_any_organization(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        rows = {
            org: connection.execute(
                "insert into public.customers (organization_id, name) values (%s, 'x') returning id", [org]
            ).fetchone()
            for org in (ACME, GLOBEX)
        }
        connection.execute(
            "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, 'VIEWER')",
            [PEOPLE["member"], GLOBEX],
        )
    visible = {}
    with fresh_database.connect("supabase_admin") as connection:
        # Once a transaction has set the headers, they are '' in this session, not null.
        connection.execute("select set_config('request.headers', '{}', true)")
        for person in ("member", "viewer", "globex_member", "suspended", "removed", "outsider"):
            for org, row in rows.items():
                assert row
                visible[person, org] = [
                    sees_change(connection, person, name, row[0]) for name in ("customers", "public.customers")
                ]
    allowed = {key for key, seen in visible.items() if seen[1]}
    assert allowed == {("member", ACME), ("member", GLOBEX), ("viewer", ACME), ("globex_member", GLOBEX)}
