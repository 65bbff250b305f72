"""Which changes are announced, and who may join which channel."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from tests.support.world import ACME, GLOBEX, PEOPLE, Database

ANNOUNCED = {
    "activity_feeds",
    "build_logs",
    "custom_agent_orders",
    "customers",
    "notifications",
    "projects",
    "tasks",
}


def test_exactly_these_tables_announce_their_changes(database: Database) -> None:
    with database.connect() as connection:
        rows = connection.execute(
            "select schemaname || '.' || tablename from pg_publication_tables where pubname = 'supabase_realtime'"
        )
        assert {name for (name,) in rows} == {f"public.{table}" for table in ANNOUNCED}


def test_what_is_announced_is_shown_only_to_whom_policies_show_it(database: Database) -> None:
    with database.connect() as connection:
        unguarded = connection.execute(
            "select p.tablename from pg_publication_tables p"
            " join pg_class c on c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass"
            " where p.pubname = 'supabase_realtime' and not c.relrowsecurity"
        )
        assert unguarded.fetchall() == []


def test_every_change_of_them_is_announced_and_a_deletion_tells_no_more_than_the_id(database: Database) -> None:
    """Deletions pass no policy: nobody can be asked about a row that is gone. So they must say nothing."""
    with database.connect() as connection:
        published = connection.execute(
            "select puballtables, pubinsert, pubupdate, pubdelete from pg_publication"
            " where pubname = 'supabase_realtime'"
        )
        assert published.fetchall() == [(False, True, True, True)]
        told = connection.execute(
            "select p.tablename, c.relreplident::text, p.rowfilter, array(select a.attname::text from pg_index i"
            " join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)"
            " where i.indrelid = c.oid and i.indisprimary)"
            " from pg_publication_tables p"
            " join pg_class c on c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass"
            " where p.pubname = 'supabase_realtime'"
        )
        assert {row[1:3] + tuple(row[3]) for row in told} == {("d", None, "id")}


def test_channels_have_these_policies_and_no_others(database: Database) -> None:
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
    """What realtime does to find out what somebody may hear: it looks for messages it has put there itself."""
    with database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        yield database
        connection.execute("truncate realtime.messages")


def hears(database: Database, person: str | None, topic: str, org: UUID | None = None) -> bool:
    with database.acting_as(person, org=org) as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        heard = cursor.execute("select from realtime.messages").rowcount
        assert heard in {0, 2}
        return bool(heard)


def says(database: Database, person: str | None, topic: str, extension: str) -> bool:
    with database.acting_as(person) as cursor:
        cursor.execute("select set_config('realtime.topic', %s, true)", [topic])
        try:
            cursor.execute("insert into realtime.messages (topic, extension) values (%s, %s)", [topic, extension])
        except psycopg.errors.InsufficientPrivilege:
            return False
        return True


EVERYONE = [*PEOPLE, None]
OF_ACME = {"owner", "admin", "member", "viewer"}


def test_an_organisations_channel_is_heard_by_its_members_and_platform_admins(channels: Database) -> None:
    heard = {person for person in EVERYONE if hears(channels, person, f"org:{ACME}:tasks")}
    assert heard == OF_ACME | {"platform_admin", "super_admin"}


def test_members_broadcast_in_their_organisation(channels: Database) -> None:
    said = {person for person in EVERYONE if says(channels, person, f"org:{ACME}:tasks", "broadcast")}
    assert said == OF_ACME - {"viewer"}


def test_every_member_says_they_are_present_and_only_on_the_presence_channel(channels: Database) -> None:
    said = {person for person in EVERYONE if says(channels, person, f"org:{ACME}:presence", "presence")}
    assert said == OF_ACME
    assert not says(channels, "member", f"org:{ACME}:tasks", "presence")


def test_a_users_channel_is_theirs_alone(channels: Database) -> None:
    topic = f"user:{PEOPLE['member']}:notifications"
    assert {person for person in EVERYONE if hears(channels, person, topic)} == {"member"}
    assert {person for person in EVERYONE if says(channels, person, topic, "broadcast")} == {"member"}


def test_a_suspended_user_does_not_hear_even_their_own_channel(channels: Database) -> None:
    assert not hears(channels, "suspended", f"user:{PEOPLE['suspended']}:notifications")


def test_somebody_in_two_organisations_hears_both_whichever_the_request_names(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        connection.execute(
            "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, 'VIEWER')",
            [PEOPLE["member"], GLOBEX],
        )
    for org in (ACME, GLOBEX):
        assert hears(fresh_database, "member", f"org:{GLOBEX}:tasks", org=org)
    assert not says(fresh_database, "member", f"org:{GLOBEX}:tasks", "broadcast")


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
def test_attack_a_topic_that_is_none_of_ours(channels: Database, topic: str) -> None:
    assert not hears(channels, "member", topic)
    assert not says(channels, "member", topic, "broadcast")
    assert not says(channels, "member", topic, "presence")


@pytest.mark.parametrize("person", ["owner", "super_admin"])
def test_attack_rewrite_or_remove_what_was_said(channels: Database, person: str) -> None:
    for change in ("update realtime.messages set topic = 'x'", "delete from realtime.messages"):
        with channels.acting_as(person) as cursor:
            cursor.execute("select set_config('realtime.topic', %s, true)", [f"org:{ACME}:tasks"])
            try:
                assert cursor.execute(change).rowcount == 0
            except psycopg.errors.InsufficientPrivilege:
                continue


def test_attack_name_an_organisation_that_is_not_ones_own_beside_ones_own(channels: Database) -> None:
    """Neither what the request names nor what a token claims decides, but the membership there is now."""
    forged = {"sub": str(PEOPLE["globex_owner"]), "role": "authenticated", "app_metadata": {"org_id": str(ACME)}}
    for claims in (forged, forged | {"user_metadata": {"org_id": str(ACME)}, "org_id": str(ACME)}):
        with channels.acting_as("globex_owner", org=ACME, claims=claims) as cursor:
            cursor.execute("select set_config('realtime.topic', %s, true)", [f"org:{ACME}:tasks"])
            assert cursor.execute("select from realtime.messages").rowcount == 0


def test_attack_be_present_where_others_are_told_things(channels: Database) -> None:
    for topic in (f"user:{PEOPLE['admin']}:presence", f"org:{GLOBEX}:presence", f"org:{ACME}:presence:x"):
        assert not says(channels, "member", topic, "presence")


def test_who_leaves_hears_and_says_nothing_from_then_on(fresh_database: Database) -> None:
    topic = f"org:{ACME}:tasks"
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute(
            "insert into realtime.messages (topic, extension) values ('probe', 'broadcast'), ('probe', 'presence')"
        )
        assert hears(fresh_database, "member", topic)
        connection.execute(
            "update public.organization_members set role = 'VIEWER' where user_id = %s", [PEOPLE["member"]]
        )
        assert hears(fresh_database, "member", topic)
        assert not says(fresh_database, "member", topic, "broadcast")
        connection.execute("delete from public.organization_members where user_id = %s", [PEOPLE["member"]])
        assert not hears(fresh_database, "member", topic)
        assert not says(fresh_database, "member", f"org:{ACME}:presence", "presence")
